//! Carries out a layer: an uncompressed tar becomes a folder.
//!
//! Two forms. `Overlay`: a folder of its own above known parents, whiteouts and opaque folders as
//! overlayfs wants them (`userxattr`); stacked by overlayfs it shows what a serial unpack shows.
//! `Flat`: one tree into which all layers go, one after the other. Both forms have the same
//! semantics, those of umoci, for every order of entries:
//!
//! * A whiteout hides lower layers only, never files of its own layer.
//! * Entries of one name: the last one counts. A directory over a directory replaces attributes.
//! * A hard link may come before its target, or name a file of a lower layer.
//! * Directories get mode and time after everything below them.
//!
//! Nothing here can leave the root, whatever the archive says: see `root`.

mod finish;
mod put;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::layer::Ownership;
use crate::layer::archive::{Archive, ArchiveError};
use crate::layer::entry::{Change, Refusal, interpret};
use crate::layer::root::{Root, stat_in};
use crate::layer::tree::{Folder, Tree};
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
}

/// Bounds against bombs, and how owners are kept.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    pub ownership: Ownership,
    /// Uncompressed bytes of the layer.
    pub max_bytes: u64,
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
}

/// A layer that was not carried out. What is in the folder then is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
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
    let parents = match form {
        Form::Overlay { parents } => parents,
        Form::Flat => &[],
    };
    let mut layer = Layer {
        tree: Tree::new(root, parents, options.ownership),
        flat: matches!(form, Form::Flat),
        ownership: options.ownership,
        pending: Vec::new(),
        touched: HashSet::new(),
        warned: HashSet::new(),
        progress,
        buffer: vec![0; BUFFER],
    };
    layer.start()?;
    let mut archive = Archive::new(tar, options.max_bytes);
    let mut applied = Applied::default();
    while let Some(raw) = archive.next()? {
        cancel.check()?;
        applied.entries += 1;
        if applied.entries > options.max_entries {
            let limit = options.max_entries;
            return Err(ApplyError::TooManyEntries { limit });
        }
        let change = interpret(&raw, !layer.flat).map_err(|source| ApplyError::Refused {
            name: String::from_utf8_lossy(&raw.name).into_owned(),
            source,
        })?;
        layer.change(change, &mut archive, cancel)?;
    }
    applied.bytes = archive.drain()?;
    applied.opaque_root = layer.finish()?;
    Ok(applied)
}

struct Layer<'a> {
    tree: Tree<'a>,
    flat: bool,
    ownership: Ownership,
    /// Links whose target was not there yet: path and target.
    pending: Vec<(PathBuf, PathBuf)>,
    /// In the flat form: what this layer brought, so that its own whiteouts spare it.
    touched: HashSet<PathBuf>,
    /// Kinds of trouble that were told already.
    warned: HashSet<String>,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn start(&mut self) -> Result<(), ApplyError> {
        let top = Path::new("");
        let done = match self.flat {
            false => self.tree.inherit_root(),
            true => (self.tree.upper.metadata(top))
                .and_then(|found| self.tree.keep_attributes(top, &found)),
        };
        done.map_err(|source| creating(Path::new("/"), source))
    }

    fn change(
        &mut self,
        change: Change,
        archive: &mut Archive<'_>,
        cancel: &Cancel,
    ) -> Result<(), ApplyError> {
        match change {
            Change::Nothing => Ok(()),
            Change::Whiteout(path) => self
                .whiteout(&path)
                .map_err(|source| creating(&path, source)),
            Change::Opaque(path) => self.opaque(&path).map_err(|source| creating(&path, source)),
            Change::HardLink { path, target } => {
                if self.link(&path, &target)? {
                    return Ok(());
                }
                if self.pending.len() >= MAX_PENDING {
                    return Err(ApplyError::TooManyPending);
                }
                self.pending.push((path, target));
                Ok(())
            }
            Change::Put {
                path,
                node,
                attributes,
            } => self.put(&path, &node, &attributes, archive, cancel),
        }
    }

    // Hiding.

    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        let Some(folder) = self.tree.find_folder(folder)? else {
            return Ok(());
        };
        let path = folder.join(name);
        if !self.flat {
            self.tree.give_back(&path, true)?;
            self.tree.hidden.insert(path);
            return Ok(());
        }
        match self.touched.contains(&path) {
            true => self.remove_older(&path),
            false => self.remove_flat(&path),
        }
    }

    fn opaque(&mut self, path: &Path) -> io::Result<()> {
        let Some(folder) = self.tree.find_folder(path)? else {
            return Ok(());
        };
        if self.flat {
            return self.remove_older(&folder);
        }
        self.tree.give_back(&folder, false)?;
        self.tree.opaque.insert(folder);
        Ok(())
    }

    /// Removes what earlier layers left in a directory.
    fn remove_older(&mut self, top: &Path) -> io::Result<()> {
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            // It may be gone already: brought and then replaced by this very layer.
            let found = self.tree.upper.lookup(&folder)?;
            let Some(metadata) = found.filter(|found| found.is_dir()) else {
                continue;
            };
            self.tree.keep_attributes(&folder, &metadata)?;
            for entry in self.tree.upper.read_dir(&folder)? {
                let path = folder.join(entry.name);
                match self.touched.contains(&path) {
                    true => folders.push(path),
                    false => self.tree.remove(&path)?,
                }
            }
        }
        Ok(())
    }

    fn remove_flat(&mut self, path: &Path) -> io::Result<()> {
        if self.tree.upper.lookup(path)?.is_none() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let metadata = self.tree.upper.metadata(folder)?;
        self.tree.keep_attributes(folder, &metadata)?;
        self.tree.remove(path)
    }

    fn touch(&mut self, path: &Path) {
        if !self.flat {
            return self.tree.own(path);
        }
        for part in path.ancestors() {
            if !self.touched.insert(part.to_owned()) {
                break;
            }
        }
    }

    // Links.

    /// Whether the target was there.
    fn link(&mut self, path: &Path, target: &Path) -> Result<bool, ApplyError> {
        let fail = |source| creating(path, source);
        let Some(source) = self.target_of(target).map_err(fail)? else {
            return Ok(false);
        };
        let (folder, name) = self.tree.place(path).map_err(fail)?;
        let canonical = folder.path.join(&name);
        let mut found = self.tree.upper.lookup(&source).map_err(fail)?;
        if found.is_none() {
            let below = match self.tree.hidden.contains(&source) {
                true => None,
                false => self.tree.below(&source).map_err(fail)?,
            };
            if below.is_some_and(|(_, found)| found.is_dir()) {
                return Err(link_to_directory(path, target));
            }
            if !self.tree.copy_up(&source).map_err(fail)? {
                return Ok(false);
            }
            found = self.tree.upper.lookup(&source).map_err(fail)?;
        }
        if found.is_some_and(|found| found.is_dir()) {
            return Err(link_to_directory(path, target));
        }
        self.touch(&canonical);
        if canonical == source {
            return Ok(true);
        }
        self.clear(&folder, &name).map_err(fail)?;
        self.tree
            .upper
            .hard_link(&source, &canonical)
            .map_err(fail)?;
        Ok(true)
    }

    fn target_of(&mut self, target: &Path) -> io::Result<Option<PathBuf>> {
        let folder = target.parent().unwrap_or(Path::new(""));
        let name = target.file_name().unwrap_or_default();
        let folder = self.tree.find_folder(folder)?;
        Ok(folder.map(|folder| folder.join(name)))
    }

    /// Links whose target came later; a target may be such a link itself.
    fn link_pending(&mut self) -> Result<(), ApplyError> {
        while !self.pending.is_empty() {
            let before = self.pending.len();
            for (path, target) in std::mem::take(&mut self.pending) {
                if !self.link(&path, &target)? {
                    self.pending.push((path, target));
                }
            }
            if self.pending.len() == before {
                let (path, target) = self.pending.swap_remove(0);
                return Err(ApplyError::NoTarget { path, target });
            }
        }
        Ok(())
    }

    /// Makes a name free.
    fn clear(&mut self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        match stat_in(folder.as_fd(), name) {
            Ok(_) => self.tree.remove(&folder.path.join(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn creating(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::Create {
        path: path.to_owned(),
        source,
    }
}

fn link_to_directory(path: &Path, target: &Path) -> ApplyError {
    ApplyError::LinkToDirectory {
        path: path.to_owned(),
        target: target.to_owned(),
    }
}
