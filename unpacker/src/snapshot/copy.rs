//! A stack of layer folders as one folder, for hosts where overlayfs does not work: a copy that
//! shows what overlayfs would show.
//!
//! Data is shared with the layers where the file system can (`FICLONE`), and copied inside the
//! kernel where it cannot. Nothing is hard-linked: whoever writes into the copy must not write into
//! a layer. Pure of mounts; every name is one component in an open directory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, SeekFrom, mkdirat, openat};
use rustix::io::Errno;

use crate::layer::root::attributes::{
    mode_in, mtime_in, owner_in, remove_xattr_in, set_xattr_in, xattr_in, xattrs_in,
};
use crate::layer::root::metadata::{Kind, Metadata};
use crate::layer::root::{
    Root, create_in, link_in, list, look_in, node_in, remove_all_in, stat_in,
};
use crate::layer::tree::{OPAQUE, seek};

/// Overlayfs takes one such part off the names of attributes that a layer brought itself.
const ESCAPED: &[u8] = b"user.overlay.overlay.";
const OVERLAYS: &[u8] = b"user.overlay.";
const CHUNK: usize = 128 * 1024;
/// The kernel copies so much before anybody is asked whether to go on.
const PIECE: usize = 16 << 20;

/// Copies layers, lowest first, into an empty folder.
pub(crate) fn flatten(layers: &[Root], into: &Root) -> io::Result<()> {
    for layer in layers {
        let mut copy = Copy {
            links: HashMap::new(),
        };
        let top = OsStr::new(".");
        let (from, to) = (layer.as_fd(), into.as_fd());
        let found = stat_in(from, top)?;
        copy.folder(from, to, top, &found, Rc::new(PathBuf::new()), into)?;
    }
    Ok(())
}

/// One layer's copy.
struct Copy {
    /// Where files with several names are, by their identity in the layer.
    links: HashMap<(u64, u64), PathBuf>,
}

/// A directory whose content is being copied.
struct Level {
    from: OwnedFd,
    to: OwnedFd,
    path: Rc<PathBuf>,
    left: Vec<OsString>,
    /// Set when nothing is made in it any more.
    found: Metadata,
}

impl Copy {
    /// Copies a directory with all that is in it, over what is there. Not recursive: layers may be
    /// deep.
    fn folder(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        found: &Metadata,
        path: Rc<PathBuf>,
        root: &Root,
    ) -> io::Result<()> {
        let mut levels = vec![enter(from, to, name, found, path)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.left.pop() else {
                finish(level)?;
                levels.pop();
                continue;
            };
            let (from, to) = (level.from.as_fd(), level.to.as_fd());
            let found = stat_in(from, &name)?;
            let path = level.path.join(&name);
            if found.is_whiteout() {
                remove_all_in(to, &name)?;
            } else if found.is_dir() {
                make_folder(to, &name)?;
                let next = enter(from, to, &name, &found, Rc::new(path))?;
                levels.push(next);
            } else {
                remove_all_in(to, &name)?;
                self.file(from, to, &name, &found, path, root)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        found: &Metadata,
        path: PathBuf,
        root: &Root,
    ) -> io::Result<()> {
        if let Some(first) = self.links.get(&found.identity) {
            return root.hard_link(first, &path);
        }
        match found.kind {
            Kind::Symlink => rustix::fs::symlinkat(&link_in(from, name)?, to, name)?,
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(from, name, flags, Mode::empty())?;
                let made = create_in(to, name)?;
                copy_data(&source.into(), &made, found.size, &|| Ok(()))?;
            }
            kind => match node_in(to, name, kind, found.node) {
                // In a container's own namespace nobody makes devices; its /dev is another one.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
                made => made?,
            },
        }
        dress(from, to, name, found)?;
        if found.kind != Kind::Symlink {
            mode_in(to, name, found.mode)?;
        }
        mtime_in(to, name, found.mtime)?;
        if found.links > 1 {
            self.links.insert(found.identity, path);
        }
        Ok(())
    }
}

fn enter(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
    path: Rc<PathBuf>,
) -> io::Result<Level> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mode_in(to, name, 0o700)?;
    if xattr_in(from, name, OsStr::new(OPAQUE))?.as_deref() == Some(b"y") {
        let there = openat(to, name, flags, Mode::empty())?;
        for entry in list(there.try_clone()?)? {
            remove_all_in(there.as_fd(), &entry.name)?;
        }
    }
    dress(from, to, name, found)?;
    let (from, to) = (
        openat(from, name, flags, Mode::empty())?,
        openat(to, name, flags, Mode::empty())?,
    );
    // The last one is taken first.
    let names = list(from.try_clone()?)?.into_iter().rev();
    Ok(Level {
        left: names.map(|entry| entry.name).collect(),
        from,
        to,
        path,
        found: *found,
    })
}

fn finish(level: &Level) -> io::Result<()> {
    let here = OsStr::new(".");
    mode_in(level.to.as_fd(), here, level.found.mode)?;
    mtime_in(level.to.as_fd(), here, level.found.mtime)
}

/// Sees to it that a directory is there.
fn make_folder(to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match look_in(to, name)? {
        Some(there) if there.is_dir() => return Ok(()),
        Some(_) => remove_all_in(to, name)?,
        None => {}
    }
    Ok(mkdirat(to, name, Mode::RWXU)?)
}

/// Owner and extended attributes. Those of a directory that was there before go.
fn dress(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
) -> io::Result<()> {
    let there = stat_in(to, name)?.owner;
    if there != found.owner {
        owner_in(to, name, found.owner)?;
    }
    for (old, _) in xattrs_in(to, name)? {
        let bytes = old.as_bytes();
        if bytes.starts_with(b"user.") || bytes.starts_with(b"system.posix_acl") {
            remove_xattr_in(to, name, &old)?;
        }
    }
    for (key, value) in xattrs_in(from, name)? {
        if let Some(key) = shown(&key) {
            set_xattr_in(to, name, &key, &value)?;
        }
    }
    Ok(())
}

/// The name that overlayfs shows an attribute under.
fn shown(key: &OsStr) -> Option<OsString> {
    let bytes = key.as_bytes();
    if let Some(rest) = bytes.strip_prefix(ESCAPED) {
        return Some(OsString::from_vec([OVERLAYS, rest].concat()));
    }
    let hidden = bytes.starts_with(OVERLAYS) || bytes.starts_with(b"trusted.");
    (!hidden && bytes != b"security.selinux").then(|| key.to_owned())
}

/// Shares or copies what a file holds; its holes stay holes. `go_on` is asked now and then, and what
/// it refuses with breaks the copy off.
pub(crate) fn copy_data(
    from: &File,
    to: &File,
    size: u64,
    go_on: &dyn Fn() -> io::Result<()>,
) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while let Some(start) = seek(from, SeekFrom::Data(at))?.filter(|start| *start < size) {
        at = seek(from, SeekFrom::Hole(start))?.unwrap_or(size).min(size);
        copy_range(from, to, start..at, go_on)?;
    }
    to.set_len(size)
}

fn copy_range(
    from: &File,
    to: &File,
    range: std::ops::Range<u64>,
    go_on: &dyn Fn() -> io::Result<()>,
) -> io::Result<()> {
    let (mut read, mut written, end) = (range.start, range.start, range.end);
    while read < end {
        go_on()?;
        let room = usize::try_from(end - read).map_or(PIECE, |left| left.min(PIECE));
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), room);
        match copied {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these file systems.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(from, to, read, end, go_on);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(
    from: &File,
    to: &File,
    mut at: u64,
    end: u64,
    go_on: &dyn Fn() -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while at < end {
        go_on()?;
        let room = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
        let read = from.read_at(&mut buffer[..room], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
