//! Stacks of layer folders, mounted by overlayfs and held by a descriptor.
//!
//! Mounts made here are detached: they appear in no mount table of the host, are used through
//! their descriptor and vanish with the last one. Overlays are always `userxattr`, as root too, so
//! that a snapshot has one form: whiteouts are char 0:0, opaque folders carry
//! `user.overlay.opaque=y`. Nothing here knows images, and nothing is ever mounted onto the host.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::copy::flatten;
use crate::layer::root::Root;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

/// Lower folders that overlayfs takes (`OVL_MAX_STACK`).
const MAX_LOWER: usize = 500;

/// The copy's name in the work folder.
const FLAT: &str = "flat";

/// What is stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Layer folders, lowest first.
    pub lower: Vec<PathBuf>,
    /// Where changes go, and overlayfs' own work folder; both on one file system. `None` makes a
    /// read-only view.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Skips every sync: changes need not survive a crash of the host.
    pub volatile: bool,
}

impl Overlay {
    /// Mounts without attaching. No lower folder: the upper folder itself; one lower folder and no
    /// upper: a clone of that folder (its mount stays as writable as it was).
    pub fn mount_detached(&self) -> io::Result<OwnedFd> {
        match (&self.lower[..], &self.upper) {
            ([], Some((upper, _))) => clone_of(upper),
            ([only], None) => clone_of(only),
            ([], None) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an overlay of no folders",
            )),
            _ => self.mount_stack(),
        }
    }

    /// As [`Overlay::mount_detached`], and where this host has no overlayfs for these folders a copy of
    /// everything, which is kept beside the work folder's other content and used from then on.
    pub fn mount_or_copy(&self) -> io::Result<OwnedFd> {
        let Some((upper, work)) = &self.upper else {
            return self.mount_detached();
        };
        let flat = work.join(FLAT);
        if !flat.exists() {
            match self.mount_detached() {
                Err(refused) if is_impossible(&refused) => {
                    self.copy(upper, &flat).map_err(|error| {
                        let text = format!("{refused}; and cannot copy the layers: {error}");
                        Refused::wrap(&error, text)
                    })?;
                }
                done => return done,
            }
        }
        clone_of(&flat)
    }

    fn copy(&self, upper: &Path, flat: &Path) -> io::Result<()> {
        let part = flat.with_extension("part");
        match std::fs::remove_dir_all(&part) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::create_dir(&part)?,
        }
        let layers = self.lower.iter().map(PathBuf::as_path).chain([upper]);
        let layers = layers.map(Root::open).collect::<io::Result<Vec<_>>>()?;
        flatten(&layers, &Root::open(&part)?)?;
        if !self.volatile {
            // Its name says that it is whole, also after a power cut.
            rustix::fs::syncfs(std::fs::File::open(&part)?)?;
        }
        std::fs::rename(part, flat)
    }

    fn mount_stack(&self) -> io::Result<OwnedFd> {
        if let Some((_, work)) = &self.upper {
            forget_volatile(work)?;
        }
        match self.create(add_each_lower) {
            // Kernels before 6.5 know only the one string.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.create(add_lowers_at_once).map_err(|_| e)
            }
            done => done,
        }
    }

    fn create(
        &self,
        add_lowers: fn(&OwnedFd, &[Folder<'_>]) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let lower = self.lowers()?;
        let upper = match &self.upper {
            Some((upper, work)) => Some((Folder::open(upper)?, Folder::open(work)?)),
            None => None,
        };
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let result = add_lowers(&fs, &lower).and_then(|()| self.configure(&fs, upper.as_ref()));
        result.map_err(|e| explained(&fs, e))?;
        Ok(fsmount(
            &fs,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?)
    }

    /// What is stacked below; where that is more than the kernel takes, the lowest are a stack of
    /// their own. Two overlays may lie on each other, no more.
    fn lowers(&self) -> io::Result<Vec<Folder<'_>>> {
        let too_many = self.lower.len().checked_sub(MAX_LOWER);
        let lowest = match too_many {
            Some(over @ 1..) => over + 1,
            _ => 0,
        };
        let (lowest, lower) = self.lower.split_at(lowest);
        let mut folders = Vec::new();
        if let Some(path) = lowest.first() {
            let stack = Self {
                lower: lowest.to_vec(),
                upper: None,
                volatile: false,
            };
            let fd = stack.mount_detached()?;
            folders.push(Folder { path, fd });
        }
        for path in lower {
            folders.push(Folder::open(path)?);
        }
        Ok(folders)
    }

    fn configure(&self, fs: &OwnedFd, upper: Option<&(Folder<'_>, Folder<'_>)>) -> io::Result<()> {
        fsconfig_set_string(fs, "source", "devpod")?;
        if let Some((upper, work)) = upper {
            upper.give(fs, "upperdir")?;
            work.give(fs, "workdir")?;
            if self.volatile {
                fsconfig_set_flag(fs, "volatile")?;
            }
        }
        fsconfig_set_flag(fs, "userxattr")?;
        // Layer folders share one file system, so inode numbers need no translation; an index
        // would refuse an upper folder whose last mount is still being torn down.
        fsconfig_set_string(fs, "xino", "off")?;
        fsconfig_set_string(fs, "index", "off")?;
        Ok(fsconfig_create(fs)?)
    }
}

/// A folder of the stack. A string option ends at 256 bytes and a path may be longer, so the kernel
/// is given the folder itself.
struct Folder<'a> {
    path: &'a Path,
    fd: OwnedFd,
}

impl<'a> Folder<'a> {
    fn open(path: &'a Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty());
        let explain =
            |e: Errno| Refused::wrap(&e.into(), format!("cannot open {}: {e}", path.display()));
        let fd = fd.map_err(explain)?;
        Ok(Self { path, fd })
    }

    fn give(&self, fs: &OwnedFd, option: &str) -> io::Result<()> {
        match fsconfig_set_fd(fs, option, &self.fd) {
            // Overlayfs takes descriptors since Linux 6.13.
            Err(Errno::INVAL) => Ok(fsconfig_set_string(fs, option, self.name())?),
            done => Ok(done?),
        }
    }

    /// Short, and good for as long as the descriptor is open. A container's first process builds its
    /// root below the host's /proc, which knows it under its number there; where no /proc is
    /// mounted the path must do.
    fn name(&self) -> PathBuf {
        let link = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        match link.exists() {
            true => link,
            false => self.path.to_owned(),
        }
    }
}

/// Whether the kernel has no overlayfs, does not let us have one, or not on this file system.
pub(crate) fn is_impossible(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
        || Errno::from_io_error(error) == Some(Errno::NODEV)
}

fn clone_of(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, folder, flags)?)
}

/// `lowerdir+` takes one folder, the topmost first, without a limit on the whole.
fn add_each_lower(fs: &OwnedFd, lower: &[Folder<'_>]) -> io::Result<()> {
    for folder in lower.iter().rev() {
        folder.give(fs, "lowerdir+")?;
    }
    Ok(())
}

fn add_lowers_at_once(fs: &OwnedFd, lower: &[Folder<'_>]) -> io::Result<()> {
    let names: Vec<PathBuf> = lower.iter().map(Folder::name).collect();
    let text = joined(&names);
    Ok(fsconfig_set_string(fs, "lowerdir", text.as_os_str())?)
}

/// The old option's syntax: topmost first, colons between, colons and backslashes escaped.
fn joined(lower: &[PathBuf]) -> OsString {
    let mut text = Vec::new();
    for folder in lower.iter().rev() {
        if !text.is_empty() {
            text.push(b':');
        }
        for &byte in folder.as_os_str().as_bytes() {
            if matches!(byte, b':' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
    }
    OsString::from_vec(text)
}

/// A volatile mount leaves a marker with which the kernel refuses the next mount: data may have
/// been lost in a crash. Whoever mounts the folder again has decided that it was not.
fn forget_volatile(work: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The kernel writes why it refuses into the file system context; what was tried in vain before
/// comes first.
fn explained(fs: &OwnedFd, error: io::Error) -> io::Error {
    let mut line = [0_u8; 1024];
    let mut last = None;
    while let Ok(n @ 1..) = rustix::io::read(fs.as_fd(), &mut line) {
        last = Some(String::from_utf8_lossy(&line[..n]).into_owned());
    }
    match last {
        Some(said) => {
            let text = format!("{error}: {}", said.trim_start_matches("e ").trim_end());
            Refused::wrap(&error, text)
        }
        None => error,
    }
}

/// An error that keeps its kind and number's text, with the kernel's words.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refused {
    text: String,
}

impl Refused {
    fn wrap(error: &io::Error, text: String) -> io::Error {
        io::Error::new(error.kind(), Self { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_has_a_short_name_that_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(160)).join("m".repeat(160));
        std::fs::create_dir_all(&path).unwrap();
        let folder = Folder::open(&path).unwrap();
        let name = folder.name();
        assert!(name.as_os_str().len() < 32, "{}", name.display());
        std::fs::write(name.join("file"), "").unwrap();
        assert!(path.join("file").exists());
        let Err(error) = Folder::open(&path.join("no")) else {
            panic!("a folder that is not there was opened");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no: "), "{error}");
    }

    #[test]
    fn the_old_option_escapes_and_turns_the_order() {
        let lower = [PathBuf::from("/a:b"), PathBuf::from("/c\\d")];
        assert_eq!(joined(&lower), OsString::from("/c\\\\d:/a\\:b"));
    }

    /// As a kernel has it that takes neither descriptors nor one lower folder at a time.
    #[test]
    fn links_stand_for_long_paths() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("n".repeat(160)).join("m".repeat(160));
        let lower = ["low", "high"].map(|name| long.join(name)).to_vec();
        for folder in &lower {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("file"), folder.as_os_str().as_bytes()).unwrap();
        }
        let overlay = Overlay {
            lower: lower.clone(),
            upper: None,
            volatile: false,
        };
        let root = match overlay.create(add_lowers_at_once) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: only root mounts in this namespace: {error}");
                return;
            }
            root => root.unwrap(),
        };
        let file = rustix::fs::openat(&root, "file", OFlags::RDONLY, Mode::empty()).unwrap();
        let text = io::read_to_string(std::fs::File::from(file)).unwrap();
        assert_eq!(text.as_bytes(), lower[1].as_os_str().as_bytes());
    }

    #[test]
    fn nothing_is_no_overlay() {
        let nothing = Overlay {
            lower: vec![],
            upper: None,
            volatile: false,
        };
        let error = nothing.mount_detached().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
