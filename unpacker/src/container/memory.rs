//! Snapshots in memory, where the data folder lies on a file system that overlayfs takes no layers
//! on: overlayfs itself, as inside of a container without a volume, or NFS.
//!
//! A tmpfs covers the folder in a mount namespace of ours, so nothing is mounted on the host. What
//! it holds is gone with the daemon; images are unpacked again from their blobs, which stay.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use super::idmap::IdMap;
use super::sys;
use crate::snapshot::overlay::{Overlay, is_impossible};

/// Whether layers can be stacked in a folder.
#[derive(Debug)]
pub enum Layers {
    OnDisk,
    /// In memory only; why not in the folder.
    InMemory(io::Error),
    /// Neither; why not in the folder.
    Nowhere(io::Error),
}

impl Layers {
    /// Tries both in new folders below `folder`, which are removed again.
    pub fn possible(folder: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(".probe-")
            .tempdir_in(folder)?;
        Ok(match try_overlay(dir.path()) {
            Ok(()) => Self::OnDisk,
            Err(why) if !is_impossible(&why) => Self::Nowhere(why),
            Err(why) => match tmpfs().and_then(|fd| try_overlay(&link(&fd))) {
                Ok(()) => Self::InMemory(why),
                Err(_) => Self::Nowhere(why),
            },
        })
    }
}

/// Covers an existing folder where that is what makes layers possible in it. Called single-threaded,
/// before anything is opened there.
pub fn cover(folder: &Path) -> io::Result<Layers> {
    let possible = Layers::possible(folder)?;
    if matches!(possible, Layers::InMemory(_)) {
        leave_the_hosts_mounts()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tmpfs()?, "", rustix::fs::CWD, folder, flags)?;
    }
    Ok(possible)
}

/// In a user namespace of ours we have mounts of our own already.
fn leave_the_hosts_mounts() -> io::Result<()> {
    if !IdMap::current()?.is_whole() {
        return Ok(());
    }
    sys::unshare(libc::CLONE_NEWNS)?;
    // What the host mounts later is still to be seen here, as it would be without us.
    let downhill = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", downhill)?)
}

fn tmpfs() -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "devpod")?;
    fsconfig_set_string(&fs, "mode", "700")?;
    fsconfig_create(&fs)?;
    let flags = MountAttrFlags::empty();
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

fn link(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn try_overlay(dir: &Path) -> io::Result<()> {
    let folder = |name: &str| {
        let path = dir.join(name);
        std::fs::create_dir(&path).map(|()| path)
    };
    let overlay = Overlay {
        lower: vec![folder("lower")?],
        upper: Some((folder("upper")?, folder("work")?)),
        volatile: true,
    };
    overlay.mount_detached().map(drop)
}
