//! Changing the tree: directories that are made on the way, files that a hard link needs here, and
//! removing. Every change keeps what was noted of the tree true.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom, mkdirat, openat};
use rustix::io::Errno;

use super::{Deferred, Folder, Level, MAX_DEFERRED, Seen, Tree, TreeError};
use crate::layer::Ownership;
use crate::layer::ownership::OVERRIDE_STAT;
use crate::layer::root::attributes::{
    mode_in, mtime_in, owner_in, remove_xattr_in, set_xattr_in, xattrs_in,
};
use crate::layer::root::metadata::{Kind, Metadata, Owner, Timestamp};
use crate::layer::root::{create_in, link_in, node_in, remove_all_in, stat_in};
use crate::layer::xattrs::ACL_DEFAULT;

const CHUNK: usize = 128 * 1024;

/// Directories that are made on the way.
impl Tree<'_> {
    /// Sees to it that a directory which a name leads through is one of this layer.
    pub(super) fn make_real(
        &mut self,
        level: &Level,
        seen: &Seen,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), TreeError> {
        match seen {
            Seen::Upper(found) if found.is_dir() => self.keep_attributes(path, found),
            Seen::Lower(slot, found) if found.is_dir() => {
                self.copy_folder(level, *slot, path, name, found)
            }
            // Something else is in the way, and this layer needs a directory here.
            Seen::Upper(_) => {
                self.remove_at(level.upper_fd()?, path, name)?;
                self.default_folder(level.upper_fd()?, path, name)
            }
            Seen::Unknown => {
                self.imply(path)?;
                self.default_folder(level.upper_fd()?, path, name)
            }
            Seen::Lower(..) | Seen::Nothing => self.default_folder(level.upper_fd()?, path, name),
        }
    }

    /// Remembers what a directory is like now, before something is created in it.
    pub(crate) fn keep_attributes(
        &mut self,
        path: &Path,
        found: &Metadata,
    ) -> Result<(), TreeError> {
        if self.deferred.contains_key(path) {
            return Ok(());
        }
        let (mode, mtime) = (found.mode, found.mtime);
        self.defer(path, Deferred { mode, mtime })?;
        if mode & 0o700 != 0o700 {
            self.upper.set_mode(path, mode | 0o700)?;
        }
        let list = self.upper.xattr(path, OsStr::new(ACL_DEFAULT))?;
        if list.is_some() {
            self.upper.remove_xattr(path, OsStr::new(ACL_DEFAULT))?;
            self.defer_list(path, list)?;
        }
        Ok(())
    }

    /// Notes the access control list that a directory gives to what is created in it: what a layer
    /// brings has only what its entry says. `None` means that it has no such list.
    pub(crate) fn defer_list(
        &mut self,
        path: &Path,
        list: Option<Vec<u8>>,
    ) -> Result<(), TreeError> {
        let Some(list) = list else {
            self.lists.remove(path);
            return Ok(());
        };
        self.budget.remember(path)?;
        self.budget.remember_bytes(list.len() as u64)?;
        self.lists.insert(path.to_owned(), list);
        Ok(())
    }

    pub(crate) fn take_list(&mut self, path: &Path) -> Option<Vec<u8>> {
        self.lists.remove(path)
    }

    /// Notes what a directory shall be like when the layer is done.
    pub(crate) fn defer(&mut self, path: &Path, deferred: Deferred) -> Result<(), TreeError> {
        if let Some(known) = self.deferred.get_mut(path) {
            *known = deferred;
            return Ok(());
        }
        self.budget.remember(path)?;
        self.deferred.insert(path.to_owned(), deferred);
        Ok(())
    }

    /// What was noted of the last directory in the order of paths; it is not noted after that.
    pub(crate) fn pop_deferred(&mut self) -> Option<(PathBuf, Deferred)> {
        let (path, deferred) = self.deferred.pop_last()?;
        self.budget.forget(&path);
        Some((path, deferred))
    }

    /// Whether enough directories are noted to finish them before the layer's end. What was borrowed
    /// may be taken out of them again without a look at them.
    pub(crate) fn is_crowded(&self) -> bool {
        self.deferred.len() > MAX_DEFERRED && self.borrowed.is_empty()
    }

    /// Lets go of all directories but the root: whatever comes into one of them next looks at what it
    /// is like then.
    pub(crate) fn begin_anew(&mut self, root: Option<Deferred>) -> Result<(), TreeError> {
        self.cache.clear();
        match root {
            Some(deferred) => self.defer(Path::new(""), deferred),
            None => Ok(()),
        }
    }

    /// Gives a directory of a lower layer a place in this one, with everything it says.
    fn copy_folder(
        &mut self,
        level: &Level,
        slot: usize,
        path: &Path,
        name: &OsStr,
        found: &Metadata,
    ) -> Result<(), TreeError> {
        self.budget.entry()?;
        let (lower, upper) = (level.lower(slot)?.as_fd(), level.upper_fd()?);
        mkdirat(upper, name, Mode::RWXU)?;
        if self.borrowing {
            self.borrow(path)?;
        }
        let list = copy_attributes(self.ownership, lower, upper, name, found)?;
        self.defer_list(path, list)?;
        let (mode, mtime) = (found.mode, found.mtime);
        self.defer(path, Deferred { mode, mtime })
    }

    /// A directory that no layer describes: root's, 0755, from the epoch.
    fn default_folder(
        &mut self,
        upper: BorrowedFd<'_>,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), TreeError> {
        self.budget.entry()?;
        mkdirat(upper, name, Mode::RWXU)?;
        let (owner, default) = (Owner::default(), default_attributes());
        self.ownership
            .own_in(upper, name, Kind::Directory, owner, default.mode)?;
        self.defer(path, default)
    }

    /// Gives the root the attributes that it has in the layers below.
    pub(crate) fn inherit_root(&mut self) -> Result<(), TreeError> {
        let top = Path::new("");
        let Some(lowest) = self.lowers.last() else {
            self.ownership
                .give(self.upper, top, Owner::default(), 0o755)
                .or_else(unless_ours)?;
            return self.defer(top, default_attributes());
        };
        let found = lowest.metadata(top)?;
        let name = OsStr::new(".");
        let list = copy_attributes(
            self.ownership,
            lowest.as_fd(),
            self.upper.as_fd(),
            name,
            &found,
        )?;
        self.defer_list(top, list)?;
        let (mode, mtime) = (found.mode, found.mtime);
        self.defer(top, Deferred { mode, mtime })
    }
}

/// Files that a hard link needs here.
impl Tree<'_> {
    /// Copies a file of a lower layer into this one, so that it can get a second name.
    pub(crate) fn copy_up(&mut self, path: &Path) -> Result<bool, TreeError> {
        let name = path.file_name().unwrap_or_default();
        let Some(level) = self.above(path)? else {
            return Ok(false);
        };
        let Seen::Lower(slot, found) = self.see(&level, path, name)? else {
            return Ok(false);
        };
        if found.is_dir() {
            return Err(Errno::PERM.into());
        }
        let lower = level.lower(slot)?.as_fd();
        self.borrowing = true;
        let place = self.place(path);
        self.borrowing = false;
        let (folder, _) = place?;
        self.borrow(path)?;
        self.budget.entry()?;
        if self.link_copy(&found, &folder, name)? {
            return Ok(true);
        }
        self.copy_file(lower, &folder, name, &found)?;
        if found.links > 1 {
            self.budget.remember(path)?;
            self.copies.insert(found.identity, path.to_owned());
        }
        Ok(true)
    }

    /// Whether the lower file came here under another of its names; then that is linked.
    fn link_copy(
        &mut self,
        found: &Metadata,
        folder: &Folder,
        name: &OsStr,
    ) -> Result<bool, TreeError> {
        let Some(copy) = self.copies.get(&found.identity).cloned() else {
            return Ok(false);
        };
        let first = copy.file_name().unwrap_or_default();
        let Some(level) = self.above(&copy)? else {
            return Ok(false);
        };
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::linkat(level.upper_fd()?, first, folder, name, flags)?;
        Ok(true)
    }

    fn copy_file(
        &mut self,
        lower: BorrowedFd<'_>,
        folder: &Folder,
        name: &OsStr,
        found: &Metadata,
    ) -> Result<(), TreeError> {
        let upper = folder.as_fd();
        match found.kind {
            Kind::Symlink => rustix::fs::symlinkat(&link_in(lower, name)?, upper, name)?,
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let from = File::from(openat(lower, name, flags, Mode::empty())?);
                self.copy_data(&from, &create_in(upper, name)?, found.size)?;
            }
            kind => node_in(upper, name, kind, found.node)?,
        }
        copy_attributes(self.ownership, lower, upper, name, found)?;
        if found.kind != Kind::Symlink {
            mode_in(upper, name, found.mode)?;
        }
        Ok(mtime_in(upper, name, found.mtime)?)
    }

    /// Copies what a file holds; its holes stay holes.
    fn copy_data(&mut self, from: &File, to: &File, size: u64) -> Result<(), TreeError> {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while let Some(start) = seek(from, SeekFrom::Data(at))? {
            let end = seek(from, SeekFrom::Hole(start))?.unwrap_or(size).min(size);
            at = start;
            while at < end {
                let room = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                let read = from.read_at(&mut buffer[..room], at)?;
                if read == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                self.budget.copy(read as u64)?;
                to.write_all_at(&buffer[..read], at)?;
                at += read as u64;
            }
        }
        Ok(to.set_len(size)?)
    }

    fn borrow(&mut self, path: &Path) -> Result<(), TreeError> {
        self.budget.remember(path)?;
        self.borrowed.insert(path.to_owned());
        Ok(())
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
}

/// Hiding and removing.
impl Tree<'_> {
    /// Hides what lower layers have at a canonical path.
    pub(crate) fn hide(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.is_hidden(path) {
            return Ok(());
        }
        self.budget.remember(path)?;
        self.hidden.insert(path.into());
        self.cache.forget(path);
        Ok(())
    }

    /// Hides what lower layers have in a directory.
    pub(crate) fn hide_content(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.is_opaque(path) {
            return Ok(());
        }
        self.budget.remember(path)?;
        self.opaque.insert(path.into());
        self.cache.forget(path);
        Ok(())
    }

    /// Gives back what was borrowed at `path` (`at_top`) or below it: it is being hidden.
    pub(crate) fn give_back(&mut self, path: &Path, at_top: bool) -> Result<(), TreeError> {
        let below = (Bound::Included(path), Bound::Unbounded);
        let hits: Vec<PathBuf> = (self.borrowed.range::<Path, _>(below))
            .take_while(|known| known.starts_with(path))
            .filter(|known| at_top || *known != path)
            .cloned()
            .collect();
        for known in hits {
            self.borrowed.remove(&known);
            // Sorted, so a directory goes with everything in it.
            self.remove(&known)?;
        }
        Ok(())
    }

    /// Removes what the upper folder has at a canonical path; nothing there is no error.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), TreeError> {
        let name = path.file_name().unwrap_or_default();
        let Some(level) = self.above(path)? else {
            return Ok(());
        };
        match level.upper(name)? {
            Some(_) => self.remove_at(level.upper_fd()?, path, name),
            None => Ok(()),
        }
    }

    /// Removes what is there. What lower layers have there is hidden from then on: the layer
    /// replaced it.
    pub(crate) fn remove_at(
        &mut self,
        upper: BorrowedFd<'_>,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), TreeError> {
        self.budget.check()?;
        if path.as_os_str().is_empty() {
            return Err(crate::layer::root::invalid("the root cannot be replaced").into());
        }
        let found = stat_in(upper, name)?;
        remove_all_in(upper, name)?;
        self.copies.clear();
        if found.is_dir() {
            self.cache.clear();
            self.forget_deferred(path);
            self.forget_implied(path);
        }
        match self.has_lowers() {
            true => self.hide(path),
            false => Ok(()),
        }
    }

    fn forget_deferred(&mut self, path: &Path) {
        let below = (Bound::Included(path), Bound::Unbounded);
        let gone: Vec<PathBuf> = (self.deferred.range::<Path, _>(below))
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .cloned()
            .collect();
        for known in gone {
            self.deferred.remove(&known);
        }
        self.lists.retain(|known, _| !known.starts_with(path));
    }
}

/// Owner and extended attributes, also recorded ones; what overlayfs itself notes stays behind.
/// Answers the list for what is created in it, which is not set yet.
fn copy_attributes(
    ownership: Ownership,
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
) -> io::Result<Option<Vec<u8>>> {
    if ownership == Ownership::Mapped {
        owner_in(upper, name, found.owner)?;
    }
    let mut list = None;
    for (key, value) in xattrs_in(lower, name)? {
        if key == ACL_DEFAULT {
            list = Some(value);
        } else if is_images(&key) {
            set_xattr_in(upper, name, &key, &value)?;
        }
    }
    Ok(list)
}

/// Whether an attribute says something of the image, and not of this layer's folder or this host.
pub(crate) fn is_images(key: &OsStr) -> bool {
    let bytes = key.as_encoded_bytes();
    let overlays =
        bytes.starts_with(b"user.overlay.") && !bytes.starts_with(b"user.overlay.overlay.");
    !overlays && !bytes.starts_with(b"trusted.") && bytes != b"security.selinux"
}

/// Makes a directory that was made by default say what another one says.
pub(crate) fn take_attributes(
    ownership: Ownership,
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
) -> io::Result<()> {
    if ownership == Ownership::Recorded {
        match remove_xattr_in(upper, name, OsStr::new(OVERRIDE_STAT)) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::NODATA) => return Err(error),
            _ => {}
        }
    }
    match copy_attributes(ownership, lower, upper, name, found)? {
        Some(list) => set_xattr_in(upper, name, OsStr::new(ACL_DEFAULT), &list),
        None => Ok(()),
    }
}

/// Where data or a hole begins; `None` after the last.
pub(crate) fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
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
