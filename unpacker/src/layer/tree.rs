//! The tree that a layer changes, as the layer sees it: the folder that is being written on top of
//! the layers below.
//!
//! Serial tools unpack all layers into one tree, and a name such as `lib/foo` follows a link `lib`
//! that a lower layer brought. Here every layer has a folder of its own, so names are resolved in
//! the merged view: the upper folder first, then the lower ones, with what this layer hides taken
//! away. The answer is a canonical path: no component of it is a link. Missing parents are made
//! with the attributes that the lower layers give them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::OFlags;

use super::Ownership;
use super::root::metadata::{Kind, Metadata, Owner, Timestamp};
use super::root::{Root, remove_all_in, stat_in};

pub(crate) const OPAQUE: &str = "user.overlay.opaque";
const MAX_LINKS: usize = 255;
/// Directories that are kept open; a layer's entries come folder by folder.
const MAX_CACHED: usize = 128;

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

pub(crate) struct Tree<'a> {
    pub(crate) upper: &'a Root,
    /// Lowest first. Empty for one tree that holds everything.
    lowers: &'a [Root],
    ownership: Ownership,
    /// Canonical paths that lower layers do not show any more.
    pub(crate) hidden: HashSet<PathBuf>,
    /// Canonical directories whose lower content is hidden.
    pub(crate) opaque: HashSet<PathBuf>,
    pub(crate) deferred: BTreeMap<PathBuf, Deferred>,
    cache: HashMap<PathBuf, Folder>,
    /// What is in the upper folder only because a hard link needed a lower file there: for the
    /// layer's own whiteouts it is still lower.
    borrowed: BTreeSet<PathBuf>,
    borrowing: bool,
}

/// The layers that show a path as a directory, topmost first, and what is topmost there.
type Step = (Vec<usize>, Option<(usize, Metadata)>);

/// What a path is in the merged view.
enum Seen {
    Upper(Metadata),
    Lower(usize, Metadata),
    Nothing,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(upper: &'a Root, lowers: &'a [Root], ownership: Ownership) -> Self {
        Self {
            upper,
            lowers,
            ownership,
            hidden: HashSet::new(),
            opaque: HashSet::new(),
            deferred: BTreeMap::new(),
            cache: HashMap::new(),
            borrowed: BTreeSet::new(),
            borrowing: false,
        }
    }

    pub(crate) fn has_lowers(&self) -> bool {
        !self.lowers.is_empty()
    }

    /// The directory of a path, made where it is missing, open; and the last component.
    pub(crate) fn place(&mut self, path: &Path) -> io::Result<(Folder, OsString)> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let folder = self.folder(path.parent().unwrap_or(Path::new("")))?;
        Ok((folder, name))
    }

    /// Opens a directory, making it and its parents where they are missing.
    pub(crate) fn folder(&mut self, path: &Path) -> io::Result<Folder> {
        if let Some(folder) = self.cache.get(path) {
            return Ok(folder.clone());
        }
        let canonical = self.walk(path, true)?.unwrap_or_default();
        let fd = self
            .upper
            .resolve(&canonical, OFlags::PATH | OFlags::DIRECTORY)?;
        let folder = Folder {
            path: canonical,
            fd: Rc::new(fd),
        };
        // A name that led over a link may lead elsewhere later; it is looked up every time.
        if folder.path == path {
            if self.cache.len() >= MAX_CACHED {
                self.cache.clear();
            }
            self.cache.insert(path.to_owned(), folder.clone());
        }
        Ok(folder)
    }

    /// The canonical form of a directory's path; `None` where it is not there (or no directory).
    pub(crate) fn find_folder(&mut self, path: &Path) -> io::Result<Option<PathBuf>> {
        if let Some(folder) = self.cache.get(path) {
            return Ok(Some(folder.path.clone()));
        }
        self.walk(path, false)
    }

    fn walk(&mut self, path: &Path, create: bool) -> io::Result<Option<PathBuf>> {
        let mut at = PathBuf::new();
        let mut todo: VecDeque<OsString> = path.iter().map(OsStr::to_owned).collect();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match part.as_encoded_bytes() {
                b"" | b"." => continue,
                b"/" => {
                    at = PathBuf::new();
                    continue;
                }
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let next = at.join(&part);
            let target = match self.see(&next)? {
                Seen::Upper(found) if found.is_symlink() => self.upper.read_link(&next)?,
                Seen::Lower(layer, found) if found.is_symlink() => {
                    self.lowers[layer].read_link(&next)?
                }
                Seen::Upper(found) if found.is_dir() => {
                    if create {
                        self.keep_attributes(&next, &found)?;
                    }
                    at = next;
                    continue;
                }
                Seen::Lower(layer, found) if found.is_dir() => {
                    if create {
                        self.copy_folder(layer, &next, &found)?;
                    }
                    at = next;
                    continue;
                }
                _ if !create => return Ok(None),
                // Something else is in the way, and this layer needs a directory here.
                Seen::Upper(_) => {
                    self.remove(&next)?;
                    self.default_folder(&next)?;
                    at = next;
                    continue;
                }
                Seen::Lower(..) | Seen::Nothing => {
                    self.default_folder(&next)?;
                    at = next;
                    continue;
                }
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            for part in target.iter().rev() {
                todo.push_front(part.to_owned());
            }
        }
        Ok(Some(at))
    }

    fn see(&self, path: &Path) -> io::Result<Seen> {
        if let Some(found) = self.upper.lookup(path)? {
            return Ok(Seen::Upper(found));
        }
        if self.hidden.contains(path) {
            return Ok(Seen::Nothing);
        }
        Ok(match self.below(path)? {
            Some((layer, found)) => Seen::Lower(layer, found),
            None => Seen::Nothing,
        })
    }

    /// What lower layers show at a canonical path, this layer's own whiteout of exactly that path
    /// not counted.
    pub(crate) fn below(&self, path: &Path) -> io::Result<Option<(usize, Metadata)>> {
        let mut layers: Vec<usize> = (0..self.lowers.len()).rev().collect();
        if layers.is_empty() || self.covers(path)? {
            return Ok(None);
        }
        self.stop_at_opaque(&mut layers, Path::new(""))?;
        let mut prefix = PathBuf::new();
        let mut answer = None;
        for part in path {
            prefix.push(part);
            (layers, answer) = self.step(&layers, &prefix)?;
            let last = prefix.as_path() == path;
            let folder = answer.is_some_and(|(_, found): (usize, Metadata)| found.is_dir());
            if !last && !folder {
                return Ok(None);
            }
        }
        Ok(answer)
    }

    /// One component down: the layers that show it as a directory, and the topmost thing there.
    fn step(&self, layers: &[usize], path: &Path) -> io::Result<Step> {
        let mut next = Vec::new();
        let mut answer = None;
        for &layer in layers {
            let Some(found) = self.lowers[layer].lookup(path)? else {
                continue;
            };
            if found.is_whiteout() {
                break;
            }
            if !found.is_dir() {
                answer = answer.or(Some((layer, found)));
                break;
            }
            answer = answer.or(Some((layer, found)));
            next.push(layer);
            if is_opaque(&self.lowers[layer], path)? {
                break;
            }
        }
        Ok((next, answer))
    }

    fn stop_at_opaque(&self, layers: &mut Vec<usize>, path: &Path) -> io::Result<()> {
        for (index, layer) in layers.iter().enumerate() {
            if is_opaque(&self.lowers[*layer], path)? {
                layers.truncate(index + 1);
                break;
            }
        }
        Ok(())
    }

    /// Whether something of this layer above `path` hides all of the lower layers there.
    fn covers(&self, path: &Path) -> io::Result<bool> {
        for above in path.ancestors().skip(1) {
            let whole = !above.as_os_str().is_empty() && self.hidden.contains(above);
            if whole || self.opaque.contains(above) {
                return Ok(true);
            }
        }
        Ok(!self.is_canonical(path)?)
    }

    /// Whether everything above `path` in the upper folder is a directory, or not there. A path
    /// that was canonical once need not be for ever: a directory may have become a link since.
    pub(crate) fn is_canonical(&self, path: &Path) -> io::Result<bool> {
        let mut above = PathBuf::new();
        let parts = path.parent().unwrap_or(Path::new(""));
        for part in parts {
            above.push(part);
            match self.upper.lookup(&above)? {
                None => return Ok(true),
                Some(found) if found.is_dir() => {}
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

// Changes.

impl Tree<'_> {
    /// Remembers what a directory is like now, before something is created in it.
    pub(crate) fn keep_attributes(&mut self, path: &Path, found: &Metadata) -> io::Result<()> {
        if self.deferred.contains_key(path) {
            return Ok(());
        }
        let (mode, mtime) = (found.mode, found.mtime);
        self.deferred
            .insert(path.to_owned(), Deferred { mode, mtime });
        if mode & 0o700 != 0o700 {
            self.upper.set_mode(path, mode | 0o700)?;
        }
        Ok(())
    }

    /// Gives a directory of a lower layer a place in this one, with everything it says.
    fn copy_folder(&mut self, layer: usize, path: &Path, found: &Metadata) -> io::Result<()> {
        self.upper.create_dir(path, 0o700)?;
        if self.borrowing {
            self.borrowed.insert(path.to_owned());
        }
        self.copy_attributes(layer, path, found)?;
        let (mode, mtime) = (found.mode, found.mtime);
        self.deferred
            .insert(path.to_owned(), Deferred { mode, mtime });
        Ok(())
    }

    /// Gives the root the attributes that it has in the layers below.
    pub(crate) fn inherit_root(&mut self) -> io::Result<()> {
        let top = Path::new("");
        let Some(layer) = self.lowers.len().checked_sub(1) else {
            self.ownership
                .give(self.upper, top, Owner::default(), 0o755)
                .or_else(unless_ours)?;
            self.deferred.insert(top.to_owned(), default_attributes());
            return Ok(());
        };
        let found = self.lowers[layer].metadata(top)?;
        self.copy_attributes(layer, top, &found)?;
        let (mode, mtime) = (found.mode, found.mtime);
        self.deferred
            .insert(top.to_owned(), Deferred { mode, mtime });
        Ok(())
    }

    /// A directory that no layer describes: root's, 0755, from the epoch.
    fn default_folder(&mut self, path: &Path) -> io::Result<()> {
        self.upper.create_dir(path, 0o700)?;
        let default = default_attributes();
        self.ownership
            .give(self.upper, path, Owner::default(), default.mode)?;
        self.upper.set_mode(path, 0o700)?;
        self.deferred.insert(path.to_owned(), default);
        Ok(())
    }

    /// Owner and extended attributes, also recorded ones; what overlayfs itself notes stays behind.
    fn copy_attributes(&self, layer: usize, path: &Path, found: &Metadata) -> io::Result<()> {
        if self.ownership == Ownership::Mapped {
            self.upper.set_owner(path, found.owner)?;
        }
        for (name, value) in self.lowers[layer].xattrs(path)? {
            let bytes = name.as_encoded_bytes();
            let overlays =
                bytes.starts_with(b"user.overlay.") && !bytes.starts_with(b"user.overlay.overlay.");
            if !overlays && !bytes.starts_with(b"trusted.") && bytes != b"security.selinux" {
                self.upper.set_xattr(path, &name, &value)?;
            }
        }
        Ok(())
    }

    /// Copies a file of a lower layer into this one, so that it can get a second name.
    pub(crate) fn copy_up(&mut self, path: &Path) -> io::Result<bool> {
        let Seen::Lower(layer, found) = self.see(path)? else {
            return Ok(false);
        };
        self.borrowing = true;
        let place = self.place(path);
        self.borrowing = false;
        let (folder, name) = place?;
        self.borrowed.insert(path.to_owned());
        let lower = &self.lowers[layer];
        match found.kind {
            Kind::Directory => return Err(rustix::io::Errno::PERM.into()),
            Kind::Symlink => self.upper.symlink(&lower.read_link(path)?, path)?,
            Kind::File => {
                let mut to = super::root::create_in(folder.as_fd(), &name)?;
                io::copy(&mut lower.open_file(path)?, &mut to)?;
            }
            kind => self.upper.make_node(path, kind, 0o600, found.node)?,
        }
        self.copy_attributes(layer, path, &found)?;
        if found.kind != Kind::Symlink {
            self.upper.set_mode(path, found.mode)?;
        }
        self.upper.set_mtime(path, found.mtime)?;
        Ok(true)
    }

    /// The layer itself brings something at `path`.
    pub(crate) fn own(&mut self, path: &Path) {
        if self.borrowed.is_empty() {
            return;
        }
        for part in path.ancestors() {
            self.borrowed.remove(part);
        }
    }

    /// Gives back what was borrowed at `path` (`at_top`) or below it: it is being hidden.
    pub(crate) fn give_back(&mut self, path: &Path, at_top: bool) -> io::Result<()> {
        let hit = |known: &&PathBuf| known.starts_with(path) && (at_top || *known != path);
        let hits: Vec<PathBuf> = self.borrowed.iter().filter(hit).cloned().collect();
        for known in hits {
            self.borrowed.remove(&known);
            // Sorted, so a directory goes with everything in it.
            if self.is_canonical(&known)? && self.upper.lookup(&known)?.is_some() {
                self.remove(&known)?;
            }
        }
        Ok(())
    }

    /// Removes what the upper folder has at a canonical path. What lower layers have there is
    /// hidden from then on: the layer replaced it.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Err(super::root::invalid("the root cannot be replaced"));
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let fd = self
            .upper
            .resolve(folder, OFlags::PATH | OFlags::DIRECTORY)?;
        let found = stat_in(fd.as_fd(), name)?;
        remove_all_in(fd.as_fd(), name)?;
        if found.is_dir() {
            self.cache.clear();
            self.deferred.retain(|known, _| !known.starts_with(path));
        }
        if self.has_lowers() {
            self.hidden.insert(path.to_owned());
        }
        Ok(())
    }
}

fn default_attributes() -> Deferred {
    Deferred {
        mode: 0o755,
        mtime: Timestamp::default(),
    }
}

/// The owner of the outermost folder may be somebody else's business.
fn unless_ours(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    }
}

pub(crate) fn is_opaque(root: &Root, path: &Path) -> io::Result<bool> {
    Ok(root.xattr(path, OsStr::new(OPAQUE))?.as_deref() == Some(b"y"))
}
