//! Reading everything again before somebody needs it.
//!
//! A scrub verifies each blob that a row names, in the order of digests, one at a time and without
//! a lock; damaged ones go to the quarantine folder. How far it is stands in `<content>/scrub.json`,
//! so that a restart, or the next call, goes on there. What is in the page cache is verified there:
//! a blob that is always in use is read from the disk only after it was not for a while.
//!
//! A blob that the disk gives an error for stays, because a cable may be loose. If it gives the same
//! in a later scrub, the file goes to the quarantine folder as well: while it has its name, clients
//! are told that the blob is here, do not push it, and cannot have it.
//!
//! Many damaged blobs at once are no blobs that rotted but a controller, a cable or a file system
//! that fails. Then a scrub ends early, so that it does not empty a store that may be whole.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::TryLockError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::index::{held, links};
use crate::store::reading::read_through;
use crate::store::{Store, StoreError, layout};

/// Digests that are looked up at once, and after which the place is written down.
const PAGE: usize = 128;
/// Bytes after which the place is written down in any case.
const MARK: u64 = 256 * 1024 * 1024;
/// Read at once; less where a second has no room for that.
const PIECE: u64 = 256 * 1024;

/// So many damaged blobs end a scrub.
pub const TOO_MANY: u64 = 64;

/// A blob that could not be read must fail again after so many seconds.
const AGAIN: u64 = 3600;
/// So many blobs that could not be read are remembered.
const REMEMBERED: usize = 1024;

/// How a scrub goes.
#[derive(Debug, Clone, Copy)]
pub struct ScrubOptions {
    /// Bytes per second at most; zero for as fast as possible.
    pub rate: u64,
    /// Begins with the first digest even where an earlier scrub is not finished.
    pub anew: bool,
    /// How it waits between two pieces.
    pub pause: fn(Duration),
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self {
            rate: 0,
            anew: false,
            pause: std::thread::sleep,
        }
    }
}

/// What a scrub did, and how far it is. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrub {
    pub started: u64,
    /// `None` while it is not at its end.
    pub finished: Option<u64>,
    /// Everything up to this digest is verified.
    pub last: Option<Digest>,
    /// Blobs that are whole, and their bytes.
    pub checked: u64,
    pub bytes: u64,
    /// Blobs that were damaged, and are absent since.
    pub quarantined: u64,
    /// Blobs that rows name and whose file is not here.
    pub missing: u64,
    /// Blobs that the disk did not give. They stay where they are for now: a cable may be loose.
    pub unreadable: u64,
    /// Which, and since when. Such a blob is quarantined if it cannot be read in a later scrub.
    pub failed: Vec<(Digest, u64)>,
    /// It ended early, because so many blobs were damaged ([`TOO_MANY`]).
    pub failing: bool,
    /// Blobs that rows name and of which there is only the damaged file, at its end.
    pub only_copies: u64,
}

/// Something that a scrub tells while it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen<'a> {
    /// So many more bytes of a blob were read.
    Read(u64),
    Whole(&'a Digest),
    Quarantined(&'a Digest),
    Missing(&'a Digest),
    Unreadable(&'a Digest),
}

/// Who is told how it goes; a break ends the scrub, to be gone on with later.
pub type Told<'a> = dyn FnMut(&Scrub, Seen<'_>) -> ControlFlow<()> + 'a;

/// Why there was no scrub.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    #[error("another scrub is going on")]
    Running,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for ScrubError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Store {
    /// The scrub that goes on, that was interrupted, or that finished last; `None` before the first.
    pub fn last_scrub(&self) -> Result<Option<Scrub>, StoreError> {
        match fs::read(self.scrub_file()) {
            // What does not parse is no place to go on from.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn scrub_file(&self) -> PathBuf {
        self.options.content.join("scrub.json")
    }

    /// Verifies every blob that a row names, from where the last scrub was interrupted, if it was.
    /// Answers what it did; `finished` is `None` where `told` broke it off.
    pub fn scrub(&self, options: &ScrubOptions, told: &mut Told<'_>) -> Result<Scrub, ScrubError> {
        let _alone = match self.scrubbing.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(ScrubError::Running),
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
        };
        let mut scrub = self.begin(options)?;
        self.keep(&scrub);
        let mut marked = scrub.bytes;
        loop {
            let last = scrub.last.clone();
            let page = self
                .index
                .read(|rows| held::after(rows, last.as_ref(), PAGE))
                .map_err(StoreError::from)?;
            if page.is_empty() {
                scrub.finished = Some(self.now());
                return self.end(scrub);
            }
            for digest in page {
                let gone_on = self.visit(&digest, &mut scrub, options, told)?;
                if scrub.quarantined >= TOO_MANY {
                    scrub.failing = true;
                    scrub.finished = Some(self.now());
                    tracing::error!(
                        quarantined = scrub.quarantined,
                        "the scrub ends early: so many damaged blobs mean that the disk, its controller or the file system fails; look at it before the next scrub"
                    );
                }
                if gone_on.is_break() || scrub.failing {
                    return self.end(scrub);
                }
                if scrub.bytes - marked >= MARK {
                    marked = scrub.bytes;
                    self.keep(&scrub);
                }
            }
            self.keep(&scrub);
        }
    }

    fn end(&self, mut scrub: Scrub) -> Result<Scrub, ScrubError> {
        scrub.only_copies = self.only_copies()?;
        self.keep(&scrub);
        Ok(scrub)
    }

    fn begin(&self, options: &ScrubOptions) -> Result<Scrub, StoreError> {
        let last = self.last_scrub()?.unwrap_or_else(|| Scrub {
            finished: Some(0),
            ..Scrub::default()
        });
        if last.finished.is_none() && !options.anew {
            return Ok(last);
        }
        Ok(Scrub {
            started: self.now(),
            failed: last.failed,
            ..Scrub::default()
        })
    }

    /// Writes down how far it is. A full disk must not end what only reads.
    fn keep(&self, scrub: &Scrub) {
        let path = self.scrub_file();
        let written = serde_json::to_vec(scrub)
            .map_err(io::Error::from)
            .and_then(|bytes| layout::replace(&path, &bytes));
        if let Err(error) = written {
            tracing::warn!(?error, ?path, "the scrub's place cannot be written");
        }
    }

    /// Verifies one blob and counts it. A break before its end leaves it to the next scrub.
    fn visit(
        &self,
        digest: &Digest,
        scrub: &mut Scrub,
        options: &ScrubOptions,
        told: &mut Told<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut read = 0;
        let found = self.examine(digest, options, &mut |bytes| {
            read += bytes;
            told(scrub, Seen::Read(bytes)).is_continue()
        })?;
        self.count(digest, found, read, scrub, told)
    }

    fn count(
        &self,
        digest: &Digest,
        found: Found,
        read: u64,
        scrub: &mut Scrub,
        told: &mut Told<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let found = match found {
            Found::Failed(file) if self.has_failed_again(digest, scrub) => {
                self.put_aside(digest, &file)?;
                Found::Damaged
            }
            Found::Failed(_) => Found::Unreadable,
            found => found,
        };
        if matches!(found, Found::Whole | Found::Damaged | Found::Absent) {
            scrub.failed.retain(|(failed, _)| failed != digest);
        }
        let seen = match found {
            Found::Stopped => return Ok(ControlFlow::Break(())),
            Found::Whole => {
                scrub.checked += 1;
                scrub.bytes += read;
                Seen::Whole(digest)
            }
            Found::Damaged => {
                scrub.quarantined += 1;
                Seen::Quarantined(digest)
            }
            Found::Unreadable | Found::Failed(_) => {
                scrub.unreadable += 1;
                Seen::Unreadable(digest)
            }
            // It may have gone with its rows since they were read.
            Found::Absent if !self.index.read(|rows| links::is_held(rows, digest))? => {
                scrub.last = Some(digest.clone());
                return Ok(ControlFlow::Continue(()));
            }
            Found::Absent => {
                scrub.missing += 1;
                Seen::Missing(digest)
            }
        };
        scrub.last = Some(digest.clone());
        Ok(told(scrub, seen))
    }

    fn examine(
        &self,
        digest: &Digest,
        options: &ScrubOptions,
        told: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Found, StoreError> {
        let opened = match self.blobs.get(digest) {
            // One bad inode must not end every scrub where it is.
            Err(error) if is_of_the_disk(&error) => {
                tracing::error!(%digest, ?error, "blob cannot be opened");
                return Ok(Found::Unreadable);
            }
            opened => opened?,
        };
        let (Some((file, _)), Some(algorithm)) = (opened, Algorithm::of(digest)) else {
            return Ok(Found::Absent);
        };
        let mut hasher = Hasher::new(algorithm);
        let whole = read_through(&file, options.piece(), &mut |bytes| {
            hasher.update(bytes);
            options.wait(bytes.len() as u64);
            told(bytes.len() as u64)
        });
        match whole {
            Ok(false) => Ok(Found::Stopped),
            Ok(true) if hasher.finish() == *digest => Ok(Found::Whole),
            // A second reading decides, and whether the file still is the one with this name.
            Ok(true) => match self.condemn(digest, &file) {
                Ok(true) => Ok(Found::Damaged),
                Ok(false) => Ok(Found::Whole),
                Err(StoreError::Content(error)) => Ok(unreadable(digest, file, &error)),
                Err(error) => Err(error),
            },
            Err(error) => Ok(unreadable(digest, file, &error)),
        }
    }

    /// The disk gave an error for it. Remembers since when it does so, and answers whether that is
    /// long enough to believe that it always will.
    fn has_failed_again(&self, digest: &Digest, scrub: &mut Scrub) -> bool {
        let now = self.now();
        if let Some((_, since)) = scrub.failed.iter_mut().find(|(known, _)| known == digest) {
            // A clock that was ahead once must not keep it for ever.
            *since = now.min(*since);
            return now - *since >= AGAIN;
        }
        if scrub.failed.len() < REMEMBERED {
            scrub.failed.push((digest.clone(), now));
        }
        false
    }
}

impl ScrubOptions {
    fn piece(&self) -> usize {
        let piece = match self.rate {
            0 => PIECE,
            rate => rate.min(PIECE),
        };
        usize::try_from(piece).unwrap_or(usize::MAX)
    }

    /// What was read counts as if reading took no time, so the rate is never exceeded.
    fn wait(&self, bytes: u64) {
        if self.rate > 0 {
            (self.pause)(Duration::from_secs(1).mul_f64(bytes as f64 / self.rate as f64));
        }
    }
}

/// What became of one blob.
enum Found {
    Whole,
    Damaged,
    Absent,
    Unreadable,
    /// The disk gave an error for this file.
    Failed(File),
    Stopped,
}

fn unreadable(digest: &Digest, file: File, error: &io::Error) -> Found {
    tracing::error!(%digest, ?error, "blob cannot be read");
    match is_of_the_disk(error) {
        true => Found::Failed(file),
        false => Found::Unreadable,
    }
}

/// Whether the device, or the file system's own checksum, failed; anything else, such as too little
/// memory, says nothing about the blob.
fn is_of_the_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::Options;

    #[test]
    fn only_errors_of_the_disk_condemn() {
        let kind = |code| is_of_the_disk(&io::Error::from_raw_os_error(code));
        let of = |errno: rustix::io::Errno| kind(errno.raw_os_error());
        assert!(of(rustix::io::Errno::IO) && of(rustix::io::Errno::BADMSG));
        assert!(!of(rustix::io::Errno::NOMEM) && !of(rustix::io::Errno::INTR));
        assert!(!is_of_the_disk(&io::Error::other("two readings differ")));
    }

    #[test]
    fn a_blob_that_cannot_be_read_twice_is_put_aside() {
        static NOW: AtomicU64 = AtomicU64::new(10_000);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options {
            clock: || {
                let seconds = Duration::from_secs(NOW.load(Ordering::SeqCst));
                std::time::UNIX_EPOCH + seconds
            },
            ..Options::below(folder.path())
        });
        let store = store.unwrap();
        let digest = store.blobs.put(b"x", Algorithm::Sha256).unwrap();
        assert!(store.link("a", &digest).unwrap());
        let told = &mut |_: &Scrub, _: Seen<'_>| ControlFlow::Continue(());
        let fail = |scrub: &mut Scrub| {
            let (file, _) = store.blobs.get(&digest).unwrap().unwrap();
            let error = rustix::io::Errno::IO.into();
            let found = unreadable(&digest, file, &error);
            let (before, told) = (scrub.clone(), &mut |_: &Scrub, _: Seen<'_>| {
                ControlFlow::Continue(())
            });
            assert!(
                store
                    .count(&digest, found, 0, scrub, told)
                    .unwrap()
                    .is_continue()
            );
            (scrub.unreadable - before.unreadable, scrub.quarantined)
        };
        let mut scrub = Scrub::default();
        assert_eq!(fail(&mut scrub), (1, 0));
        NOW.fetch_add(AGAIN - 1, Ordering::SeqCst);
        assert_eq!(fail(&mut scrub), (1, 0), "a moment later says nothing");
        // Once readable in between, it begins anew; and the next scrub knows what this one saw.
        let options = ScrubOptions::default();
        let visited = store.visit(&digest, &mut scrub, &options, told);
        assert!(visited.unwrap().is_continue());
        assert_eq!((scrub.checked, scrub.failed.len()), (1, 0));
        assert_eq!(fail(&mut scrub), (1, 0));
        scrub.finished = Some(1);
        store.keep(&scrub);
        let mut next = store.begin(&options).unwrap();
        NOW.fetch_add(AGAIN, Ordering::SeqCst);
        assert_eq!(fail(&mut next), (0, 1));
        assert_eq!(next.failed, []);
        assert!(store.blobs.get(&digest).unwrap().is_none());
        assert_eq!(store.only_copies().unwrap(), 1);
    }
}
