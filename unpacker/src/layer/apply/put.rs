//! Files, directories and nodes: created, filled, and given their attributes.
//!
//! The order is the kernel's: data, owner (which takes setuid and capabilities away), extended
//! attributes, mode, time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::holes::runs;
use super::{ApplyError, Layer, creating};
use crate::layer::Ownership;
use crate::layer::archive::Archive;
use crate::layer::entry::{Attributes, Node};
use crate::layer::ownership::{OVERRIDE_STAT, recorded};
use crate::layer::root::attributes::{
    ids, list_xattrs_in, mode_in, mtime_in, remove_xattr_in, set_xattr_in, times_of,
};
use crate::layer::root::metadata::{DeviceNumber, Kind};
use crate::layer::root::{create_as, node_in, stat_in};
use crate::layer::tree::{Deferred, Folder, TreeError};
use crate::layer::xattrs::{ACL_ACCESS, ACL_DEFAULT};
use crate::progress::Event;

/// Files from this size on are searched for holes.
const SPARSE_FROM: u64 = 1 << 20;

impl Layer<'_> {
    pub(super) fn put(
        &mut self,
        path: &Path,
        node: &Node,
        attributes: &Attributes,
        archive: &mut Archive<'_>,
    ) -> Result<(), ApplyError> {
        if path.as_os_str().is_empty() {
            let root = self.tree.folder(path);
            let root = root.map_err(|source| creating(Path::new("/"), source))?;
            self.describes_root = true;
            return self.dress_folder(&root, OsStr::new("."), Path::new(""), attributes);
        }
        let place = self.tree.place(path);
        let (folder, name) = place.map_err(|source| creating(path, source))?;
        let canonical = folder.path.join(&name);
        self.touch(&canonical)
            .map_err(|error| creating(path, error))?;
        match node {
            Node::Directory => {
                self.make_folder(&folder, &name)
                    .map_err(|source| creating(path, source))?;
                self.dress_folder(&folder, &name, &canonical, attributes)
            }
            Node::File { size } => {
                let mode = self.ownership.real_mode(Kind::File, attributes.mode);
                let file = self.retry(&folder, &name, |dir, name| create_as(dir, name, mode));
                let mut file = file.map_err(|source| creating(path, source))?;
                self.fill(&mut file, *size, path, archive)?;
                self.dress_file(&file, path, attributes)
            }
            Node::Symlink { target } => {
                self.retry(&folder, &name, |dir, name| {
                    Ok(rustix::fs::symlinkat(target, dir, name)?)
                })
                .map_err(|source| creating(path, source))?;
                self.dress(&folder, &name, path, Kind::Symlink, attributes)
            }
            Node::Fifo => {
                let none = DeviceNumber::default();
                self.retry(&folder, &name, |dir, name| {
                    node_in(dir, name, Kind::Fifo, none)
                })
                .map_err(|source| creating(path, source))?;
                self.dress(&folder, &name, path, Kind::Fifo, attributes)
            }
            Node::Device { kind, number } => {
                if !harmless(*kind, *number) {
                    let (major, minor) = (number.major, number.minor);
                    let why = format!("images do not reach device {major}:{minor} of the machine");
                    return self.leave_out(&folder, &name, path, &why);
                }
                let made = self.retry(&folder, &name, |dir, name| {
                    node_in(dir, name, *kind, *number)
                });
                match made {
                    Ok(()) => self.dress(&folder, &name, path, *kind, attributes),
                    // No user namespace but the first may make one.
                    Err(TreeError::Io(error))
                        if error.kind() == io::ErrorKind::PermissionDenied =>
                    {
                        self.leave_out(&folder, &name, path, "no permission")
                    }
                    Err(error) => Err(creating(path, error)),
                }
            }
        }
    }

    /// Makes no device node. What it replaces goes all the same.
    fn leave_out(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        why: &str,
    ) -> Result<(), ApplyError> {
        let cleared = self.clear(folder, name).and_then(|()| match self.flat {
            true => Ok(()),
            false => self.tree.hide(&folder.path.join(name)),
        });
        cleared.map_err(|error| creating(path, error))?;
        // Every container gets a /dev of its own, so nobody misses what an image has there.
        if !path.starts_with("dev") {
            self.warn(&format!("device node {path:?} is left out: {why}"));
        }
        Ok(())
    }

    /// Creates something; whatever has the name already makes room.
    fn retry<T>(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        create: impl Fn(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> Result<T, TreeError> {
        match create(folder.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(folder, name)?;
                Ok(create(folder.as_fd(), name)?)
            }
            other => Ok(other?),
        }
    }

    fn make_folder(&mut self, folder: &Folder, name: &OsStr) -> Result<(), TreeError> {
        let mode = Mode::RWXU;
        match rustix::fs::mkdirat(folder, name, mode) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
        if !stat_in(folder.as_fd(), name)?.is_dir() {
            self.clear(folder, name)?;
            return Ok(rustix::fs::mkdirat(folder, name, mode)?);
        }
        mode_in(folder.as_fd(), name, 0o700)?;
        // The attributes of the earlier directory do not shine through.
        for old in list_xattrs_in(folder.as_fd(), name)? {
            let bytes = old.as_encoded_bytes();
            if bytes.starts_with(b"user.") || bytes.starts_with(b"system.posix_acl") {
                remove_xattr_in(folder.as_fd(), name, &old)?;
            }
        }
        Ok(())
    }

    /// Owner and extended attributes now; mode, time and the list that everything created here would
    /// get at the end.
    fn dress_folder(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        canonical: &Path,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        self.own(folder, name, canonical, Kind::Directory, attributes)?;
        self.set_xattrs(canonical, attributes, |key, value| {
            match key == ACL_DEFAULT {
                true => Ok(()),
                false => set_xattr_in(folder.as_fd(), name, key, value),
            }
        })?;
        let list = attributes.xattrs.iter().find(|(key, _)| key == ACL_DEFAULT);
        self.tree
            .defer_list(canonical, list.map(|(_, value)| value.clone()))
            .map_err(|error| creating(canonical, error))?;
        let (mode, mtime) = (attributes.mode, attributes.mtime);
        self.tree.describe(canonical);
        self.tree
            .defer(canonical, Deferred { mode, mtime })
            .map_err(|error| creating(canonical, error))
    }

    fn dress(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        kind: Kind,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let fail = |source: io::Error| creating(path, source);
        self.own(folder, name, path, kind, attributes)?;
        self.set_xattrs(path, attributes, |key, value| {
            set_xattr_in(folder.as_fd(), name, key, value)
        })?;
        if kind != Kind::Symlink {
            let mode = self.ownership.real_mode(kind, attributes.mode);
            mode_in(folder.as_fd(), name, mode).map_err(fail)?;
        }
        mtime_in(folder.as_fd(), name, attributes.mtime).map_err(fail)
    }

    fn own(
        &self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        kind: Kind,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let (owner, mode) = (attributes.owner, attributes.mode);
        let done = (self.ownership).own_in(folder.as_fd(), name, kind, owner, mode);
        done.map_err(|source| owning(path, attributes, source))
    }

    /// As `dress`, through the open file: that saves resolving the name again and again. What the
    /// file has already is not set once more, because every change of an inode costs a journal entry.
    fn dress_file(
        &mut self,
        file: &File,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let flags = rustix::fs::XattrFlags::empty();
        let fail = |error: Errno| creating(path, error);
        let found = rustix::fs::fstat(file).map_err(fail)?;
        let owner = attributes.owner;
        let owned = match self.ownership {
            Ownership::Mapped if (found.st_uid, found.st_gid) == (owner.uid, owner.gid) => Ok(()),
            Ownership::Mapped => ids(owner)
                .and_then(|(uid, gid)| Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)),
            Ownership::Recorded => {
                let value = recorded(owner, attributes.mode);
                rustix::fs::fsetxattr(file, OVERRIDE_STAT, value.as_bytes(), flags)
                    .map_err(io::Error::from)
            }
            Ownership::Mine => Ok(()),
        };
        owned.map_err(|source| owning(path, attributes, source))?;
        self.set_xattrs(path, attributes, |key, value| {
            Ok(rustix::fs::fsetxattr(file, key, value, flags)?)
        })?;
        let mode = self.ownership.real_mode(Kind::File, attributes.mode);
        // An attribute may be a list, which has a say in the mode.
        if found.st_mode & 0o7777 != mode || !attributes.xattrs.is_empty() {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(fail)?;
        }
        rustix::fs::futimens(file, &times_of(attributes.mtime)).map_err(fail)
    }

    fn set_xattrs(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        set: impl Fn(&OsStr, &[u8]) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        for text in &attributes.lost {
            self.warn(text);
        }
        for (name, value) in &attributes.xattrs {
            let name = name.as_os_str();
            match set(name, value) {
                Ok(()) => {}
                Err(error) if self.is_spared(name, &error) => {
                    let text = format!("extended attribute {name:?} cannot be kept here: {error}");
                    self.warn(&text);
                }
                Err(source) => {
                    return Err(ApplyError::Xattr {
                        path: path.to_owned(),
                        name: name.to_string_lossy().into_owned(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether a file works without an attribute that could not be set. Links and nodes have no user
    /// attributes, file systems lack some, some want a privilege, and with a single id no list can
    /// name anybody else.
    pub(super) fn is_spared(&self, name: &OsStr, error: &io::Error) -> bool {
        let lists = name == ACL_ACCESS || name == ACL_DEFAULT;
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => true,
            io::ErrorKind::InvalidInput => lists && self.ownership != Ownership::Mapped,
            _ => false,
        }
    }

    /// Copies the data of an entry. Long runs of zeros become holes.
    fn fill(
        &mut self,
        file: &mut File,
        size: u64,
        path: &Path,
        archive: &mut Archive<'_>,
    ) -> Result<(), ApplyError> {
        let fail = |source| ApplyError::Data {
            path: path.to_owned(),
            source,
        };
        let mut done = 0;
        while done < size {
            let read = archive.read_data(&mut self.buffer)?;
            let bytes = &self.buffer[..read];
            if size < SPARSE_FROM {
                file.write_all(bytes).map_err(fail)?;
            } else {
                write_runs(file, done, bytes).map_err(fail)?;
            }
            done += read as u64;
        }
        match size < SPARSE_FROM {
            true => Ok(()),
            // The last run may have been a hole.
            false => file.set_len(size).map_err(fail),
        }
    }

    pub(super) fn warn(&mut self, text: &str) {
        if self.warned.len() < 100 && self.warned.insert(text.to_owned()) {
            let text = text.to_owned();
            self.progress.event(Event::Warning { text });
        }
    }
}

/// Writes what is not zeros, and goes over what is.
fn write_runs(file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()> {
    for (zeros, run) in runs(at, bytes) {
        match zeros {
            true => file.seek_relative(i64::try_from(run.len()).unwrap_or(0))?,
            false => file.write_all(run)?,
        }
    }
    Ok(())
}

/// The devices that give nothing of the machine away: null, zero, full, random, urandom, tty and
/// ptmx. Folders of images may lie on a file system that was not mounted `nodev`, and a node such as
/// a disk's, readable for all, would be that disk for everybody who gets to the folder.
fn harmless(kind: Kind, number: DeviceNumber) -> bool {
    let known = matches!(
        (number.major, number.minor),
        (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2)
    );
    kind == Kind::CharDevice && known
}

fn owning(path: &Path, attributes: &Attributes, source: io::Error) -> ApplyError {
    match source.kind() {
        // The kernel says EINVAL for an id outside of the namespace's map.
        io::ErrorKind::InvalidInput => ApplyError::Unmapped {
            path: path.to_owned(),
            uid: attributes.owner.uid,
            gid: attributes.owner.gid,
        },
        _ => creating(path, source),
    }
}
