//! Paths of a root file system, seen from outside of it.
//!
//! The kernel resolves every path with the root as its end (openat2, RESOLVE_IN_ROOT): a link of
//! the image to `/etc` is the image's, and none leads out. What had to be made as a mount point is
//! remembered, so that it can be taken away again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
}

/// Links that lead to missing places are followed only so often.
const MAX_LINKS: u32 = 20;

/// A root file system that is being furnished.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    root: BorrowedFd<'a>,
    created: Vec<PathBuf>,
}

impl<'a> Inside<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            created: Vec::new(),
        }
    }

    /// What was made by [`Inside::place`], relative to the root, outermost first.
    pub(crate) fn into_created(self) -> Vec<PathBuf> {
        self.created
    }

    /// Where something that was found is, from `/`, without links.
    pub(crate) fn path_of(&self, found: &OwnedFd) -> io::Result<PathBuf> {
        let (path, root) = (path_of(found)?, path_of(self.root)?);
        match path.strip_prefix(root) {
            Ok(inside) => Ok(Path::new("/").join(inside)),
            Err(_) => Err(io::Error::other("it is not beneath the root")),
        }
    }

    /// An existing file or folder, without opening it for use.
    pub(crate) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(open_beneath(self.root, path, OFlags::PATH)?)
    }

    /// What a name right below the root is, links not followed.
    pub(crate) fn kind_of(&self, name: &str) -> io::Result<FileType> {
        let stat = rustix::fs::statat(self.root, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    /// A mount point, made when missing.
    pub(crate) fn place(&mut self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        self.place_after(path, kind, 0)
    }

    fn place_after(&mut self, path: &Path, kind: Kind, links: u32) -> io::Result<OwnedFd> {
        match self.find(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.make(path, kind, links),
            found => found,
        }
    }

    fn make(&mut self, path: &Path, kind: Kind, links: u32) -> io::Result<OwnedFd> {
        let clean = normal(path);
        let (Some(parent), Some(name)) = (clean.parent(), clean.file_name()) else {
            return Err(Errno::NOENT.into());
        };
        let folder = self.place_after(parent, Kind::Folder, links)?;
        let made = match kind {
            Kind::Folder => rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)),
            Kind::File => make_file(&folder, Path::new(name)),
        };
        match made {
            Ok(()) => self.note(&folder, Path::new(name)),
            // Only a link that leads nowhere is there and was not found.
            Err(Errno::EXIST) if links < MAX_LINKS => {
                let to = rustix::fs::readlinkat(&folder, name, Vec::new())?;
                let to = PathBuf::from(std::ffi::OsString::from_vec(to.into_bytes()));
                self.place_after(&parent.join(to), kind, links + 1)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn note(&mut self, folder: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
        let made = rustix::fs::openat(folder, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if let Ok(path) = path_of(&made)?.strip_prefix(path_of(self.root)?) {
            self.created.push(path.to_owned());
        }
        Ok(made)
    }
}

fn make_file(folder: &OwnedFd, name: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// Opens with the root as the end of every link and `..`.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = match normal_text(path) {
        text if text.as_os_str().is_empty() => PathBuf::from("."),
        text => text,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // The kernel answers EAGAIN when it cannot rule out a concurrent rename.
    for _ in 0..64 {
        match openat2(root, &path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Without the leading `/`; `..` stays for the kernel.
fn normal_text(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// By its names alone, `..` taking one away. For the parts of a path that do not exist.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Takes mount points away from the upper folder, innermost first, where nobody has put anything
/// into them. What cannot be taken away stays: it is empty.
pub(crate) fn remove_created(upper: &Path, created: &[PathBuf]) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(upper, flags, Mode::empty()) else {
        return;
    };
    for path in created.iter().rev() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        if let Ok(folder) = open_beneath(root.as_fd(), parent, flags) {
            remove_empty(&folder, Path::new(name));
        }
    }
}

fn remove_empty(folder: &OwnedFd, name: &Path) {
    let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return;
    };
    let _ = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR),
        FileType::RegularFile if stat.st_size == 0 => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())
        }
        _ => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    #[test]
    fn links_of_the_image_stay_in_it() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        for (name, to) in [
            ("abs", "/run/new"),
            ("up", "../../../run/up"),
            ("loop", "loop"),
        ] {
            std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
        }
        let mut inside = Inside::new(fd.as_fd());
        inside.place(Path::new("/abs/file"), Kind::File).unwrap();
        inside.place(Path::new("up"), Kind::Folder).unwrap();
        assert!(inside.place(Path::new("loop"), Kind::File).is_err());
        assert!(dir.path().join("run/new/file").is_file());
        assert!(dir.path().join("run/up").is_dir());
        let created = inside.into_created();
        assert_eq!(
            created,
            ["run/new", "run/new/file", "run/up"].map(PathBuf::from)
        );
        std::fs::write(dir.path().join("run/new/file"), "used").unwrap();
        remove_created(dir.path(), &created);
        assert!(dir.path().join("run/new/file").exists());
        assert!(!dir.path().join("run/up").exists());
    }
}
