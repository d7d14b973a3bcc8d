//! Where blobs are: the contract between this crate and whoever keeps the bytes.

use std::fs::File;
use std::io::{self, Write};

use crate::digest::Digest;

/// A blob at rest.
#[derive(Debug)]
pub struct Blob {
    /// Open for reading, at offset 0. The file may be unlinked while it is read; it never changes.
    pub file: File,
    /// Bytes.
    pub size: u64,
}

/// A content-addressed store.
///
/// A blob that `open` answers is whole: it was verified when it was committed. Calls may come from
/// several threads; two writers of one digest both succeed.
pub trait Content: Send + Sync {
    /// The blob, or `None` where the store does not have it.
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>>;

    /// Starts a blob whose digest need not be known yet. Dropping the writer discards it.
    /// `expected` chooses the hash algorithm and is what `commit` will insist on.
    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>>;
}

/// An uncommitted blob. What is written is hashed on the way.
pub trait ContentWriter: Write + Send {
    /// Makes the blob durable (file and folder are synced) and visible, and answers its digest and
    /// size. An error of kind `InvalidData` says that the digest is not the expected one; nothing
    /// is visible then.
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)>;
}

impl dyn Content + '_ {
    /// Reads a whole small blob. More than `limit` bytes is an error of kind `InvalidData`.
    pub fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
        use io::Read;
        let Some(blob) = self.open(digest)? else {
            return Ok(None);
        };
        if blob.size > limit {
            let text = format!("{digest} has {} bytes, more than {limit}", blob.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = Vec::new();
        blob.file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Stores bytes that are already in memory.
    pub fn put(&self, bytes: &[u8]) -> io::Result<(Digest, u64)> {
        let mut writer = self.writer(None)?;
        writer.write_all(bytes)?;
        writer.commit()
    }
}
