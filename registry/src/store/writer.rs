//! Writing one blob: hashed on the way, synced, renamed, its folder synced, in that order.
//!
//! Exactly one data sync and one folder sync for each blob. Nothing is visible before both.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{
    Advice, AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fadvise, fdatasync, fsync,
    futimens, openat, renameat, unlinkat,
};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::blobs::{Blobs, hash_file};
use crate::store::space::LOOK_EVERY;
use crate::store::step::Step;

const NOW: Timestamps = Timestamps {
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
            looked: LOOK_EVERY,
            name,
            keep: false,
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
        }
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
        let digest = self.digest(expected)?;
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(CommitError::Digest {
                expected: expected.clone(),
                actual: digest,
            });
        }
        self.publish(&digest)?;
        Ok((digest, self.written))
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

    fn publish(&self, digest: &Digest) -> io::Result<()> {
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
        steps.at(Step::Durable)
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
        if !self.keep {
            // After a commit the name is already gone; a name left by a failed unlink is swept at
            // the next open.
            let _ = unlinkat(self.blobs.uploads(), &self.name, AtFlags::empty());
        }
    }
}
