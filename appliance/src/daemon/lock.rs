//! One daemon per data folder, held by a file lock that the kernel drops however the daemon ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};

/// Who only asks whether the lock is held has it for a moment ([`is_held`]); that is waited for.
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(5);

/// Held while the daemon lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock, or says who has it.
pub fn acquire(folder: &DataFolder) -> Outcome<Lock> {
    match try_acquire(folder)? {
        Some(lock) => Ok(lock),
        None => Err(taken(folder, &mut open(folder)?)),
    }
}

/// Takes the lock; `None` when another daemon has it.
pub fn try_acquire(folder: &DataFolder) -> Outcome<Option<Lock>> {
    let mut file = open(folder)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(failed(folder, &error.into())),
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|error| failed(folder, &error))?;
    Ok(Some(Lock { _file: file }))
}

/// Whether a daemon holds the lock now.
pub fn is_held(folder: &DataFolder) -> bool {
    let Ok(file) = File::open(folder.lock()) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// The process that holds the lock now.
pub fn holder(folder: &DataFolder) -> Option<u32> {
    let number = std::fs::read_to_string(folder.lock()).ok()?.parse().ok();
    number.filter(|_| is_held(folder))
}

fn open(folder: &DataFolder) -> Outcome<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.lock())
        .map_err(|error| failed(folder, &error))
}

fn taken(folder: &DataFolder, file: &mut File) -> Failure {
    let mut pid = String::new();
    // The number is for the message only.
    let _ = file.take(20).read_to_string(&mut pid);
    let who = if pid.is_empty() {
        String::new()
    } else {
        format!(" (pid {pid})")
    };
    Failure::conflict(format!(
        "another devpod daemon{who} already serves {}",
        folder.root().display()
    ))
    .hint(
        "Use it as it is, stop it with `devpod daemon stop`, or choose another folder with --data.",
    )
}

fn failed(folder: &DataFolder, error: &std::io::Error) -> Failure {
    let message = format!("cannot lock the data folder {}", folder.root().display());
    Failure::because(Kind::Internal, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().to_owned());
        assert!(!is_held(&folder));
        let lock = acquire(&folder).unwrap();
        assert!(is_held(&folder));
        assert_eq!(holder(&folder), Some(std::process::id()));
        let second = acquire(&folder).unwrap_err();
        assert_eq!(second.kind, Kind::Conflict);
        assert!(
            second.message.contains(&std::process::id().to_string()),
            "{second}"
        );
        drop(lock);
        assert_eq!(holder(&folder), None);
        acquire(&folder).unwrap();
    }

    #[test]
    fn asking_does_not_keep_a_daemon_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().to_owned());
        drop(acquire(&folder).unwrap());
        let asking = File::open(folder.lock()).unwrap();
        flock(&asking, FlockOperation::LockShared).unwrap();
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| acquire(&folder).is_ok());
            std::thread::sleep(Duration::from_millis(30));
            drop(asking);
            assert!(starting.join().unwrap());
        });
    }
}
