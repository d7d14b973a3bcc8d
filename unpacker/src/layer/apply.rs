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

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Ownership;
use super::archive::{Archive, ArchiveError};
use super::entry::{Attributes, Change, Node, Refusal, interpret};
use super::ownership::{OVERRIDE_STAT, recorded};
use super::root::attributes::{ids, mode_in, mtime_in, owner_in, set_xattr_in, times_of};
use super::root::metadata::{DeviceNumber, Kind};
use super::root::{Root, create_in, node_in, stat_in};
use super::tree::{Deferred, Folder, OPAQUE, Tree};
use crate::progress::{Cancel, Event, Progress};

/// Hard links that wait for their target, at most.
const MAX_PENDING: usize = 100_000;
/// Files from this size on are searched for holes.
const SPARSE_FROM: u64 = 1 << 20;
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
        self.tree.opaque.insert(folder);
        Ok(())
    }

    /// Removes what earlier layers left in a directory.
    fn remove_older(&mut self, top: &Path) -> io::Result<()> {
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            let metadata = self.tree.upper.metadata(&folder)?;
            if !metadata.is_dir() {
                continue;
            }
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
            return;
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
            let below = self.tree.below(&source).map_err(fail)?;
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

// Files, directories and nodes.

impl Layer<'_> {
    fn put(
        &mut self,
        path: &Path,
        node: &Node,
        attributes: &Attributes,
        archive: &mut Archive<'_>,
        cancel: &Cancel,
    ) -> Result<(), ApplyError> {
        if path.as_os_str().is_empty() {
            let root = self.tree.folder(path);
            let root = root.map_err(|source| creating(Path::new("/"), source))?;
            return self.dress_folder(&root, OsStr::new("."), Path::new(""), attributes);
        }
        let place = self.tree.place(path);
        let (folder, name) = place.map_err(|source| creating(path, source))?;
        let canonical = folder.path.join(&name);
        self.touch(&canonical);
        match node {
            Node::Directory => {
                self.make_folder(&folder, &name)
                    .map_err(|source| creating(path, source))?;
                self.dress_folder(&folder, &name, &canonical, attributes)
            }
            Node::File { size } => {
                let file = self.retry(&folder, &name, create_in);
                let mut file = file.map_err(|source| creating(path, source))?;
                self.fill(&mut file, *size, path, archive, cancel)?;
                self.dress_file(&file, path, attributes)
            }
            Node::Symlink { target } => {
                self.retry(&folder, &name, |dir, name| {
                    Ok(rustix::fs::symlinkat(target, dir, name)?)
                })
                .map_err(|source| creating(path, source))?;
                self.dress(&folder, &name, path, Kind::Symlink, attributes)
            }
            Node::Fifo => {
                let none = DeviceNumber::default();
                self.retry(&folder, &name, |dir, name| {
                    node_in(dir, name, Kind::Fifo, none)
                })
                .map_err(|source| creating(path, source))?;
                self.dress(&folder, &name, path, Kind::Fifo, attributes)
            }
            Node::Device { kind, number } => {
                let made = self.retry(&folder, &name, |dir, name| {
                    node_in(dir, name, *kind, *number)
                });
                match made {
                    Ok(()) => self.dress(&folder, &name, path, *kind, attributes),
                    // No user namespace but the first may make one; images only have those that a
                    // container gets anyway.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        self.warn(&format!("device node {path:?} is left out: no permission"));
                        Ok(())
                    }
                    Err(source) => Err(creating(path, source)),
                }
            }
        }
    }

    /// Creates something; whatever has the name already makes room.
    fn retry<T>(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        create: impl Fn(std::os::fd::BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> io::Result<T> {
        match create(folder.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(folder, name)?;
                create(folder.as_fd(), name)
            }
            other => other,
        }
    }

    fn make_folder(&mut self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        let mode = rustix::fs::Mode::RWXU;
        match rustix::fs::mkdirat(folder, name, mode) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
        if !stat_in(folder.as_fd(), name)?.is_dir() {
            self.clear(folder, name)?;
            return Ok(rustix::fs::mkdirat(folder, name, mode)?);
        }
        mode_in(folder.as_fd(), name, 0o700)?;
        // The attributes of the earlier directory do not shine through.
        let path = folder.path.join(name);
        for old in self.tree.upper.list_xattrs(&path)? {
            let bytes = old.as_encoded_bytes();
            if bytes.starts_with(b"user.") || bytes.starts_with(b"system.posix_acl") {
                self.tree.upper.remove_xattr(&path, &old)?;
            }
        }
        Ok(())
    }

    /// Owner and extended attributes now, mode and time at the end.
    fn dress_folder(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        canonical: &Path,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        self.own(folder, name, canonical, Kind::Directory, attributes)?;
        self.set_xattrs(canonical, attributes, |key, value| {
            set_xattr_in(folder.as_fd(), name, key, value)
        })?;
        let (mode, mtime) = (attributes.mode, attributes.mtime);
        self.tree
            .deferred
            .insert(canonical.to_owned(), Deferred { mode, mtime });
        Ok(())
    }

    fn dress(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        kind: Kind,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let fail = |source| creating(path, source);
        self.own(folder, name, path, kind, attributes)?;
        self.set_xattrs(path, attributes, |key, value| {
            set_xattr_in(folder.as_fd(), name, key, value)
        })?;
        if kind != Kind::Symlink {
            mode_in(folder.as_fd(), name, attributes.mode).map_err(fail)?;
        }
        mtime_in(folder.as_fd(), name, attributes.mtime).map_err(fail)
    }

    fn own(
        &self,
        folder: &Folder,
        name: &OsStr,
        path: &Path,
        kind: Kind,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let done = match (self.ownership, kind) {
            (Ownership::Mapped, _) => owner_in(folder.as_fd(), name, attributes.owner),
            (Ownership::Recorded, Kind::File | Kind::Directory) => {
                let value = recorded(attributes.owner, attributes.mode);
                let key = OsStr::new(OVERRIDE_STAT);
                set_xattr_in(folder.as_fd(), name, key, value.as_bytes())
            }
            (Ownership::Recorded, _) => Ok(()),
        };
        done.map_err(|source| owning(path, attributes, source))
    }

    /// As `dress`, through the open file: that saves resolving the name again and again.
    fn dress_file(
        &mut self,
        file: &File,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<(), ApplyError> {
        let flags = rustix::fs::XattrFlags::empty();
        let owned = match self.ownership {
            Ownership::Mapped => ids(attributes.owner)
                .and_then(|(uid, gid)| Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)),
            Ownership::Recorded => {
                let value = recorded(attributes.owner, attributes.mode);
                rustix::fs::fsetxattr(file, OVERRIDE_STAT, value.as_bytes(), flags)
                    .map_err(io::Error::from)
            }
        };
        owned.map_err(|source| owning(path, attributes, source))?;
        self.set_xattrs(path, attributes, |key, value| {
            Ok(rustix::fs::fsetxattr(file, key, value, flags)?)
        })?;
        let mode = rustix::fs::Mode::from_raw_mode(attributes.mode);
        let done = rustix::fs::fchmod(file, mode)
            .and_then(|()| rustix::fs::futimens(file, &times_of(attributes.mtime)));
        done.map_err(|error| creating(path, error.into()))
    }

    fn set_xattrs(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        set: impl Fn(&OsStr, &[u8]) -> io::Result<()>,
    ) -> Result<(), ApplyError> {
        for (name, value) in &attributes.xattrs {
            let name = name.as_os_str();
            match set(name, value) {
                Ok(()) => {}
                // Links and nodes have no user attributes, file systems lack some, and some want
                // a privilege. The file works without.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
                    ) =>
                {
                    let text = format!("extended attribute {name:?} cannot be kept here: {error}");
                    self.warn(&text);
                }
                Err(source) => {
                    return Err(ApplyError::Xattr {
                        path: path.to_owned(),
                        name: name.to_string_lossy().into_owned(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Copies the data of an entry. Long runs of zeros become holes.
    fn fill(
        &mut self,
        file: &mut File,
        size: u64,
        path: &Path,
        archive: &mut Archive<'_>,
        cancel: &Cancel,
    ) -> Result<(), ApplyError> {
        let fail = |source| ApplyError::Data {
            path: path.to_owned(),
            source,
        };
        let mut done = 0;
        let mut hole = false;
        while done < size {
            let read = archive.read_data(&mut self.buffer)?;
            let bytes = &self.buffer[..read];
            hole = size >= SPARSE_FROM && bytes.iter().all(|byte| *byte == 0);
            if hole {
                let distance = i64::try_from(read).unwrap_or(0);
                file.seek(SeekFrom::Current(distance)).map_err(fail)?;
            } else {
                file.write_all(bytes).map_err(fail)?;
            }
            done += read as u64;
            cancel.check()?;
        }
        if hole {
            file.set_len(size).map_err(fail)?;
        }
        Ok(())
    }

    fn warn(&mut self, text: &str) {
        if self.warned.len() < 100 && self.warned.insert(text.to_owned()) {
            let text = text.to_owned();
            self.progress.event(Event::Warning { text });
        }
    }
}

// The end of the layer.

impl Layer<'_> {
    fn finish(&mut self) -> Result<bool, ApplyError> {
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

fn creating(path: &Path, source: io::Error) -> ApplyError {
    ApplyError::Create {
        path: path.to_owned(),
        source,
    }
}

fn owning(path: &Path, attributes: &Attributes, source: io::Error) -> ApplyError {
    match source.kind() {
        // The kernel says EINVAL for an id outside of the namespace's map.
        io::ErrorKind::InvalidInput => ApplyError::Unmapped {
            path: path.to_owned(),
            uid: attributes.owner.uid,
            gid: attributes.owner.gid,
        },
        _ => creating(path, source),
    }
}

fn link_to_directory(path: &Path, target: &Path) -> ApplyError {
    ApplyError::LinkToDirectory {
        path: path.to_owned(),
        target: target.to_owned(),
    }
}
