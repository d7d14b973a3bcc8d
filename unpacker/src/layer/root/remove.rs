//! Removing a whole tree, however wide and deep it is, and whatever its own folders allow.
//!
//! One directory is open at a time, so neither the stack nor the descriptors of the process can run
//! out. Links are removed, never followed; the way up is checked to lead where the way down began.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, chmod, fchmod, fstat, openat};
use rustix::io::Errno;

use super::{list, remove_in};

/// A directory on the way down, of which only directories that have something in them are left.
struct Level {
    identity: (u64, u64),
    left: Vec<OsString>,
}

impl Level {
    /// Removes what it can of an open directory.
    fn thin(dir: &OwnedFd) -> io::Result<Self> {
        let mut left = Vec::new();
        let mut opened = false;
        for entry in list(dir.try_clone()?)? {
            let is_gone = match gone(dir.as_fd(), &entry.name) {
                // Its owner may say otherwise; root is never asked.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !opened => {
                    opened = true;
                    fchmod(dir, Mode::RWXU)?;
                    gone(dir.as_fd(), &entry.name)?
                }
                is_gone => is_gone?,
            };
            if !is_gone {
                left.push(entry.name);
            }
        }
        let identity = identity(dir)?;
        Ok(Self { identity, left })
    }
}

/// Removes `name` with everything below it.
pub(crate) fn remove_all_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    while !gone(dir, name)? {
        empty(open(dir, name)?)?;
    }
    Ok(())
}

/// Removes everything below a directory.
fn empty(top: OwnedFd) -> io::Result<()> {
    let mut levels = vec![Level::thin(&top)?];
    let mut at = top;
    while let Some(level) = levels.last_mut() {
        if let Some(next) = level.left.last() {
            if gone(at.as_fd(), next)? {
                level.left.pop();
                continue;
            }
            at = open(at.as_fd(), next)?;
            levels.push(Level::thin(&at)?);
            continue;
        }
        levels.pop();
        let Some(above) = levels.last() else {
            break;
        };
        at = open(at.as_fd(), OsStr::new(".."))?;
        if identity(&at)? != above.identity {
            return Err(io::Error::other("the tree was moved while it was removed"));
        }
    }
    Ok(())
}

/// Removes a file or an empty directory. Not gone is a directory that has something in it.
fn gone(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match remove_in(dir, name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags | OFlags::RDONLY, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let closed = openat(dir, name, flags | OFlags::PATH, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", closed.as_raw_fd());
            chmod(path, Mode::RWXU)?;
            Ok(openat(dir, name, flags | OFlags::RDONLY, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

fn identity(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
