//! Stacks of layer folders, mounted by overlayfs and held by a descriptor.
//!
//! Mounts made here are detached: they appear in no mount table of the host, are used through
//! their descriptor and vanish with the last one. Overlays are always `userxattr`, as root too, so
//! that a snapshot has one form: whiteouts are char 0:0, opaque folders carry
//! `user.overlay.opaque=y`. Nothing here knows images, and nothing is ever mounted onto the host.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

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
        add_lowers: fn(&OwnedFd, &[PathBuf]) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let result = self.configure(&fs, add_lowers);
        result.map_err(|e| explained(&fs, e))?;
        Ok(fsmount(
            &fs,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?)
    }

    fn configure(
        &self,
        fs: &OwnedFd,
        add_lowers: fn(&OwnedFd, &[PathBuf]) -> io::Result<()>,
    ) -> io::Result<()> {
        fsconfig_set_string(fs, "source", "devpod")?;
        add_lowers(fs, &self.lower)?;
        if let Some((upper, work)) = &self.upper {
            fsconfig_set_string(fs, "upperdir", upper.as_path())?;
            fsconfig_set_string(fs, "workdir", work.as_path())?;
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

fn clone_of(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, folder, flags)?)
}

/// `lowerdir+` takes one folder, the topmost first, without a limit on the whole.
fn add_each_lower(fs: &OwnedFd, lower: &[PathBuf]) -> io::Result<()> {
    for folder in lower.iter().rev() {
        fsconfig_set_string(fs, "lowerdir+", folder.as_path())?;
    }
    Ok(())
}

fn add_lowers_at_once(fs: &OwnedFd, lower: &[PathBuf]) -> io::Result<()> {
    Ok(fsconfig_set_string(
        fs,
        "lowerdir",
        joined(lower).as_os_str(),
    )?)
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

/// The kernel writes why it refuses into the file system context.
fn explained(fs: &OwnedFd, error: io::Error) -> io::Error {
    let mut line = [0_u8; 1024];
    match rustix::io::read(fs.as_fd(), &mut line) {
        Ok(n) if n > 0 => {
            let said = String::from_utf8_lossy(&line[..n]);
            let text = format!("{error}: {}", said.trim_start_matches("e ").trim_end());
            Refused::wrap(&error, text)
        }
        _ => error,
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
    fn the_old_option_escapes_and_turns_the_order() {
        let lower = [PathBuf::from("/a:b"), PathBuf::from("/c\\d")];
        assert_eq!(joined(&lower), OsString::from("/c\\\\d:/a\\:b"));
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
