//! The end of a layer: links whose target came late, whiteouts, and the directories' own mode and
//! time, which everything before would have changed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{ApplyError, Layer, failed};
use crate::layer::root::attributes::{set_xattr_in, times_of};
use crate::layer::root::metadata::{DeviceNumber, Kind};
use crate::layer::root::node_in;
use crate::layer::tree::{Deferred, OPAQUE, TreeError};
use crate::layer::xattrs::ACL_DEFAULT;

impl Layer<'_> {
    pub(super) fn finish(&mut self) -> Result<bool, ApplyError> {
        self.link_pending()?;
        let opaque_root = self.tree.is_opaque(Path::new(""));
        self.finish_hiding()?;
        self.finish_folders()?;
        Ok(opaque_root)
    }

    pub(super) fn finish_hiding(&mut self) -> Result<(), ApplyError> {
        let (hidden, opaque) = self.tree.hides();
        if self.tree.has_lowers() {
            for path in &hidden {
                self.finish_whiteout(path)
                    .map_err(|error| finishing(path, error))?;
            }
        }
        // Kept without lower layers too, so that a layer's folder says the same above any parents.
        if !self.flat {
            for path in &opaque {
                self.finish_opaque(path)
                    .map_err(|error| finishing(path, error))?;
            }
        }
        Ok(())
    }

    /// What this layer has itself hides the lower one already, except a directory, which overlayfs
    /// would merge.
    fn finish_whiteout(&mut self, path: &Path) -> Result<(), TreeError> {
        let name = path.file_name().unwrap_or_default();
        let Some(level) = self.tree.above(path)? else {
            return Ok(());
        };
        match level.upper(name)? {
            Some(found) if found.is_dir() => Ok(mark_opaque(level.upper_fd()?, name)?),
            Some(_) => Ok(()),
            None if level.is_open() => self.tree.leave_whiteout(path),
            None if level.below(name)?.is_none() => Ok(()),
            None => {
                self.tree.budget.entry()?;
                let (folder, name) = self.tree.place(path)?;
                let none = DeviceNumber::default();
                Ok(node_in(folder.as_fd(), &name, Kind::CharDevice, none)?)
            }
        }
    }

    fn finish_opaque(&mut self, path: &Path) -> Result<(), TreeError> {
        let Some(name) = path.file_name() else {
            return Ok(mark_opaque(self.tree.upper.as_fd(), OsStr::new("."))?);
        };
        let Some(level) = self.tree.above(path)? else {
            return Ok(());
        };
        match level.upper(name)? {
            Some(found) if found.is_dir() => Ok(mark_opaque(level.upper_fd()?, name)?),
            Some(_) => Ok(()),
            None if level.is_open() && !self.tree.is_hidden(path) => self.tree.leave_opaque(path),
            None => match level.below(name)? {
                Some((_, found)) if found.is_dir() && !self.tree.is_hidden(path) => {
                    let (folder, name) = self.tree.place(path)?;
                    self.tree.folder(path)?;
                    Ok(mark_opaque(folder.as_fd(), &name)?)
                }
                _ => Ok(()),
            },
        }
    }

    /// Deepest first: a directory's time changes when something in it is created, not when the
    /// mode of something in it changes, but without search permission nothing below is reached.
    pub(super) fn finish_folders(&mut self) -> Result<(), ApplyError> {
        while let Some((path, deferred)) = self.tree.pop_deferred() {
            self.finish_one(&path, &deferred)?;
        }
        Ok(())
    }

    /// In the middle of the layer, so that not every directory of an image is held in memory.
    pub(super) fn finish_early(&mut self) -> Result<(), ApplyError> {
        let mut root = None;
        while let Some((path, deferred)) = self.tree.pop_deferred() {
            match path.as_os_str().is_empty() {
                // Nothing looks at the root again.
                true => root = Some(deferred),
                false => self.finish_one(&path, &deferred)?,
            }
        }
        let kept = self.tree.begin_anew(root);
        kept.map_err(|error| finishing(Path::new(""), error))
    }

    fn finish_one(&mut self, path: &Path, deferred: &Deferred) -> Result<(), ApplyError> {
        let done = (self.tree.budget.check().map_err(TreeError::from))
            .and_then(|()| Ok(self.finish_list(path)?))
            .and_then(|()| Ok(self.finish_folder(path, deferred)?));
        done.map_err(|error| finishing(path, error))
    }

    /// Gives a directory the access control list of what is created in it.
    fn finish_list(&mut self, path: &Path) -> io::Result<()> {
        let Some(list) = self.tree.take_list(path) else {
            return Ok(());
        };
        let name = OsStr::new(ACL_DEFAULT);
        match self.tree.upper.set_xattr(path, name, &list) {
            Err(error) if self.is_spared(name, &error) => {
                self.warn(&format!(
                    "extended attribute {name:?} cannot be kept here: {error}"
                ));
                Ok(())
            }
            other => other,
        }
    }

    fn finish_folder(&self, path: &Path, deferred: &Deferred) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = self.tree.upper.resolve(path, flags)?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(deferred.mode & 0o7777))?;
        Ok(rustix::fs::futimens(&folder, &times_of(deferred.mtime))?)
    }
}

fn mark_opaque(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    set_xattr_in(dir, name, OsStr::new(OPAQUE), b"y")
}

pub(super) fn finishing(path: &Path, error: TreeError) -> ApplyError {
    failed(path.to_owned(), error, |path, source| ApplyError::Finish {
        path,
        source,
    })
}
