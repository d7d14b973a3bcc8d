//! A file that is read again when it changed, while the registry serves.
//!
//! Looked at when used, at most once a second. A new file that cannot be used is told in the log
//! and the old content stays: a slip of the editor must not lock everybody out, or let them in.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

const PERIOD: Duration = Duration::from_secs(1);
/// A hundred thousand users fit.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is larger than {MAX_FILE} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("{}: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
}

/// Turns a file's bytes into its content; the path is for complaints.
pub(super) type Parse<T> = fn(&Path, &[u8]) -> Result<T, FileError>;

/// The content of a file, as of now or a second ago.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: Parse<T>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    content: Arc<T>,
    mark: Option<Mark>,
    /// The state that could not be read and was complained of.
    warned: Option<Option<Mark>>,
    looked: SystemTime,
}

/// What tells one state of a file from the next. The time of the inode's change counts too: it
/// cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

impl<T> Watched<T> {
    /// Reads the file for the first time; then a broken one is an error.
    pub(super) fn open(path: &Path, parse: Parse<T>, now: SystemTime) -> Result<Self, FileError> {
        let (content, mark) = read(path, parse)?;
        Ok(Self {
            path: path.to_owned(),
            parse,
            state: Mutex::new(State {
                content: Arc::new(content),
                mark: Some(mark),
                warned: None,
                looked: now,
            }),
        })
    }

    /// The content, as of the last look.
    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.lock().content)
    }

    /// Whether the last look is so old that [`Watched::look`] would do something.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        is_due(self.lock().looked, now)
    }

    /// Blocking: looks at the file if that is due. A `stat`, and a read after a change.
    pub(super) fn look(&self, now: SystemTime) {
        let mut state = self.lock();
        if is_due(state.looked, now) {
            state.looked = now;
            self.follow(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, state: &mut State<T>) {
        let mark = std::fs::metadata(&self.path)
            .ok()
            .map(|data| Mark::of(&data));
        if mark == state.mark {
            return;
        }
        match read(&self.path, self.parse) {
            Ok((content, mark)) => {
                state.content = Arc::new(content);
                state.mark = Some(mark);
                state.warned = None;
                tracing::info!(path = ?self.path, "read again");
            }
            Err(error) => {
                // One complaint for each state of the file.
                if state.warned != Some(mark) {
                    tracing::warn!(%error, "the changed file is not used; what it said before stays");
                    state.warned = Some(mark);
                }
                // One that could not be read is tried again: the reason may pass (no descriptor was
                // free) without changing the file.
                if !matches!(error, FileError::Read { .. }) {
                    state.mark = mark;
                }
            }
        }
    }
}

fn is_due(looked: SystemTime, now: SystemTime) -> bool {
    match now.duration_since(looked) {
        Ok(since) => since >= PERIOD,
        // The clock was set back.
        Err(_) => true,
    }
}

fn read<T>(path: &Path, parse: Parse<T>) -> Result<(T, Mark), FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mark = Mark::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let path = path.to_owned();
        return Err(FileError::TooLarge { path });
    }
    Ok((parse(path, &bytes)?, mark))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn number(path: &Path, bytes: &[u8]) -> Result<u32, FileError> {
        let text = String::from_utf8_lossy(bytes);
        text.trim().parse().map_err(|_| FileError::Content {
            path: path.to_owned(),
            reason: "no number".to_owned(),
        })
    }

    /// As [`number`], but the second reading meets a lack of descriptors.
    fn once_busy(path: &Path, bytes: &[u8]) -> Result<u32, FileError> {
        static READINGS: AtomicU32 = AtomicU32::new(0);
        if READINGS.fetch_add(1, Ordering::SeqCst) == 1 {
            return Err(FileError::Read {
                path: path.to_owned(),
                source: std::io::Error::from_raw_os_error(24),
            });
        }
        number(path, bytes)
    }

    #[test]
    fn what_could_not_be_read_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(&path, once_busy, at(0)).unwrap();
        std::fs::write(&path, "22").unwrap();
        watched.look(at(1));
        assert_eq!(*watched.get(), 1);
        watched.look(at(2));
        assert_eq!(*watched.get(), 22);
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn follows_changes_and_survives_broken_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        assert!(Watched::open(&path, number, at(0)).is_err());
        std::fs::write(&path, "1").unwrap();
        let watched = Watched::open(&path, number, at(0)).unwrap();
        let look = |seconds| {
            watched.look(at(seconds));
            *watched.get()
        };
        std::fs::write(&path, "22").unwrap();
        assert!(!watched.is_due(at(0)) && watched.is_due(at(1)));
        assert_eq!(look(0), 1, "looked at too early");
        assert_eq!(look(1), 22);
        std::fs::write(&path, "333x").unwrap();
        assert_eq!(look(2), 22);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(3), 22);
        // A new file of the same size in the old one's place, as editors write it.
        let other = folder.path().join("other");
        std::fs::write(&other, "44").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(look(4), 44);
        // A clock that was set back does not keep it from looking.
        std::fs::write(&path, "555").unwrap();
        assert_eq!(look(0), 555);
    }
}
