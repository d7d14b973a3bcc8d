//! The end of a layer: links whose target came late, whiteouts, and the directories' own mode and
//! time, which everything before would have changed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{ApplyError, Layer};
use crate::layer::root::metadata::{DeviceNumber, Kind};
use crate::layer::root::node_in;
use crate::layer::tree::OPAQUE;

impl Layer<'_> {
    pub(super) fn finish(&mut self) -> Result<bool, ApplyError> {
        self.link_pending()?;
        let opaque_root = self.tree.opaque.contains(Path::new(""));
        if self.tree.has_lowers() {
            for path in sorted(&self.tree.hidden) {
                self.finish_whiteout(&path)
                    .map_err(|source| ApplyError::Finish { path, source })?;
            }
        }
        // Kept without lower layers too, so that a layer's folder says the same above any parents.
        let opaque = match self.flat {
            true => Vec::new(),
            false => sorted(&self.tree.opaque),
        };
        for path in opaque {
            self.finish_opaque(&path)
                .map_err(|source| ApplyError::Finish { path, source })?;
        }
        self.finish_folders()?;
        Ok(opaque_root)
    }

    /// What this layer has itself hides the lower one already, except a directory, which overlayfs
    /// would merge.
    fn finish_whiteout(&mut self, path: &Path) -> io::Result<()> {
        if !self.tree.is_canonical(path)? {
            return Ok(());
        }
        match self.tree.upper.lookup(path)? {
            Some(found) if found.is_dir() => self.mark_opaque(path),
            Some(_) => Ok(()),
            None if self.tree.below(path)?.is_none() => Ok(()),
            None => {
                let (folder, name) = self.tree.place(path)?;
                let none = DeviceNumber::default();
                node_in(folder.as_fd(), &name, Kind::CharDevice, none)
            }
        }
    }

    fn finish_opaque(&mut self, path: &Path) -> io::Result<()> {
        if !self.tree.is_canonical(path)? {
            return Ok(());
        }
        match self.tree.upper.lookup(path)? {
            Some(found) if found.is_dir() => self.mark_opaque(path),
            Some(_) => Ok(()),
            None => match self.tree.below(path)? {
                Some((_, found)) if found.is_dir() && !self.tree.hidden.contains(path) => {
                    self.tree.folder(path)?;
                    self.mark_opaque(path)
                }
                _ => Ok(()),
            },
        }
    }

    fn mark_opaque(&self, path: &Path) -> io::Result<()> {
        self.tree.upper.set_xattr(path, OsStr::new(OPAQUE), b"y")
    }

    /// Deepest first: a directory's time changes when something in it is created, not when the
    /// mode of something in it changes, but without search permission nothing below is reached.
    fn finish_folders(&mut self) -> Result<(), ApplyError> {
        let folders = std::mem::take(&mut self.tree.deferred);
        for (path, deferred) in folders.iter().rev() {
            let done = self
                .tree
                .upper
                .set_mode(path, deferred.mode)
                .and_then(|()| self.tree.upper.set_mtime(path, deferred.mtime));
            done.map_err(|source| ApplyError::Finish {
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

fn sorted(paths: &HashSet<PathBuf>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = paths.iter().cloned().collect();
    paths.sort();
    paths
}
