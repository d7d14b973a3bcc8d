//! One daemon per data folder, held by a file lock that the kernel drops however the daemon ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};

/// Held while the daemon lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock, or says who has it.
pub fn acquire(folder: &DataFolder) -> Outcome<Lock> {
    let mut file = open(folder)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(taken(folder, &mut file)),
        Err(error) => return Err(failed(folder, &error.into())),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(|error| failed(folder, &error))?;
    Ok(Lock { _file: file })
}

/// Whether a daemon holds the lock now.
pub fn is_held(folder: &DataFolder) -> bool {
    let Ok(file) = File::open(folder.lock()) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
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
        let second = acquire(&folder).unwrap_err();
        assert_eq!(second.kind, Kind::Conflict);
        assert!(
            second.message.contains(&std::process::id().to_string()),
            "{second}"
        );
        drop(lock);
        acquire(&folder).unwrap();
    }
}
