//! Owner, mode, times and extended attributes of what is below a [`Root`].
//!
//! The last component is never followed. The kernel's calls for modes and extended attributes
//! follow links or want an open file, so both go through `/proc/self/fd`, which leads to the
//! directory already resolved and nowhere else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    futimens, lgetxattr, llistxattr, lremovexattr, lsetxattr, openat, utimensat,
};
use rustix::io::Errno;

use super::metadata::{Owner, Timestamp};
use super::{Root, invalid};

/// The kernel's own limit of a value (`XATTR_SIZE_MAX`) and of a list (`XATTR_LIST_MAX`).
const MAX_XATTR: usize = 64 * 1024;

impl Root {
    /// Changes the owner of `path` itself. Setuid, setgid and file capabilities are lost, so the
    /// mode and the extended attributes come after it.
    pub fn set_owner(&self, path: &Path, owner: Owner) -> io::Result<()> {
        let place = self.place(path)?;
        owner_in(place.dir.as_fd(), &place.name, owner)
    }

    /// Sets the permission bits (`07777`). A symbolic link has none: that is an error.
    pub fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let place = self.place(path)?;
        mode_in(place.dir.as_fd(), &place.name, mode)
    }

    /// Sets the time of the last change, and with it that of the last access.
    pub fn set_mtime(&self, path: &Path, mtime: Timestamp) -> io::Result<()> {
        let place = self.place(path)?;
        mtime_in(place.dir.as_fd(), &place.name, mtime)
    }

    pub fn set_xattr(&self, path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
        let place = self.place(path)?;
        set_xattr_in(place.dir.as_fd(), &place.name, name, value)
    }

    /// The value of an extended attribute; `None` where it is not set or not supported.
    pub fn xattr(&self, path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let place = self.place(path)?;
        xattr_in(place.dir.as_fd(), &place.name, name)
    }

    pub fn remove_xattr(&self, path: &Path, name: &OsStr) -> io::Result<()> {
        let place = self.place(path)?;
        remove_xattr_in(place.dir.as_fd(), &place.name, name)
    }

    /// The names of the extended attributes, sorted; none where they are not supported.
    pub fn list_xattrs(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let place = self.place(path)?;
        list_xattrs_in(place.dir.as_fd(), &place.name)
    }

    /// All extended attributes with their values, sorted by name.
    pub fn xattrs(&self, path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
        let place = self.place(path)?;
        xattrs_in(place.dir.as_fd(), &place.name)
    }
}

/// Sets the time of an open file's last change, and with it that of its last access.
pub fn set_mtime_of(file: impl AsFd, mtime: Timestamp) -> io::Result<()> {
    Ok(futimens(file, &times_of(mtime))?)
}

pub(crate) fn owner_in(dir: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
    let (uid, gid) = ids(owner)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(dir, name, Some(uid), Some(gid), flags)?)
}

/// The ids for the kernel. The highest one means "leave it as it is" there, and is nobody's id.
pub(crate) fn ids(owner: Owner) -> io::Result<(Uid, Gid)> {
    if owner.uid == u32::MAX || owner.gid == u32::MAX {
        return Err(invalid("4294967295 is not a user or group id"));
    }
    Ok((Uid::from_raw(owner.uid), Gid::from_raw(owner.gid)))
}

pub(crate) fn mode_in(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty())?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind == rustix::fs::FileType::Symlink {
        return Err(invalid("a symbolic link has no mode"));
    }
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(chmodat(CWD, link, mode, AtFlags::empty())?)
}

pub(crate) fn times_of(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(crate) fn mtime_in(dir: BorrowedFd<'_>, name: &OsStr, mtime: Timestamp) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(utimensat(dir, name, &times_of(mtime), flags)?)
}

pub(crate) fn set_xattr_in(
    dir: BorrowedFd<'_>,
    file: &OsStr,
    name: &OsStr,
    value: &[u8],
) -> io::Result<()> {
    let through = through_proc(dir, file);
    Ok(lsetxattr(through, name, value, XattrFlags::empty())?)
}

pub(crate) fn xattr_in(
    dir: BorrowedFd<'_>,
    file: &OsStr,
    name: &OsStr,
) -> io::Result<Option<Vec<u8>>> {
    let through = through_proc(dir, file);
    let mut small = [0_u8; 256];
    let mut value = match lgetxattr(&through, name, &mut small[..]) {
        Ok(length) => return Ok(Some(small[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => vec![0; MAX_XATTR],
        Err(error) => return Err(error.into()),
    };
    let length = lgetxattr(&through, name, &mut value[..])?;
    value.truncate(length);
    Ok(Some(value))
}

pub(crate) fn remove_xattr_in(dir: BorrowedFd<'_>, file: &OsStr, name: &OsStr) -> io::Result<()> {
    Ok(lremovexattr(through_proc(dir, file), name)?)
}

pub(crate) fn list_xattrs_in(dir: BorrowedFd<'_>, file: &OsStr) -> io::Result<Vec<OsString>> {
    let through = through_proc(dir, file);
    let mut small = [0_u8; 512];
    let mut names = match llistxattr(&through, &mut small[..]) {
        Ok(length) => split(&small[..length]),
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; MAX_XATTR];
            let length = llistxattr(&through, &mut large[..])?;
            split(&large[..length])
        }
        Err(error) => return Err(error.into()),
    };
    names.sort();
    Ok(names)
}

pub(crate) fn xattrs_in(dir: BorrowedFd<'_>, file: &OsStr) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in list_xattrs_in(dir, file)? {
        if let Some(value) = xattr_in(dir, file, &name)? {
            found.push((name, value));
        }
    }
    Ok(found)
}

fn split(names: &[u8]) -> Vec<OsString> {
    names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect()
}

/// A path to one component of an open directory, for calls that have no `*at` form.
fn through_proc(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    PathBuf::from(OsString::from_vec(path))
}
