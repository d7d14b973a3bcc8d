//! A layer without its parents: carried out first, and what leaned on them settled afterwards.
//!
//! So layers can be unpacked side by side, and a layer that leans on nothing is the same above any
//! parents. The outcome is that of `Form::Overlay`, where it is not the same layer is carried out
//! again with its parents: that happens when a name went over a link of a lower layer, or a hard
//! link names a lower file.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::finish::finishing;
use super::{Applied, ApplyError, ApplyOptions, Layer, budget};
use crate::layer::Ownership;
use crate::layer::root::Root;
use crate::layer::root::attributes::{mode_in, mtime_in, xattr_in};
use crate::layer::tree::{Deferred, Leans, Tree, TreeError, take_attributes};
use crate::layer::xattrs::ACL_DEFAULT;
use crate::progress::{Cancel, Progress, Silent};

/// A layer's folder whose parents were not known.
#[derive(Debug)]
pub struct Alone {
    pub applied: Applied,
    leans: Leans,
}

/// Whether the folder is now what it is above its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// It is worth nothing: the layer must be carried out again, with its parents.
    Again,
}

impl Alone {
    /// Whether the folder is the same above any parents, its root's attributes apart.
    pub fn stands(&self) -> bool {
        self.leans.is_empty()
    }
}

/// Reads a tar to its end and carries it out in an empty folder, whatever its parents will be. An
/// error may be due to that: with known parents the same layer may be carried out.
pub fn apply_alone(
    tar: &mut dyn Read,
    root: &Root,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Alone, ApplyError> {
    let tree = Tree::alone(root, options.ownership, budget(options, cancel));
    let mut layer = Layer::new(tree, false, options, progress);
    let applied = layer.carry_out(tar, options, cancel)?;
    let leans = layer.tree.take_leans();
    Ok(Alone { applied, leans })
}

/// Gives a folder of [`apply_alone`] what it has of its parents. The root's own attributes are the
/// caller's.
pub fn settle(
    alone: &Alone,
    root: &Root,
    parents: &[Root],
    options: &ApplyOptions,
    cancel: &Cancel,
) -> Result<Settled, ApplyError> {
    if parents.is_empty() {
        return Ok(Settled::Done);
    }
    let tree = Tree::new(root, parents, options.ownership, budget(options, cancel));
    let mut layer = Layer::new(tree, false, options, &Silent);
    let top = Path::new("");
    let inherited = layer.inherited(&alone.leans);
    let Some(inherited) = inherited.map_err(|error| finishing(top, error))? else {
        return Ok(Settled::Again);
    };
    let kept = root.metadata(top).map_err(TreeError::from);
    kept.and_then(|found| layer.tree.keep_attributes(top, &found))
        .map_err(|error| finishing(top, error))?;
    for path in &inherited {
        layer
            .inherit(path)
            .map_err(|error| finishing(path, error))?;
    }
    layer.hide(&alone.leans)?;
    layer.finish_hiding()?;
    layer.finish_folders()?;
    Ok(Settled::Done)
}

impl Layer<'_> {
    /// Looks whether the parents are as they were taken to be, and which directories of this layer
    /// are like theirs. `None` where they are not.
    fn inherited(&self, leans: &Leans) -> Result<Option<Vec<PathBuf>>, TreeError> {
        let below = |path: &PathBuf| {
            self.tree.budget.check()?;
            Ok::<_, TreeError>(self.tree.below(path)?)
        };
        for path in &leans.absent {
            if below(path)?.is_some() {
                return Ok(None);
            }
        }
        for path in &leans.passed {
            if below(path)?.is_some_and(|(_, found)| found.is_symlink()) {
                return Ok(None);
            }
        }
        let mut inherited = Vec::new();
        for (path, still) in &leans.implied {
            let Some((lower, found)) = below(path)? else {
                continue;
            };
            // What was made in it already would have inherited its list.
            let name = path.file_name().unwrap_or_default();
            let lists = xattr_in(lower.as_fd(), name, OsStr::new(ACL_DEFAULT));
            if found.is_symlink() || (found.is_dir() && lists?.is_some()) {
                return Ok(None);
            }
            if *still && found.is_dir() {
                inherited.push(path.clone());
            }
        }
        Ok(Some(inherited))
    }

    fn inherit(&mut self, path: &Path) -> Result<(), TreeError> {
        let Some((lower, found)) = self.tree.below(path)? else {
            return Ok(());
        };
        let place = self.tree.upper.place(path)?;
        let name = place.name.as_os_str();
        let (lower, upper) = (lower.as_fd(), place.dir.as_fd());
        take_attributes(self.ownership, lower, upper, name, &found)?;
        let (mode, mtime) = (found.mode, found.mtime);
        self.tree.defer(path, Deferred { mode, mtime })
    }

    fn hide(&mut self, leans: &Leans) -> Result<(), ApplyError> {
        for path in &leans.hidden {
            self.tree
                .hide(path)
                .map_err(|error| finishing(path, error))?;
        }
        for path in &leans.opaque {
            self.tree
                .hide_content(path)
                .map_err(|error| finishing(path, error))?;
        }
        Ok(())
    }
}

/// Makes a root directory that no entry described say what another root says.
pub fn take_root(from: &Root, to: &Root, ownership: Ownership) -> std::io::Result<()> {
    let found = from.metadata(Path::new(""))?;
    let name = OsStr::new(".");
    take_attributes(ownership, from.as_fd(), to.as_fd(), name, &found)?;
    mode_in(to.as_fd(), name, found.mode)?;
    mtime_in(to.as_fd(), name, found.mtime)
}
