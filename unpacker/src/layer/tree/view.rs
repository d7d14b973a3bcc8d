//! Looking into the merged view, one component at a time in open directories: the cost of a name
//! grows with its length only, whatever it leads over.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::io::Errno;

use super::{Folder, OPAQUE, Tree, TreeError};
use crate::layer::root::attributes::xattr_in;
use crate::layer::root::metadata::Metadata;
use crate::layer::root::{folder_in, is_absent, link_in, look_in};

/// Descriptors of directories that are kept open; a layer's entries come folder by folder.
const MAX_CACHED: usize = 256;

/// A directory of the merged view, open.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    /// Where this layer has it.
    pub(super) upper: Option<Rc<OwnedFd>>,
    /// The lower layers that show it, topmost first.
    lowers: Vec<Rc<OwnedFd>>,
    /// Lower layers that are not known yet may show it too.
    open: bool,
}

/// What a name is in the merged view.
pub(crate) enum Seen {
    Upper(Metadata),
    /// In the lower layer that is at this place in its [`Level`].
    Lower(usize, Metadata),
    /// Not in this layer; lower ones are not known.
    Unknown,
    Nothing,
}

impl Seen {
    fn metadata(&self) -> Option<&Metadata> {
        match self {
            Self::Upper(found) | Self::Lower(_, found) => Some(found),
            Self::Unknown | Self::Nothing => None,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.metadata().is_some_and(Metadata::is_dir)
    }
}

impl Level {
    /// What this layer has.
    pub(crate) fn upper(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match &self.upper {
            Some(fd) => look_in(fd.as_fd(), name),
            None => Ok(None),
        }
    }

    /// What lower layers show, and the place of the one that does.
    pub(crate) fn below(&self, name: &OsStr) -> io::Result<Option<(usize, Metadata)>> {
        for (slot, fd) in self.lowers.iter().enumerate() {
            if let Some(found) = look_in(fd.as_fd(), name)? {
                return Ok((!found.is_whiteout()).then_some((slot, found)));
            }
        }
        Ok(None)
    }

    /// Whether lower layers that are not known yet may have something here.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn lower(&self, slot: usize) -> io::Result<&Rc<OwnedFd>> {
        self.lowers.get(slot).ok_or_else(|| Errno::NOENT.into())
    }

    /// The directory in the upper folder, where there is one.
    pub(crate) fn upper_fd(&self) -> io::Result<BorrowedFd<'_>> {
        let fd = self.upper.as_ref().ok_or(Errno::NOENT)?;
        Ok(fd.as_fd())
    }

    pub(super) fn target(&self, name: &OsStr, seen: &Seen) -> io::Result<Option<PathBuf>> {
        Ok(match seen {
            Seen::Upper(found) if found.is_symlink() => Some(link_in(self.upper_fd()?, name)?),
            Seen::Lower(slot, found) if found.is_symlink() => {
                Some(link_in(self.lower(*slot)?.as_fd(), name)?)
            }
            _ => None,
        })
    }

    /// The lower layers that show `name` as a directory.
    fn lowers_of(&self, name: &OsStr) -> io::Result<Vec<Rc<OwnedFd>>> {
        let mut lowers = Vec::new();
        for fd in &self.lowers {
            match look_in(fd.as_fd(), name)? {
                None => {}
                Some(found) if found.is_dir() => {
                    lowers.push(Rc::new(folder_in(fd.as_fd(), name)?));
                    if is_opaque_in(fd.as_fd(), name)? {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        Ok(lowers)
    }
}

fn is_opaque_in(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    Ok(xattr_in(dir, name, OsStr::new(OPAQUE))?.as_deref() == Some(b"y"))
}

/// Directories of the upper folder by their canonical paths.
#[derive(Debug, Default)]
pub(super) struct Cache {
    levels: HashMap<PathBuf, Level>,
    descriptors: usize,
}

impl Cache {
    fn keep(&mut self, path: PathBuf, level: Level) {
        self.descriptors += 1 + level.lowers.len();
        if self.descriptors > MAX_CACHED {
            self.clear();
            self.descriptors = 1 + level.lowers.len();
        }
        self.levels.insert(path, level);
    }

    /// Drops a directory and what is below it.
    pub(super) fn forget(&mut self, path: &Path) {
        self.levels.retain(|known, _| !known.starts_with(path));
        let counts = self.levels.values().map(|level| 1 + level.lowers.len());
        self.descriptors = counts.sum();
    }

    pub(super) fn clear(&mut self) {
        self.levels.clear();
        self.descriptors = 0;
    }
}

impl Tree<'_> {
    /// The directory of a path, made where it is missing, open; and the last component.
    pub(crate) fn place(&mut self, path: &Path) -> Result<(Folder, OsString), TreeError> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let folder = self.folder(path.parent().unwrap_or(Path::new("")))?;
        Ok((folder, name))
    }

    /// Opens a directory, making it and its parents where they are missing.
    pub(crate) fn folder(&mut self, path: &Path) -> Result<Folder, TreeError> {
        let level = match self.cache.levels.get(path) {
            Some(level) => level.clone(),
            None => {
                let walked = self.walk(path, true)?;
                let (canonical, level) = walked.ok_or(Errno::NOENT)?;
                if canonical != path {
                    // A name that led over a link may lead elsewhere later.
                    let fd = level.upper.ok_or(Errno::NOENT)?;
                    let path = canonical;
                    return Ok(Folder { path, fd });
                }
                self.cache.keep(canonical, level.clone());
                level
            }
        };
        Ok(Folder {
            path: path.to_owned(),
            fd: level.upper.ok_or(Errno::NOENT)?,
        })
    }

    /// The canonical form of a directory's path; `None` where it is not there (or no directory).
    pub(crate) fn find_folder(&mut self, path: &Path) -> Result<Option<PathBuf>, TreeError> {
        if self.cache.levels.contains_key(path) {
            return Ok(Some(path.to_owned()));
        }
        Ok(self.walk(path, false)?.map(|(canonical, _)| canonical))
    }

    /// The directory that holds a canonical path, no link followed. A path that was canonical once
    /// need not be for ever: a directory may have become a link since. Then, or where it is not
    /// there, `None`.
    pub(crate) fn above(&mut self, path: &Path) -> Result<Option<Level>, TreeError> {
        self.level(path.parent().unwrap_or(Path::new("")))
    }

    /// A directory, no link followed.
    pub(super) fn level(&mut self, path: &Path) -> Result<Option<Level>, TreeError> {
        let (mut at, mut level) = self.nearest(path)?;
        let rest = path.strip_prefix(&at).unwrap_or(Path::new("")).to_owned();
        for part in &rest {
            self.budget.check()?;
            at.push(part);
            match self.see(&level, &at, part)? {
                Seen::Unknown => {}
                seen if seen.is_dir() => {}
                _ => return Ok(None),
            }
            level = self.enter(&level, &at, part)?;
        }
        Ok(Some(level))
    }

    /// The nearest directory at or above a path that is open already.
    pub(super) fn nearest(&mut self, path: &Path) -> io::Result<(PathBuf, Level)> {
        for above in path.ancestors() {
            if let Some(level) = self.cache.levels.get(above) {
                return Ok((above.to_owned(), level.clone()));
            }
        }
        let top = self.top()?;
        self.cache.keep(PathBuf::new(), top.clone());
        Ok((PathBuf::new(), top))
    }

    fn top(&self) -> io::Result<Level> {
        let opaque = self.is_opaque(Path::new(""));
        let lowers = match opaque {
            true => Vec::new(),
            false => self.tops()?,
        };
        let upper = Some(Rc::new(self.upper.as_fd().try_clone_to_owned()?));
        let open = self.leans.is_some() && !opaque;
        Ok(Level {
            upper,
            lowers,
            open,
        })
    }

    /// The roots of the lower layers, topmost first.
    fn tops(&self) -> io::Result<Vec<Rc<OwnedFd>>> {
        let mut lowers = Vec::new();
        for root in self.lowers.iter().rev() {
            lowers.push(Rc::new(root.as_fd().try_clone_to_owned()?));
            if super::is_opaque(root, Path::new(""))? {
                break;
            }
        }
        Ok(lowers)
    }

    /// What the lower layers alone have at a path, no link followed; and the directory it is in.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Option<(Rc<OwnedFd>, Metadata)>> {
        let mut level = Level {
            upper: None,
            lowers: self.tops()?,
            open: false,
        };
        for part in path.parent().unwrap_or(Path::new("")) {
            level.lowers = level.lowers_of(part)?;
        }
        let found = level.below(path.file_name().unwrap_or_default())?;
        found
            .map(|(slot, found)| Ok((level.lower(slot)?.clone(), found)))
            .transpose()
    }

    /// What `name` is in a directory; `path` is its canonical path.
    pub(super) fn see(&self, level: &Level, path: &Path, name: &OsStr) -> io::Result<Seen> {
        if let Some(found) = level.upper(name)? {
            return Ok(Seen::Upper(found));
        }
        if self.is_hidden(path) {
            return Ok(Seen::Nothing);
        }
        Ok(match level.below(name)? {
            Some((slot, found)) => Seen::Lower(slot, found),
            None if level.open => Seen::Unknown,
            None => Seen::Nothing,
        })
    }

    /// One component down, into a directory.
    pub(super) fn enter(&self, level: &Level, path: &Path, name: &OsStr) -> io::Result<Level> {
        let upper = match &level.upper {
            Some(fd) => match folder_in(fd.as_fd(), name) {
                Ok(fd) => Some(Rc::new(fd)),
                Err(error) if is_absent(&error) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let hidden = self.is_hidden(path) || self.is_opaque(path);
        let lowers = match hidden {
            true => Vec::new(),
            false => level.lowers_of(name)?,
        };
        Ok(Level {
            upper,
            lowers,
            open: level.open && !hidden,
        })
    }
}
