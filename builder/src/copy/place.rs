//! Puts a selection into a tree, by docker's rules for destinations.
//!
//! A folder's contents go into the destination; a file goes below a destination that is a folder
//! (by its slash or because it is there) and becomes it otherwise. Missing folders are made with
//! mode 0755 or the octal `--chmod`, and the owner of the copy, the destination itself too; folders below it take the
//! source's attributes, also where they were there (as BuildKit and buildah do it). Links in the
//! destination's path are followed inside the image; names below it are replaced, not followed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use unpacker::layer::Ownership;
use unpacker::layer::ownership::OVERRIDE_STAT;
use unpacker::layer::root::Root;
use unpacker::layer::root::attributes::set_mtime_of;
use unpacker::layer::root::metadata::{Kind, Metadata, Owner, Timestamp};
use unpacker::progress::{Cancel, Cancelled};

use crate::plan::Dest;
use crate::plan::mode::Mode;

use super::CopyError;
use super::changes::Changes;
use super::select::{Item, Match, Seen};
use super::side_by_side::each;

/// As the kernel: so many links in one path are a loop.
const MAX_LINKS: usize = 40;
pub(crate) const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const SMALL_FILE: usize = 64 * 1024;
/// What is copied between two looks at whether to stop.
const PIECE: u64 = 32 << 20;

/// Where to and how.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    pub from: &'a Root,
    /// The build context's owners mean nothing.
    pub from_context: bool,
    pub to: &'a Root,
    pub dest: &'a Dest,
    /// `--chown`.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<&'a Mode>,
    pub ownership: Ownership,
    /// What turns out to be something else than what was hashed.
    pub changes: &'a Changes,
    pub cancel: &'a Cancel,
}

/// Copies every match.
pub fn place(placement: &Placement<'_>, matches: &[Match]) -> Result<(), CopyError> {
    let several = matches.len() > 1 && !placement.dest.directory;
    if several && !placement.dest_is_folder()? {
        return Err(CopyError::NotADirectory {
            dest: placement.dest.path.clone(),
        });
    }
    for found in matches {
        match found.is_dir() {
            true => placement.folder(found)?,
            false => placement.file(found)?,
        }
    }
    Ok(())
}

/// The extended attributes that belong to the file and not to the way in which we keep it.
pub(crate) fn xattrs_to_copy(
    root: &Root,
    path: &Path,
    found: &Metadata,
) -> Result<Vec<(OsString, Vec<u8>)>, CopyError> {
    if !matches!(found.kind, Kind::File | Kind::Directory) {
        return Ok(Vec::new());
    }
    let mut all = root.xattrs(path).map_err(CopyError::read(path))?;
    all.retain(|(name, _)| {
        let name = name.as_bytes();
        let ours = name == OVERRIDE_STAT.as_bytes() || name.starts_with(b"user.overlay.");
        !ours && (name.starts_with(b"user.") || name == b"security.capability")
    });
    Ok(all)
}

impl Placement<'_> {
    fn dest_path(&self) -> &Path {
        Path::new(&self.dest.path)
    }

    fn dest_is_folder(&self) -> Result<bool, CopyError> {
        is_folder(self.to, self.dest_path())
    }

    fn folder(&self, found: &Match) -> Result<(), CopyError> {
        let dest = self.dest_path();
        let mut times = Vec::new();
        if !self.dest_is_folder()? {
            let end = through_links(self.to, dest)?;
            if lookup(self.to, &end)?.is_some() {
                return Err(CopyError::FolderOverFile { path: end });
            }
            self.make_all(dest)?;
        }
        // All folders first: what is in them may then be copied in any order, but for files with several
        // names.
        let (mut single, mut linked) = (Vec::new(), Vec::new());
        for item in &found.items {
            self.cancel.check()?;
            match item.metadata.kind {
                Kind::Directory => {
                    let to = dest.join(&item.path);
                    self.merge_folder(&found.full(item), &item.metadata, &to)?;
                    times.push((to, item.metadata.mtime));
                }
                Kind::File if item.metadata.links > 1 => linked.push(item),
                _ => single.push(item),
            }
        }
        let copy = |placement: &Placement<'_>, item: &Item, links: &mut HashMap<_, _>| {
            placement.cancel.check()?;
            let (from, to) = (found.full(item), dest.join(&item.path));
            placement.entry(&from, (&item.metadata, &item.seen), &to, links)
        };
        each(
            &single,
            || self.roots(),
            |(from, to), item| copy(&Placement { from, to, ..*self }, item, &mut HashMap::new()),
        )?;
        let mut links = HashMap::new();
        for item in linked {
            copy(self, item, &mut links)?;
        }
        // Filling a folder changes its time, so the innermost are set first.
        for (path, mtime) in times.iter().rev() {
            let set = self.to.set_mtime(path, *mtime);
            set.map_err(CopyError::write(path))?;
        }
        Ok(())
    }

    /// Both trees, for a thread's own walk.
    fn roots(&self) -> Result<(Root, Root), CopyError> {
        let here = Path::new(".");
        let from = self.from.try_clone().map_err(CopyError::read(here))?;
        let to = self.to.try_clone().map_err(CopyError::write(here))?;
        Ok((from.steady(), to.steady()))
    }

    fn file(&self, found: &Match) -> Result<(), CopyError> {
        let mut target = self.dest_path().to_owned();
        if self.dest.directory || self.dest_is_folder()? {
            self.make_all(&target)?;
            target.push(&found.name);
        }
        let target = through_links(self.to, &target)?;
        self.make_parents(&target)?;
        let what = (&found.metadata, &found.seen);
        self.entry(&found.path, what, &target, &mut HashMap::new())
    }

    /// A folder below the destination takes the source's attributes, also when it was there.
    fn merge_folder(&self, from: &Path, found: &Metadata, to: &Path) -> Result<(), CopyError> {
        match lookup(self.to, to)? {
            None => self.make_folder(from, found, to),
            Some(there) if there.is_dir() => self.attributes(from, found, to),
            Some(_) => Err(CopyError::FolderOverFile {
                path: to.to_owned(),
            }),
        }
    }

    fn make_folder(&self, from: &Path, found: &Metadata, to: &Path) -> Result<(), CopyError> {
        let made = self.to.create_dir(to, FOLDER_MODE);
        made.map_err(CopyError::write(to))?;
        self.attributes(from, found, to)
    }

    /// Anything but a folder; what is there is replaced.
    fn entry(
        &self,
        from: &Path,
        (found, seen): (&Metadata, &Seen),
        to: &Path,
        links: &mut HashMap<(u64, u64), PathBuf>,
    ) -> Result<(), CopyError> {
        match lookup(self.to, to)? {
            Some(there) if there.is_dir() => {
                let path = to.to_owned();
                return Err(CopyError::FileOverFolder { path });
            }
            Some(_) => self.to.remove(to).map_err(CopyError::write(to))?,
            None => {}
        }
        if found.is_file() && found.links > 1 {
            if let Some(first) = links.get(&found.identity) {
                return self.to.hard_link(first, to).map_err(CopyError::write(to));
            }
            links.insert(found.identity, to.to_owned());
        }
        self.make(from, (found, seen), to)
    }

    /// With as few calls as it takes: most of what is copied are small files.
    fn regular_file(
        &self,
        from: &Path,
        (found, seen): (&Metadata, &Seen),
        to: &Path,
    ) -> Result<(), CopyError> {
        let mut input = self.from.open_file(from).map_err(CopyError::read(from))?;
        let output = self.to.create_private(to);
        let mut output = output.map_err(CopyError::write(to))?;
        let copied = copy_content(&mut input, &mut output, found.size, self.cancel)?;
        copied.map_err(CopyError::write(to))?;
        let again = || self.to.open_file(to).map_err(CopyError::write(to));
        self.changes
            .compare(seen, from, &input, again, self.cancel)?;
        let (owner, mode) = self.source_owner(from, found)?;
        let owner = self.owner.unwrap_or(owner);
        let given = self
            .ownership
            .give_file(&output, owner, self.changed(mode, false));
        given.map_err(CopyError::write(to))?;
        self.copy_xattrs(from, found, to)?;
        set_mtime_of(&output, found.mtime).map_err(CopyError::write(to))
    }

    fn make(
        &self,
        from: &Path,
        (found, seen): (&Metadata, &Seen),
        to: &Path,
    ) -> Result<(), CopyError> {
        match found.kind {
            Kind::File => return self.regular_file(from, (found, seen), to),
            Kind::Symlink => {
                let target = match seen {
                    Seen::Link(target) => target.clone(),
                    _ => self.from.read_link(from).map_err(CopyError::read(from))?,
                };
                self.to.symlink(&target, to)
            }
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => {
                let (mode, node) = (found.mode, found.node);
                self.to.make_node(to, found.kind, mode, node)
            }
            // No layer has sockets; BuildKit leaves an empty file in the place of each.
            Kind::Socket => self.to.create_private(to).map(drop),
            Kind::Directory => Err(rustix::io::Errno::ISDIR.into()),
        }
        .map_err(CopyError::write(to))?;
        self.attributes(from, found, to)?;
        let set = self.to.set_mtime(to, found.mtime);
        set.map_err(CopyError::write(to))
    }

    /// Owner and mode first: a change of owner takes capabilities away.
    pub(crate) fn attributes(
        &self,
        from: &Path,
        found: &Metadata,
        to: &Path,
    ) -> Result<(), CopyError> {
        let (owner, mode) = self.source_owner(from, found)?;
        let owner = self.owner.unwrap_or(owner);
        let mode = self.changed(mode, found.is_dir());
        let given = self.ownership.give(self.to, to, owner, mode);
        given.map_err(CopyError::write(to))?;
        self.copy_xattrs(from, found, to)
    }

    /// Those of a context mean nothing.
    fn copy_xattrs(&self, from: &Path, found: &Metadata, to: &Path) -> Result<(), CopyError> {
        if self.from_context {
            return Ok(());
        }
        for (name, value) in xattrs_to_copy(self.from, from, found)? {
            let set = self.to.set_xattr(to, &name, &value);
            set.map_err(CopyError::write(to))?;
        }
        Ok(())
    }

    fn source_owner(&self, from: &Path, found: &Metadata) -> Result<(Owner, u32), CopyError> {
        if !self.from_context {
            let kept = self.ownership.of(self.from, from, found);
            return kept.map_err(CopyError::read(from));
        }
        Ok((Owner::default(), found.mode))
    }

    fn make_parents(&self, path: &Path) -> Result<(), CopyError> {
        self.make_all(path.parent().unwrap_or(Path::new("/")))
    }

    fn make_all(&self, path: &Path) -> Result<(), CopyError> {
        let owner = self.owner.unwrap_or_default();
        let mode = self.mode.and_then(Mode::of_new_folders);
        let mode = mode.unwrap_or(FOLDER_MODE);
        make_folders(self.to, path, owner, mode, self.ownership).map_err(CopyError::write(path))
    }

    /// A mode after `--chmod`.
    fn changed(&self, mode: u32, is_folder: bool) -> u32 {
        self.mode.map_or(mode, |own| own.apply(mode, is_folder))
    }
}

/// Copies a file of about this size. The kernel copies large ones, by reflink where the file system can;
/// for small ones asking it costs more than the copy.
fn copy_content(
    from: &mut File,
    to: &mut File,
    size: u64,
    cancel: &Cancel,
) -> Result<io::Result<()>, Cancelled> {
    if usize::try_from(size).map_or(true, |size| size >= SMALL_FILE) {
        return copy_bytes(from, to, cancel);
    }
    let mut small = [0; SMALL_FILE];
    loop {
        cancel.check()?;
        let read = match from.read(&mut small) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = to.write_all(&small[..read]) {
            return Ok(Err(error));
        }
    }
}

/// Copies a file's content, piece by piece; the kernel does it where it can.
pub(crate) fn copy_bytes(
    from: &mut File,
    to: &mut File,
    cancel: &Cancel,
) -> Result<io::Result<()>, Cancelled> {
    loop {
        cancel.check()?;
        match io::copy(&mut Read::take(&mut *from, PIECE), to) {
            Ok(0) => return Ok(Ok(())),
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// Makes what is missing of a path.
pub(crate) fn make_folders(
    root: &Root,
    path: &Path,
    owner: Owner,
    mode: u32,
    ownership: Ownership,
) -> io::Result<()> {
    for made in root.create_dir_all(path, FOLDER_MODE, None)? {
        ownership.give(root, &made, owner, mode)?;
    }
    Ok(())
}

/// Writes a file that the Dockerfile holds. Its time is no input of the build, so it is always the same.
pub fn place_inline(placement: &Placement<'_>, name: &str, body: &str) -> Result<(), CopyError> {
    let mut target = placement.dest_path().to_owned();
    if placement.dest.directory || placement.dest_is_folder()? {
        placement.make_all(&target)?;
        target.push(name);
    }
    let target = through_links(placement.to, &target)?;
    placement.make_parents(&target)?;
    match lookup(placement.to, &target)? {
        Some(there) if there.is_dir() => return Err(CopyError::FileOverFolder { path: target }),
        Some(_) => placement
            .to
            .remove(&target)
            .map_err(CopyError::write(&target))?,
        None => {}
    }
    let written = (|| {
        let mut file = placement.to.create_file(&target, FILE_MODE)?;
        file.write_all(body.as_bytes())?;
        let owner = placement.owner.unwrap_or_default();
        let mode = placement.changed(FILE_MODE, false);
        placement
            .ownership
            .give(placement.to, &target, owner, mode)?;
        placement.to.set_mtime(&target, Timestamp::default())
    })();
    written.map_err(CopyError::write(&target))
}

/// Follows links at the end of a path, also to what is not there yet.
fn through_links(root: &Root, path: &Path) -> Result<PathBuf, CopyError> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        if !lookup(root, &at)?.is_some_and(|found| found.is_symlink()) {
            return Ok(at);
        }
        let target = root.read_link(&at).map_err(CopyError::write(&at))?;
        at = at.parent().unwrap_or(Path::new("/")).join(target);
    }
    let error = io::Error::from(rustix::io::Errno::LOOP);
    Err(CopyError::write(path)(error))
}

fn lookup(root: &Root, path: &Path) -> Result<Option<Metadata>, CopyError> {
    root.lookup(path).map_err(CopyError::write(path))
}

fn is_folder(root: &Root, path: &Path) -> Result<bool, CopyError> {
    match root.metadata_followed(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(e) => Err(CopyError::write(path)(e)),
    }
}
