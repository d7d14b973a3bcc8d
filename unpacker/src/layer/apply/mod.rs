//! Carries out a layer: an uncompressed tar becomes a folder.
//!
//! Three forms. `Overlay`: a folder of its own above known parents, whiteouts and opaque folders as
//! overlayfs wants them (`userxattr`); stacked by overlayfs it shows what a serial unpack shows.
//! `Flat`: one tree into which all layers go, one after the other. `Archive`:
//! what is no layer, into a tree. The first two have the same semantics, those of umoci, for every order of entries:
//!
//! * A whiteout hides lower layers only, never files of its own layer.
//! * Entries of one name: the last one counts. A directory over a directory replaces attributes.
//! * A hard link may come before its target, or name a file of a lower layer.
//! * Directories get mode and time after everything below them.
//!
//! Nothing here can leave the root, whatever the archive says: see `root`.

mod alone;
mod finish;
mod holes;
mod link;
mod put;

pub use alone::{Alone, Settled, apply_alone, settle, take_root};

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::layer::Ownership;
use crate::layer::archive::{Archive, ArchiveError};
use crate::layer::entry::{Change, MAX_DEPTH, Refusal, interpret, interpret_archived, told};
use crate::layer::root::metadata::{Kind, Owner};
use crate::layer::root::{Root, look_in};
use crate::layer::tree::{Budget, Folder, MAX_REMEMBERED, Paths, Tree, TreeError};
use crate::progress::{Cancel, Progress};

/// Hard links that wait for their target, at most.
const MAX_PENDING: usize = 100_000;
const BUFFER: usize = 128 * 1024;

/// Where the layer goes.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// An empty folder above `parents`, lowest first, all in this form.
    Overlay { parents: &'a [Root] },
    /// A tree that has all lower layers in it.
    Flat,
    /// A tree into which an archive goes that is no layer: its names hide nothing, the tree's top stays
    /// as it is, and everything may get one owner.
    Archive { owner: Option<Owner> },
}

/// Bounds against bombs, and how owners are kept.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    pub ownership: Ownership,
    /// Uncompressed bytes of the layer, and again as many of lower files that its links copy.
    pub max_bytes: u64,
    /// Entries of the layer and directories that they imply.
    pub max_entries: u64,
}

impl Default for ApplyOptions {
    /// 64 GiB and ten million entries: more than any real layer, less than a disk and its inodes.
    fn default() -> Self {
        Self {
            ownership: Ownership::detect(),
            max_bytes: 64 << 30,
            max_entries: 10_000_000,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    pub entries: u64,
    /// Bytes of the tar, with whatever follows its end.
    pub bytes: u64,
    /// Nothing of lower layers is visible: the folder must be the lowest of its stack, because
    /// overlayfs ignores an opaque root.
    pub opaque_root: bool,
    /// An entry said what the root directory is like.
    pub describes_root: bool,
}

/// A layer that was not carried out. What is in the folder then is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Archive(ArchiveError),
    #[error("entry {name:?} is refused")]
    Refused { name: String, source: Refusal },
    #[error("cannot create {path:?}")]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write to {path:?}")]
    Data { path: PathBuf, source: io::Error },
    #[error(
        "cannot give {path:?} to {uid}:{gid}: the id is not mapped in this user namespace; give the \
         user a range of ids in /etc/subuid and /etc/subgid"
    )]
    Unmapped { path: PathBuf, uid: u32, gid: u32 },
    #[error("cannot set the extended attribute {name:?} of {path:?}")]
    Xattr {
        path: PathBuf,
        name: String,
        source: io::Error,
    },
    #[error("hard link {path:?} names {target:?}, which is not there")]
    NoTarget { path: PathBuf, target: PathBuf },
    #[error("hard link {path:?} names {target:?}, which is a directory")]
    LinkToDirectory { path: PathBuf, target: PathBuf },
    #[error("more than {MAX_PENDING} hard links come before their targets")]
    TooManyPending,
    #[error("the layer has more than {limit} entries")]
    TooManyEntries { limit: u64 },
    #[error("hard links of the layer copy more than {limit} bytes out of lower layers")]
    CopiesTooLarge { limit: u64 },
    #[error("the layer has more than {MAX_REMEMBERED} bytes of names that must be remembered")]
    TooManyNames,
    #[error("{path:?} leads to more than {MAX_DEPTH} directories in each other")]
    TooDeep { path: PathBuf },
    #[error("cannot finish {path:?}")]
    Finish { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Cancelled(#[from] crate::progress::Cancelled),
}

/// Reads a tar to its end and carries it out below `root`.
pub fn apply(
    tar: &mut dyn Read,
    root: &Root,
    form: Form<'_>,
    options: &ApplyOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Applied, ApplyError> {
    let (parents, flat) = match form {
        Form::Overlay { parents } => (parents, false),
        Form::Flat | Form::Archive { .. } => (&[][..], true),
    };
    let tree = Tree::new(root, parents, options.ownership, budget(options, cancel));
    let mut layer = Layer::new(tree, flat, options, progress);
    if let Form::Archive { owner } = form {
        layer.archived = Some(owner);
    }
    layer.carry_out(tar, options, cancel)
}

fn budget<'a>(options: &ApplyOptions, cancel: &'a Cancel) -> Budget<'a> {
    Budget::new(options.max_entries, options.max_bytes, cancel)
}

struct Layer<'a> {
    tree: Tree<'a>,
    flat: bool,
    /// It is no layer, and its entries may get one owner.
    archived: Option<Option<Owner>>,
    ownership: Ownership,
    /// Links whose target was not there yet: path and target.
    pending: Vec<(PathBuf, PathBuf)>,
    /// In the flat form: what this layer brought, so that its own whiteouts spare it. Of the first
    /// layer nobody need know: there is nothing older that its whiteouts could mean.
    touched: Paths,
    is_first: bool,
    /// Kinds of trouble that were told already.
    warned: HashSet<String>,
    describes_root: bool,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
}

impl<'a> Layer<'a> {
    fn new(tree: Tree<'a>, flat: bool, options: &ApplyOptions, progress: &'a dyn Progress) -> Self {
        Self {
            tree,
            flat,
            archived: None,
            ownership: options.ownership,
            pending: Vec::new(),
            touched: HashSet::new(),
            is_first: false,
            warned: HashSet::new(),
            describes_root: false,
            progress,
            buffer: vec![0; BUFFER],
        }
    }
}

impl Layer<'_> {
    fn carry_out(
        &mut self,
        tar: &mut dyn Read,
        options: &ApplyOptions,
        cancel: &Cancel,
    ) -> Result<Applied, ApplyError> {
        self.start()?;
        let mut archive = Archive::new(tar, options.max_bytes, cancel);
        let mut applied = Applied::default();
        while let Some(raw) = archive.next()? {
            applied.entries += 1;
            (self.tree.budget.entry()).map_err(|error| creating(Path::new(""), error))?;
            let change = match self.archived {
                Some(owner) => interpret_archived(&raw, owner),
                None => interpret(&raw, !self.flat),
            };
            let change = change.map_err(|source| ApplyError::Refused {
                name: told(&raw.name),
                source,
            })?;
            self.change(change, &mut archive)?;
            if self.tree.is_crowded() {
                self.finish_early()?;
            }
        }
        applied.bytes = archive.drain()?;
        applied.opaque_root = self.finish()?;
        applied.describes_root = self.describes_root;
        Ok(applied)
    }

    fn start(&mut self) -> Result<(), ApplyError> {
        let done = match self.flat {
            false => self.tree.inherit_root(),
            true => self.start_flat(),
        };
        done.map_err(|source| creating(Path::new("/"), source))
    }

    fn start_flat(&mut self) -> Result<(), TreeError> {
        let top = Path::new("");
        self.is_first = self.tree.upper.read_dir(top)?.is_empty();
        let found = self.tree.upper.metadata(top)?;
        self.tree.keep_attributes(top, &found)
    }

    fn change(&mut self, change: Change, archive: &mut Archive<'_>) -> Result<(), ApplyError> {
        match change {
            Change::Nothing => Ok(()),
            Change::Whiteout(path) => self
                .whiteout(&path)
                .map_err(|source| creating(&path, source)),
            Change::Opaque(path) => self.opaque(&path).map_err(|source| creating(&path, source)),
            Change::HardLink { path, target } => match self.link(&path, &target)? {
                true => Ok(()),
                false => self.postpone(path, target),
            },
            Change::Put {
                path,
                node,
                attributes,
            } => self.put(&path, &node, &attributes, archive),
        }
    }

    // Hiding.

    fn whiteout(&mut self, path: &Path) -> Result<(), TreeError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        let Some(folder) = self.tree.find_folder(folder)? else {
            return Ok(());
        };
        if self.is_first {
            return Ok(());
        }
        let path = folder.join(name);
        if !self.flat {
            self.tree.give_back(&path, true)?;
            return self.tree.hide(&path);
        }
        match self.touched.contains(path.as_path()) {
            true => self.remove_older(&path),
            false => self.remove_flat(&path),
        }
    }

    fn opaque(&mut self, path: &Path) -> Result<(), TreeError> {
        let Some(folder) = self.tree.find_folder(path)? else {
            return Ok(());
        };
        if self.is_first {
            return Ok(());
        }
        if self.flat {
            return self.remove_older(&folder);
        }
        self.tree.give_back(&folder, false)?;
        self.tree.hide_content(&folder)
    }

    /// Removes what earlier layers left in a directory.
    fn remove_older(&mut self, top: &Path) -> Result<(), TreeError> {
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            self.tree.budget.check()?;
            // It may be gone already: brought and then replaced by this very layer.
            let found = self.tree.upper.lookup(&folder)?;
            let Some(metadata) = found.filter(|found| found.is_dir()) else {
                continue;
            };
            self.tree.keep_attributes(&folder, &metadata)?;
            for entry in self.tree.upper.read_dir(&folder)? {
                let path = folder.join(entry.name);
                match self.touched.contains(path.as_path()) {
                    true if entry.kind == Kind::Directory => folders.push(path),
                    true => {}
                    false => self.tree.remove(&path)?,
                }
            }
        }
        Ok(())
    }

    fn remove_flat(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.tree.upper.lookup(path)?.is_none() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let metadata = self.tree.upper.metadata(folder)?;
        self.tree.keep_attributes(folder, &metadata)?;
        self.tree.remove(path)
    }

    fn touch(&mut self, path: &Path) -> Result<(), TreeError> {
        if !self.flat {
            self.tree.own(path);
            return Ok(());
        }
        if self.is_first {
            return Ok(());
        }
        for part in path.ancestors() {
            if self.touched.contains(part) {
                break;
            }
            self.tree.budget.remember(part)?;
            self.touched.insert(part.into());
        }
        Ok(())
    }

    /// Makes a name free.
    fn clear(&mut self, folder: &Folder, name: &OsStr) -> Result<(), TreeError> {
        match look_in(folder.as_fd(), name)? {
            Some(_) => (self.tree).remove_at(folder.as_fd(), &folder.path.join(name), name),
            None => Ok(()),
        }
    }
}

fn creating(path: &Path, error: impl Into<TreeError>) -> ApplyError {
    let path = path.to_owned();
    failed(path, error, |path, source| ApplyError::Create {
        path,
        source,
    })
}

/// What a failure of the tree means for the layer; `io` says what was being done.
fn failed(
    path: PathBuf,
    error: impl Into<TreeError>,
    io: impl Fn(PathBuf, io::Error) -> ApplyError,
) -> ApplyError {
    match error.into() {
        TreeError::Io(source) => io(path, source),
        TreeError::Cancelled(cancelled) => ApplyError::Cancelled(cancelled),
        TreeError::Entries { limit } => ApplyError::TooManyEntries { limit },
        TreeError::Copied { limit } => ApplyError::CopiesTooLarge { limit },
        TreeError::Remembered => ApplyError::TooManyNames,
        TreeError::TooDeep => ApplyError::TooDeep { path },
    }
}

impl From<ArchiveError> for ApplyError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Archive(error),
        }
    }
}
