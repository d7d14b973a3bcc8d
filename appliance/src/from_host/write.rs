//! The layer: a [`Tree`] as one gzip-compressed tar, streamed into a content store.
//!
//! Deterministic: entries are sorted, owners are 0:0, times are clamped, set-id bits are gone, and
//! the gzip header carries no time. Both digests are computed in the one pass. Nothing is stored
//! when writing fails, because an uncommitted blob is discarded.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};
use unpacker::content::Content;
use unpacker::digest::{DiffId, Digest, Hasher};
use unpacker::progress::{Cancel, Event, Phase, Progress};

use super::host::{Host, Meta};
use super::tree::{Node, Tree};

/// zlib's default: a host image is read far more often than it is made.
const LEVEL: u32 = 6;
/// RFC 1952: 255 says that the operating system is unknown, so equal input gives equal bytes.
const UNKNOWN_SYSTEM: u8 = 255;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    /// Bytes of the compressed blob.
    pub size: u64,
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub unpacked: u64,
}

/// Why the layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot put {} into the layer", path.display())]
    Entry { path: PathBuf, source: io::Error },
    #[error("cannot store the layer")]
    Store(#[source] io::Error),
    #[error(transparent)]
    Cancelled(#[from] unpacker::progress::Cancelled),
}

/// Times of entries: the host file's own, but never later than `latest` (reproducible-builds.org,
/// SOURCE_DATE_EPOCH). What is written by us has `latest` itself.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub latest: i64,
}

impl Clock {
    /// From SOURCE_DATE_EPOCH where it is given, otherwise from the newest file.
    pub fn new(source_date_epoch: Option<i64>, tree: &Tree) -> Self {
        let newest = tree.iter().filter_map(|(_, node)| match node {
            Node::HostFile(meta) => Some(meta.mtime),
            _ => None,
        });
        let latest = source_date_epoch.or_else(|| newest.max()).unwrap_or(0);
        Self {
            latest: latest.max(0),
        }
    }

    fn of(self, node: &Node) -> u64 {
        let time = match node {
            Node::HostFile(meta) => meta.mtime.min(self.latest),
            _ => self.latest,
        };
        u64::try_from(time).unwrap_or(0)
    }
}

/// Writes the layer and commits it.
pub fn write(
    host: &Host,
    tree: &Tree,
    clock: Clock,
    content: &dyn Content,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Layer, WriteError> {
    let blob = content.writer(None).map_err(WriteError::Store)?;
    let gzip = GzBuilder::new()
        .operating_system(UNKNOWN_SYSTEM)
        .write(blob, Compression::new(LEVEL));
    let mut archive = Archive {
        host,
        clock,
        tar: tar::Builder::new(Hashing {
            inner: gzip,
            hasher: Hasher::sha256(),
            written: 0,
        }),
        first_names: HashMap::new(),
    };
    let total = tree.iter().map(|(_, node)| size(node)).sum();
    let mut done = 0;
    for (path, node) in tree.iter() {
        cancel.check()?;
        archive
            .entry(path, node)
            .map_err(|source| WriteError::Entry {
                path: path.to_owned(),
                source,
            })?;
        done += size(node);
        progress.event(Event::Transfer {
            id: "host".to_owned(),
            phase: Phase::Pack,
            done,
            total: Some(total),
        });
    }
    let hashing = archive.tar.into_inner().map_err(WriteError::Store)?;
    let (diff, unpacked) = (hashing.hasher.finish(), hashing.written);
    let blob = hashing.inner.finish().map_err(WriteError::Store)?;
    let (digest, size) = blob.commit().map_err(WriteError::Store)?;
    progress.event(Event::Finished {
        id: "host".to_owned(),
        phase: Phase::Pack,
        note: None,
    });
    Ok(Layer {
        digest,
        size,
        diff_id: DiffId::new(diff),
        unpacked,
    })
}

fn size(node: &Node) -> u64 {
    match node {
        Node::HostFile(meta) => meta.size,
        Node::Text { bytes, .. } => bytes.len() as u64,
        Node::Directory { .. } | Node::Symlink { .. } => 0,
    }
}

/// The tar under way.
struct Archive<'a, W: Write> {
    host: &'a Host,
    clock: Clock,
    tar: tar::Builder<W>,
    /// Under which name each file with several names was written.
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Archive<'_, W> {
    fn entry(&mut self, path: &Path, node: &Node) -> io::Result<()> {
        let name = path.strip_prefix("/").map_err(io::Error::other)?;
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.clock.of(node));
        header.set_size(size(node));
        match node {
            Node::Directory { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                // tar(5): a folder's name ends in a slash.
                self.tar
                    .append_data(&mut header, name.join(""), io::empty())
            }
            Node::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                self.tar.append_link(&mut header, name, target)
            }
            Node::Text { bytes, mode } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(*mode);
                self.tar.append_data(&mut header, name, bytes.as_slice())
            }
            Node::HostFile(meta) => self.host_file(header, path, name, meta),
        }
    }

    fn host_file(
        &mut self,
        mut header: Header,
        path: &Path,
        name: &Path,
        meta: &Meta,
    ) -> io::Result<()> {
        header.set_mode(if meta.executable { 0o755 } else { 0o644 });
        if let Some(first) = self.first_names.get(&meta.id) {
            header.set_entry_type(EntryType::Link);
            header.set_size(0);
            let first = first.clone();
            return self.tar.append_link(&mut header, name, first);
        }
        header.set_entry_type(EntryType::Regular);
        let file = Exactly {
            file: self.host.open_file(path)?,
            left: meta.size,
        };
        self.tar.append_data(&mut header, name, file)?;
        self.first_names.insert(meta.id, name.to_owned());
        Ok(())
    }
}

/// A file that must have the size that its header promised.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            let text = "the file became shorter while it was read";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Hashes the tar on its way into the compressor.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
