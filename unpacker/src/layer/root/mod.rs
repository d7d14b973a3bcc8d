//! A directory that nothing can leave.
//!
//! Every path is resolved by the kernel beneath one directory descriptor (`openat2` with
//! `RESOLVE_IN_ROOT` and `RESOLVE_NO_MAGICLINKS`): absolute paths, `..` and symbolic links mean what
//! they would mean after a chroot. The last component is never followed unless a method says so.
//! What creates something fails where something is already. Nothing here knows layers.

pub mod attributes;
pub mod metadata;
mod remove;

pub(crate) use remove::remove_all_in;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, linkat, mkdirat, mknodat, openat,
    openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use metadata::{DeviceNumber, Kind, Metadata, Owner};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// `openat2` answers EAGAIN when a rename raced with it; that many times it is tried again.
const RACES: usize = 64;
/// As the kernel: so many symbolic links in one path are a loop.
const MAX_LINKS: usize = 40;

/// A directory, held by a descriptor, that is `/` for every path given to it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    /// Of a steady one: the folder of the last path.
    last: Option<Mutex<Option<Folder>>>,
}

/// A folder by the path that led to it.
type Folder = (PathBuf, Arc<OwnedFd>);

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub kind: Kind,
}

/// The directory that holds the last component of a path, and that component (`.` for the root).
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) name: OsString,
}

impl Root {
    /// Opens a directory of the host. `path` is trusted.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self::from_fd(fd))
    }

    /// Takes a directory's descriptor, such as that of a detached mount.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, last: None }
    }

    /// For a walk over a tree in which nobody else moves folders or replaces them by links: the folder
    /// of the last path stays open, so that its neighbours need no resolution. Nothing leaves the
    /// directory even if somebody does; a name may then be one of the folder that was there before.
    pub fn steady(self) -> Self {
        Self {
            last: Some(Mutex::default()),
            ..self
        }
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            last: self.last.as_ref().map(|_| Mutex::default()),
        })
    }

    /// A directory below this one, links followed inside; it becomes `/` for its own paths.
    pub fn sub(&self, path: &Path) -> io::Result<Self> {
        let fd = self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self::from_fd(fd))
    }

    /// Follows links to whatever `path` is, inside.
    pub(crate) fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let flags = flags | OFlags::CLOEXEC;
        for _ in 0..RACES {
            match openat2(&self.fd, path, flags, Mode::empty(), INSIDE) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Resolves everything but the last component.
    pub(crate) fn place(&self, path: &Path) -> io::Result<Place> {
        let mut components = path.components();
        match components.next_back() {
            Some(Component::Normal(name)) => Ok(Place {
                dir: self.folder(components.as_path())?,
                name: name.to_owned(),
            }),
            _ => Ok(Place {
                dir: self.folder(path)?,
                name: ".".into(),
            }),
        }
    }

    /// A folder to resolve names in, perhaps the one of the last time.
    fn folder(&self, path: &Path) -> io::Result<Arc<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Some(mut last) = self.last() else {
            return Ok(Arc::new(self.resolve(path, flags)?));
        };
        if let Some((known, fd)) = &*last
            && known.as_os_str() == path.as_os_str()
        {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.resolve(path, flags)?);
        *last = Some((path.to_owned(), Arc::clone(&fd)));
        Ok(fd)
    }

    fn last(&self) -> Option<MutexGuard<'_, Option<Folder>>> {
        let last = self.last.as_ref()?;
        // Whoever panicked has not left half of it.
        Some(last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is taken away may have been the way to the last folder.
    fn forget_last(&self) {
        if let Some(mut last) = self.last() {
            *last = None;
        }
    }
}

// Looking.

impl Root {
    /// What `path` itself is (`lstat`).
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let place = self.place(path)?;
        stat_in(place.dir.as_fd(), &place.name)
    }

    /// What `path` leads to inside the root (`stat`).
    pub fn metadata_followed(&self, path: &Path) -> io::Result<Metadata> {
        let fd = self.resolve(path, OFlags::PATH)?;
        known(&rustix::fs::fstat(fd)?)
    }

    /// `lstat`, where nothing being there is an answer.
    pub fn lookup(&self, path: &Path) -> io::Result<Option<Metadata>> {
        match self.metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names in a directory (links followed), sorted, without `.` and `..`.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        list(fd)
    }

    /// Opens a regular file for reading, links followed inside. Anything else is refused and never
    /// waited for.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        if self.last.is_some() {
            let place = self.place(path)?;
            if stat_in(place.dir.as_fd(), &place.name)?.is_file() {
                return open_in(place.dir.as_fd(), &place.name);
            }
        }
        let fd = self.resolve(path, OFlags::PATH)?;
        // Opening a device or a fifo may already do something, so what it is comes first.
        match known(&rustix::fs::fstat(&fd)?)?.kind {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(invalid("not a regular file")),
        }
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(CWD, link, flags, Mode::empty())?.into())
    }

    /// The whole of a small regular file. More than `limit` bytes is an error.
    pub fn read_small(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_file(path)?;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(invalid(&format!("file has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The target of a symbolic link, as it is stored.
    pub fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path)?;
        link_in(place.dir.as_fd(), &place.name)
    }
}

// Making and removing.

impl Root {
    /// Makes one directory; its parent is there.
    pub fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let place = self.place(path)?;
        mkdirat(&place.dir, &place.name, Mode::from_raw_mode(mode & 0o7777))?;
        // The umask belongs to the whole process, so it is overruled here.
        self.set_mode(path, mode)
    }

    /// Makes what is missing of a path and answers the directories that it made, outermost first.
    /// Links are followed, also to directories that are not there yet. Directories that exist keep
    /// their mode and owner.
    pub fn create_dir_all(
        &self,
        path: &Path,
        mode: u32,
        owner: Option<Owner>,
    ) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        self.create_missing(path, mode, owner, MAX_LINKS, &mut made)?;
        Ok(made)
    }

    fn create_missing(
        &self,
        path: &Path,
        mode: u32,
        owner: Option<Owner>,
        links: usize,
        made: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let mut prefix = PathBuf::new();
        for component in path.components() {
            prefix.push(component);
            match self.resolve(&prefix, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if self.lookup(&prefix)?.is_some_and(|m| m.is_symlink()) {
                let Some(links) = links.checked_sub(1) else {
                    return Err(Errno::LOOP.into());
                };
                let beside = prefix.parent().unwrap_or(Path::new(""));
                let target = beside.join(self.read_link(&prefix)?);
                self.create_missing(&target, mode, owner, links, made)?;
                continue;
            }
            self.create_dir(&prefix, mode)?;
            if let Some(owner) = owner {
                self.set_owner(&prefix, owner)?;
                self.set_mode(&prefix, mode)?;
            }
            made.push(prefix.clone());
        }
        Ok(())
    }

    /// Makes an empty file and opens it for reading and writing.
    pub fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let file = self.create_private(path)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
        Ok(file)
    }

    /// As [`Root::create_file`], for us alone until somebody says otherwise.
    pub fn create_private(&self, path: &Path) -> io::Result<File> {
        let place = self.place(path)?;
        create_in(place.dir.as_fd(), &place.name)
    }

    /// Makes a symbolic link; the target is stored as it is.
    pub fn symlink(&self, target: &Path, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        Ok(symlinkat(target, &place.dir, &place.name)?)
    }

    /// Gives `existing` (itself, also when it is a symbolic link) a second name.
    pub fn hard_link(&self, existing: &Path, path: &Path) -> io::Result<()> {
        let from = self.place(existing)?;
        let to = self.place(path)?;
        Ok(linkat(
            &from.dir,
            &from.name,
            &to.dir,
            &to.name,
            AtFlags::empty(),
        )?)
    }

    /// Makes a fifo, a device node or a socket's name.
    pub fn make_node(
        &self,
        path: &Path,
        kind: Kind,
        mode: u32,
        number: DeviceNumber,
    ) -> io::Result<()> {
        let place = self.place(path)?;
        node_in(place.dir.as_fd(), &place.name, kind, number)?;
        self.set_mode(path, mode)
    }

    /// Removes a file or an empty directory.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        self.forget_last();
        remove_in(place.dir.as_fd(), &place.name)
    }

    /// Removes whatever is at `path` with everything below it; nothing there is no error. Links are
    /// removed, not followed. The root itself cannot be removed.
    pub fn remove_all(&self, path: &Path) -> io::Result<()> {
        let place = match self.place(path) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        if place.name == "." {
            return Err(invalid("the root itself cannot be removed"));
        }
        self.forget_last();
        remove_all_in(place.dir.as_fd(), &place.name)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// One component in an open directory.

pub(crate) fn stat_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Metadata> {
    known(&statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// `lstat`, where nothing being there is an answer.
pub(crate) fn look_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Metadata>> {
    match stat_in(dir, name) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The target of a symbolic link, as it is stored.
pub(crate) fn link_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<PathBuf> {
    let target = readlinkat(dir, name, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// Opens what was a regular file a moment ago for reading. Should it be something else by now, opening
/// it waits for nobody, and it is refused.
fn open_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())?;
    match known(&rustix::fs::fstat(&fd)?)?.is_file() {
        true => Ok(fd.into()),
        false => Err(invalid("not a regular file")),
    }
}

/// A directory, to resolve names in. A symbolic link to one is none.
pub(crate) fn folder_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

pub(crate) fn create_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    create_as(dir, name, 0o600)
}

/// `mode` is a wish: the umask, or a list of the directory, may take bits away.
pub(crate) fn create_as(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_raw_mode(mode & 0o777))?.into())
}

pub(crate) fn node_in(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: Kind,
    number: DeviceNumber,
) -> io::Result<()> {
    let kind = match kind {
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
        Kind::File | Kind::Directory | Kind::Symlink => return Err(invalid("not a node's kind")),
    };
    let device = rustix::fs::makedev(number.major, number.minor);
    Ok(mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

pub(crate) fn remove_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        other => Ok(other?),
    }
}

pub(crate) fn list(fd: OwnedFd) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in Dir::new(fd.try_clone()?)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        let kind = match Kind::from_type(entry.file_type()) {
            Some(kind) => kind,
            // Some file systems do not say it in the listing.
            None => stat_in(fd.as_fd(), &name)?.kind,
        };
        entries.push(DirEntry { name, kind });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn known(stat: &rustix::fs::Stat) -> io::Result<Metadata> {
    Metadata::from_stat(stat).ok_or_else(|| invalid("file of unknown type"))
}

pub(crate) fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_owned())
}

/// Nothing is at the path, possibly because a parent is no directory.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests;
