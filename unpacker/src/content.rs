//! Where blobs are: the contract between this crate and whoever keeps the bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};

use crate::digest::Digest;

/// A blob at rest.
#[derive(Debug)]
pub struct Blob {
    /// Open for reading, at offset 0. The file may be unlinked while it is read; it never changes.
    pub file: File,
    /// Bytes.
    pub size: u64,
}

/// A blob for one reading from its first byte to its last.
pub struct Stream {
    pub reader: Box<dyn Read + Send>,
    /// Whether the reader itself ends with an error where the bytes were not the digest's, so that
    /// nobody need hash them again. So it is with a blob that is checked while it arrives.
    pub vouched: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("vouched", &self.vouched)
            .finish_non_exhaustive()
    }
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

    /// The blob for one reading, or `None` where the store does not have it. A store whose blobs may
    /// still be arriving answers one that waits for them.
    fn stream(&self, digest: &Digest) -> io::Result<Option<Stream>> {
        let found = self.open(digest)?;
        Ok(found.map(|blob| Stream {
            reader: Box::new(blob.file),
            vouched: false,
        }))
    }

    /// As `writer`, going on where an earlier one of that digest stopped, also after a killed
    /// process; dropping it keeps what it has. The number tells how many bytes are there already. A
    /// store that keeps nothing unfinished begins anew.
    fn resume(&self, expected: &Digest) -> io::Result<(Box<dyn ContentWriter>, u64)> {
        Ok((self.writer(Some(expected))?, 0))
    }

    /// Bytes that `resume` would find there.
    fn unfinished(&self, _digest: &Digest) -> io::Result<u64> {
        Ok(0)
    }

    /// Bytes that may still be stored; `None` where nobody knows.
    fn free(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// An uncommitted blob. What is written is hashed on the way.
pub trait ContentWriter: Write + Send {
    /// Makes the blob durable (file and folder are synced) and visible, and answers its digest and
    /// size. An error of kind `InvalidData` says that the digest is not the expected one; nothing
    /// is visible then.
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)>;

    /// The growing file, for readers beside the writer; it stays readable when it is committed or
    /// discarded. `None` where the store cannot show it.
    fn reader(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// Gives up what has come, also what an earlier writer brought.
    fn discard(self: Box<Self>) {}
}

impl dyn Content + '_ {
    /// Reads a whole small blob. More than `limit` bytes is an error of kind `InvalidData`.
    pub fn read(&self, digest: &Digest, limit: u64) -> io::Result<Option<Vec<u8>>> {
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
