//! The tree that a layer changes, as the layer sees it: the folder that is being written on top of
//! the layers below.
//!
//! Serial tools unpack all layers into one tree, and a name such as `lib/foo` follows a link `lib`
//! that a lower layer brought. Here every layer has a folder of its own, so names are resolved in
//! the merged view (`view`, `walk`): the upper folder first, then the lower ones, with what this
//! layer hides taken away. The answer is a canonical path: no component of it is a link. Missing parents
//! are made with the attributes that the lower layers give them (`change`). A layer may also be carried
//! out before its parents are there (`lean`). `budget` bounds it all.

mod budget;
mod change;
mod lean;
mod view;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Ownership;
use super::root::Root;
use super::root::metadata::Timestamp;
pub(crate) use budget::{Budget, MAX_REMEMBERED, TreeError};
pub(crate) use change::{is_images, seek, take_attributes};
pub(crate) use lean::Leans;
pub(crate) use view::{Level, Seen};

pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// Directories that are noted at a time; after that they are finished, and those that something comes
/// into later are noted anew. Few in tests, so that every test of a layer is one of this.
const MAX_DEFERRED: usize = if cfg!(test) { 4 } else { 8192 };

/// Mode and time of a directory, set when nothing is created in it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deferred {
    pub(crate) mode: u32,
    pub(crate) mtime: Timestamp,
}

/// A directory of the upper folder, open.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    fd: Rc<OwnedFd>,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Paths that are cheap to list while the tree changes.
pub(crate) type Paths = HashSet<Rc<Path>>;

pub(crate) struct Tree<'a> {
    pub(crate) upper: &'a Root,
    /// Lowest first. Empty for one tree that holds everything.
    lowers: &'a [Root],
    ownership: Ownership,
    /// Canonical paths that lower layers do not show any more.
    hidden: Paths,
    /// Canonical directories whose lower content is hidden.
    opaque: Paths,
    deferred: BTreeMap<PathBuf, Deferred>,
    /// Access control lists that directories will give to what is created in them.
    lists: HashMap<PathBuf, Vec<u8>>,
    cache: view::Cache,
    /// What is in the upper folder only because a hard link needed a lower file there: for the
    /// layer's own whiteouts it is still lower.
    borrowed: BTreeSet<PathBuf>,
    borrowing: bool,
    /// Where lower files with several names were copied to, by the identity of the lower one.
    copies: HashMap<(u64, u64), PathBuf>,
    /// Set where the parents are not known yet.
    leans: Option<Leans>,
    pub(crate) budget: Budget<'a>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(
        upper: &'a Root,
        lowers: &'a [Root],
        ownership: Ownership,
        budget: Budget<'a>,
    ) -> Self {
        Self {
            upper,
            lowers,
            ownership,
            hidden: HashSet::new(),
            opaque: HashSet::new(),
            deferred: BTreeMap::new(),
            lists: HashMap::new(),
            cache: view::Cache::default(),
            borrowed: BTreeSet::new(),
            borrowing: false,
            copies: HashMap::new(),
            leans: None,
            budget,
        }
    }

    /// A layer whose parents are not known yet.
    pub(crate) fn alone(upper: &'a Root, ownership: Ownership, budget: Budget<'a>) -> Self {
        Self {
            leans: Some(Leans::default()),
            ..Self::new(upper, &[], ownership, budget)
        }
    }

    /// Whether something may lie below this layer.
    pub(crate) fn has_lowers(&self) -> bool {
        !self.lowers.is_empty() || self.leans.is_some()
    }

    pub(crate) fn is_hidden(&self, path: &Path) -> bool {
        self.hidden.contains(path)
    }

    pub(crate) fn is_opaque(&self, path: &Path) -> bool {
        self.opaque.contains(path)
    }

    /// What this layer hides, and the directories whose lower content it hides, sorted.
    pub(crate) fn hides(&self) -> (Vec<Rc<Path>>, Vec<Rc<Path>>) {
        (sorted(&self.hidden), sorted(&self.opaque))
    }
}

fn sorted(paths: &Paths) -> Vec<Rc<Path>> {
    let mut paths: Vec<Rc<Path>> = paths.iter().cloned().collect();
    paths.sort();
    paths
}

pub(crate) fn is_opaque(root: &Root, path: &Path) -> io::Result<bool> {
    Ok(root.xattr(path, OsStr::new(OPAQUE))?.as_deref() == Some(b"y"))
}
