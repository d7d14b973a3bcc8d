//! Writing one blob: hashed on the way, then made durable and visible in one of two ways.
//!
//! [`BlobWriter::commit`] syncs the data, renames, and syncs the folder: durable when it returns, and
//! nothing is visible before. `BlobWriter::stage` is for a blob whose row is written at once: the
//! index's journal vouches for it, with the bytes of a small one and with the stand-in name of a
//! large one, whose data is synced; it gets its final name after the journal is synced.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{
    Advice, AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fadvise, fdatasync, fsync,
    futimens, linkat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::digest::{Algorithm, Digest, Hasher, digest_of};
use crate::store::blobs::{Blobs, TEMPORARY, hash_file, random_hex};
use crate::store::journal::Entry;
use crate::store::partials::digest_of_partial;
use crate::store::pool::stand_in;
use crate::store::space::LOOK_EVERY;
use crate::store::step::Step;

/// The journal takes blobs up to this size whole.
const SMALL: u64 = 64 << 10;

pub(super) const NOW: Timestamps = Timestamps {
    last_access: NOW_TIME,
    last_modification: NOW_TIME,
};
const NOW_TIME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: UTIME_NOW,
};

/// After so many bytes the kernel is asked to begin writing them, so that the sync at the end, for
/// which a client waits, finds little to do.
const WRITE_BACK: u64 = 8 * 1024 * 1024;

/// Why a blob did not become visible.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("content has digest {actual}, not {expected}")]
    Digest { expected: Digest, actual: Digest },
    #[error("blob cannot be stored")]
    Io(#[from] io::Error),
}

impl From<CommitError> for io::Error {
    /// A wrong digest is [`io::ErrorKind::InvalidData`].
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Io(error) => error,
            CommitError::Digest { .. } => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// An uncommitted blob; what is written is hashed on the way.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    file: File,
    hasher: Hasher,
    written: u64,
    /// So much of it was given to the kernel to be written.
    sent_back: u64,
    /// From so many bytes on the disk is looked at again.
    looked: u64,
    name: String,
    /// Whether the file outlives a drop: so for upload sessions.
    keep: bool,
    vouched: Vouched,
}

/// Who drops the file's stand-in.
#[derive(Debug)]
enum Vouched {
    /// This writer; its name follows from the file's.
    No,
    /// This writer, unless the journal is told of it.
    Ready(String),
    /// The journal.
    Told,
}

impl BlobWriter {
    /// Starts the empty file `name` in the folder of unfinished content.
    pub(super) fn begun(blobs: &Blobs, file: File, name: String, hasher: Hasher) -> Self {
        Self {
            blobs: blobs.clone(),
            file,
            hasher,
            written: 0,
            sent_back: 0,
            looked: 0,
            name,
            keep: false,
            vouched: Vouched::No,
        }
    }

    /// Goes on with the unfinished file `name`, which holds `written` hashed bytes.
    pub(super) fn resumed(
        blobs: &Blobs,
        file: File,
        name: String,
        (hasher, written): (Hasher, u64),
    ) -> Self {
        Self {
            blobs: blobs.clone(),
            file,
            hasher,
            written,
            sent_back: written,
            looked: written,
            name,
            keep: true,
            vouched: Vouched::No,
        }
    }

    /// From now on a drop removes the file, also of an upload session or download, with its stand-in.
    pub fn discard_on_drop(&mut self) {
        self.keep = false;
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The growing file for readers beside the writer. It stays readable when it gets its final
    /// name; one that is discarded is unlinked and goes with its last reader.
    pub fn reader(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let uploads = self.blobs.uploads();
        Ok(openat(uploads, &self.name, flags, Mode::empty())?.into())
    }

    /// Where a later resume can go on without hashing again.
    pub(crate) fn midstate(&self) -> (Hasher, u64) {
        (self.hasher.clone(), self.written)
    }

    /// Makes the blob durable and visible and answers its digest and size. With `expected`, any
    /// other content is an error and leaves nothing. Whatever the outcome, the unfinished file is
    /// gone afterwards.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), CommitError> {
        self.keep = false;
        let digest = self.checked(expected)?;
        self.publish(&digest)?;
        Ok((digest, self.written))
    }

    /// Readies the blob for the index's journal, which makes it durable with the rows that name it.
    /// Errors are those of [`BlobWriter::commit`].
    pub(crate) fn stage(mut self, expected: Option<&Digest>) -> Result<Staged, CommitError> {
        self.keep = false;
        let digest = self.checked(expected)?;
        self.blobs.steps().at(Step::Written)?;
        // A sweep counts its grace from the commit, not from the last byte that came.
        futimens(&self.file, &NOW).map_err(io::Error::from)?;
        let entry = if self.written <= SMALL {
            let mut bytes = vec![0; self.written as usize];
            self.file.read_exact_at(&mut bytes, 0)?;
            if !is(&digest, &bytes) {
                let changed = "content does not read back as it was written";
                return Err(io::Error::new(io::ErrorKind::InvalidData, changed).into());
            }
            Entry::Bytes {
                digest: digest.clone(),
                bytes,
            }
        } else {
            fdatasync(&self.file).map_err(io::Error::from)?;
            let name = self.durable_name()?;
            self.vouched = Vouched::Ready(name.clone());
            Entry::Named {
                digest: digest.clone(),
                name,
            }
        };
        self.blobs.steps().at(Step::Synced)?;
        Ok(Staged {
            writer: self,
            digest,
            entry: Some(entry),
        })
    }

    /// A name of this file whose entry is durable: the stand-in it began with, or a new one.
    fn durable_name(&self) -> io::Result<String> {
        let uploads = self.blobs.uploads();
        let own = self.stand_in();
        match statat(uploads, &own, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_ino == self.file.metadata()?.ino() => return Ok(own),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let new = stand_in(&random_hex()?);
        linkat(uploads, &self.name, uploads, &new, AtFlags::empty())?;
        fsync(uploads)?;
        Ok(new)
    }

    /// The stand-in that goes with this writer.
    fn held_name(&self) -> Option<String> {
        match &self.vouched {
            Vouched::No => Some(self.stand_in()),
            Vouched::Ready(name) => Some(name.clone()),
            Vouched::Told => None,
        }
    }

    fn stand_in(&self) -> String {
        stand_in(self.name.strip_prefix(TEMPORARY).unwrap_or(&self.name))
    }

    /// The digest, if it is the expected one.
    fn checked(&self, expected: Option<&Digest>) -> Result<Digest, CommitError> {
        let actual = self.digest(expected)?;
        match expected {
            Some(expected) if *expected != actual => Err(CommitError::Digest {
                expected: expected.clone(),
                actual,
            }),
            _ => Ok(actual),
        }
    }

    /// "Not needed" makes Linux begin to write a range that is dirty, and lets it go only where it is
    /// clean: here it never is. A refusal costs time and nothing else.
    fn begin_write_back(&mut self) {
        if self.written - self.sent_back >= WRITE_BACK {
            let length = std::num::NonZeroU64::new(self.written - self.sent_back);
            let _ = fadvise(&self.file, self.sent_back, length, Advice::DontNeed);
            self.sent_back = self.written;
        }
    }

    /// The digest in the algorithm that is asked for; another one than that hashed on the way costs
    /// a second reading.
    fn digest(&self, expected: Option<&Digest>) -> io::Result<Digest> {
        let wanted = expected.and_then(Algorithm::of);
        match wanted {
            Some(algorithm) if algorithm != self.hasher.algorithm() => {
                Ok(hash_file(&self.file, algorithm)?.0.finish())
            }
            _ => Ok(self.hasher.clone().finish()),
        }
    }

    pub(super) fn publish(&self, digest: &Digest) -> io::Result<()> {
        let steps = self.blobs.steps();
        steps.at(Step::Written)?;
        // A sweep counts its grace from the commit, not from the last byte that came.
        futimens(&self.file, &NOW)?;
        fdatasync(&self.file)?;
        steps.at(Step::Synced)?;
        // A collection that looked at an older file of this name must look again.
        let _guard = self.blobs.guards().shared(digest);
        let algorithm = Algorithm::of(digest).unwrap_or_default();
        let folder = self.blobs.folder(algorithm);
        {
            let _naming = self.blobs.naming();
            renameat(self.blobs.uploads(), &self.name, folder, digest.digest())?;
        }
        steps.at(Step::Renamed)?;
        fsync(folder)?;
        self.blobs.forget_partial(digest);
        steps.at(Step::Durable)
    }

    /// Whether the file stays for whoever goes on with it.
    fn stays(&self) -> bool {
        // The beginning of a blob that came another way is nobody's.
        let came = || {
            let digest = digest_of_partial(&self.name)?;
            self.blobs.stat(&digest).ok()?
        };
        self.keep && came().is_none()
    }

    /// Takes the file's names away, unless they mean another file by now: when a download got its
    /// final name, the next one of that digest may have its old one.
    fn unlink(&self) {
        let uploads = self.blobs.uploads();
        for name in [Some(self.name.clone()), self.held_name()]
            .into_iter()
            .flatten()
        {
            // A name left by a failed unlink is swept at the next open.
            if matches!(self.blobs.is_named(&self.file, &name), Ok(true)) {
                let _ = unlinkat(uploads, name, AtFlags::empty());
            }
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let steps = self.blobs.steps();
        steps.at(Step::Writing)?;
        if self.written >= self.looked {
            self.blobs.room()?;
            self.looked = self.written + LOOK_EVERY;
        }
        let most = steps.shorten(bytes.len())?;
        let count = self.file.write(bytes.get(..most).unwrap_or(bytes))?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.written += count as u64;
        self.begin_write_back();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.stays() {
            self.unlink();
        }
    }
}

fn is(digest: &Digest, bytes: &[u8]) -> bool {
    digest_of(Algorithm::of(digest).unwrap_or_default(), bytes) == *digest
}

/// A blob that is ready for the journal. Dropped unsealed it leaves nothing.
#[derive(Debug)]
pub(crate) struct Staged {
    writer: BlobWriter,
    digest: Digest,
    entry: Option<Entry>,
}

impl Staged {
    pub(crate) fn size(&self) -> u64 {
        self.writer.written
    }

    /// Bytes that it takes in a batch.
    pub(crate) fn weight(&self) -> usize {
        match &self.entry {
            Some(Entry::Bytes { bytes, .. }) => bytes.len(),
            _ => 0,
        }
    }

    /// What the journal has to know; once. From now on a stand-in is the journal's to drop, because
    /// a record that failed may stand all the same.
    pub(crate) fn take_entry(&mut self) -> Option<Entry> {
        if let Vouched::Ready(_) = self.writer.vouched {
            self.writer.vouched = Vouched::Told;
        }
        self.entry.take()
    }

    /// The batch is sealed: gives the blob its final name. After an error the journal must give it
    /// one, from what it knows.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        self.writer.keep = true;
        let writer = &self.writer;
        let folder = writer
            .blobs
            .folder(Algorithm::of(&self.digest).unwrap_or_default());
        let named = {
            let _naming = writer.blobs.naming();
            let uploads = writer.blobs.uploads();
            renameat(uploads, &writer.name, folder, self.digest.digest())
        };
        if let (true, Some(held)) = (named.is_ok(), writer.held_name()) {
            let _ = unlinkat(writer.blobs.uploads(), held, AtFlags::empty());
        }
        named?;
        self.writer.blobs.forget_partial(&self.digest);
        self.writer.blobs.steps().at(Step::Published)
    }
}
