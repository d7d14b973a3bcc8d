//! The one reader of the host's files.
//!
//! Every path is absolute as the host sees it, and is resolved beneath one directory descriptor
//! (openat2 with RESOLVE_IN_ROOT), so that a test enters with a folder in place of `/`. Nothing
//! here writes, and no host program is ever executed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Symbolic links followed in one path before it counts as a loop, as in the kernel (path_resolution(7)).
pub const LINK_LIMIT: usize = 40;
/// openat2 answers EAGAIN when a rename races with RESOLVE_IN_ROOT; more often than this is an error.
const RACES: usize = 64;

/// A root directory and what can be read beneath it.
#[derive(Debug)]
pub struct Host {
    root: OwnedFd,
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Device, socket or pipe; never copied.
    Other,
}

/// The part of `stat` that an image is made from.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    pub kind: Kind,
    pub size: u64,
    /// Any of the three execute bits.
    pub executable: bool,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Device and inode: equal for the names of one hard-linked file.
    pub id: (u64, u64),
}

impl Host {
    /// `/`, or the folder that stands for it.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(root, flags, Mode::empty())?;
        Ok(Self { root })
    }

    /// The thing itself, without following a link in the last place; `None` where nothing is.
    pub fn lstat(&self, path: &Path) -> io::Result<Option<Meta>> {
        self.meta(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// What the path leads to.
    pub fn stat(&self, path: &Path) -> io::Result<Option<Meta>> {
        self.meta(path, OFlags::PATH)
    }

    fn meta(&self, path: &Path, flags: OFlags) -> io::Result<Option<Meta>> {
        let fd = match self.open_at(path, flags) {
            Ok(fd) => fd,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stat = fs::fstat(&fd)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        Ok(Some(Meta {
            kind,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            executable: stat.st_mode & 0o111 != 0,
            mtime: stat.st_mtime,
            id: (stat.st_dev, stat.st_ino),
        }))
    }

    /// The target of a symbolic link, as it is written.
    pub fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let link = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = fs::readlinkat(&link, "", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// A regular file, open for reading. Anything else is an error: a pipe would never end.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(file)
    }

    /// A whole file of at most `limit` bytes; `None` where nothing is.
    pub fn read_small(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let text = format!("more than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(bytes))
    }

    /// Names in a directory, sorted; empty where there is none.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let fd = match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..RACES {
            match fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }
}

/// Whether an error says that the path leads to nothing.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_cannot_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/../../passwd", dir.path().join("link")).unwrap();
        let host = Host::open(dir.path()).unwrap();
        let read = host.read_small(Path::new("/link"), 100).unwrap();
        assert_eq!(read.unwrap(), b"inside");
        assert!(host.read_small(Path::new("/link"), 3).is_err());
        assert!(host.stat(Path::new("/none/x")).unwrap().is_none());
    }

    #[test]
    fn a_pipe_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        fs::mknodat(fs::CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let host = Host::open(dir.path()).unwrap();
        assert!(host.open_file(Path::new("/pipe")).is_err());
        let meta = host.lstat(Path::new("/pipe")).unwrap().unwrap();
        assert_eq!(meta.kind, Kind::Other);
    }
}
