//! Snapshots in memory, where the data folder lies on a file system that overlayfs takes no layers
//! on: overlayfs itself, as inside of a container without a volume, or NFS.
//!
//! A tmpfs covers the folder in a mount namespace of ours, so nothing is mounted on the host. What
//! it holds is gone with the daemon; images are unpacked again from their blobs, which stay. It is
//! bounded: a write that would go beyond fails as on a full disk, where otherwise the kernel would end
//! processes of the container that we are in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use super::idmap::IdMap;
use super::sys;
use crate::snapshot::overlay::{Overlay, is_impossible};

/// Of `statfs` (linux/magic.h).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
/// What a container may use, by control groups v2 and v1, as they are seen from its inside.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
/// A file takes memory of the kernel even where it is empty, so files are bounded with the bytes: a page of them for each,
/// and some in any case.
const BYTES_OF_A_FILE: u64 = 4096;
const MIN_FILES: u64 = 1024;

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
            Err(why) => match tmpfs(half()).and_then(|fd| try_overlay(&link(&fd))) {
                Ok(()) => Self::InMemory(why),
                Err(_) => Self::Nowhere(why),
            },
        })
    }
}

/// Covers an existing folder where that is what makes layers possible in it, with room for so many
/// bytes, and files in proportion. Called single-threaded, before anything is opened there.
pub fn cover(folder: &Path, bytes: u64) -> io::Result<Layers> {
    let possible = Layers::possible(folder)?;
    if matches!(possible, Layers::InMemory(_)) {
        leave_the_hosts_mounts()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tmpfs(bytes)?, "", rustix::fs::CWD, folder, flags)?;
    }
    Ok(possible)
}

/// How many bytes a folder of the data folder holds in memory at most; `None` where it is on disk, or
/// in the same file system as the data folder, which is the user's choice.
pub fn covered(folder: &Path, data: &Path) -> io::Result<Option<u64>> {
    if std::fs::metadata(folder)?.dev() == std::fs::metadata(data)?.dev() {
        return Ok(None);
    }
    let found = rustix::fs::statfs(folder)?;
    let is_tmpfs = found.f_type == TMPFS_MAGIC;
    let bytes = found
        .f_blocks
        .saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0));
    Ok(is_tmpfs.then_some(bytes))
}

/// Half of the memory that there is for us: the host's, or what a container around us may use.
pub fn half() -> u64 {
    let host = rustix::system::sysinfo();
    let host = host.totalram.saturating_mul(u64::from(host.mem_unit));
    let bytes = |file: &&str| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    let least = LIMITS.iter().filter_map(bytes).fold(host, u64::min);
    least / 2
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

fn tmpfs(bytes: u64) -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "devpod")?;
    fsconfig_set_string(&fs, "mode", "700")?;
    // Of none the kernel makes "without bound".
    fsconfig_set_string(&fs, "size", bytes.max(1).to_string())?;
    let files = (bytes / BYTES_OF_A_FILE).max(MIN_FILES);
    fsconfig_set_string(&fs, "nr_inodes", files.to_string())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_memory_is_some_and_not_all() {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("MemTotal:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        let all: u64 = kilobytes.parse::<u64>().unwrap() * 1024;
        assert!((1..=all / 2).contains(&half()), "{} of {all}", half());
    }

    #[test]
    fn what_is_held_is_bounded() {
        // Who may not mount keeps nothing in memory.
        let Ok(fd) = tmpfs(1 << 20) else { return };
        let dir = link(&fd);
        std::fs::write(dir.join("fits"), vec![1; 900 << 10]).unwrap();
        let error = std::fs::write(dir.join("more"), vec![1; 200 << 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let data = tempfile::tempdir().unwrap();
        assert_eq!(covered(&dir, data.path()).unwrap(), Some(1 << 20));
        assert_eq!(covered(data.path(), data.path()).unwrap(), None);
        assert_eq!(covered(&dir, &dir).unwrap(), None);
    }

    #[test]
    fn empty_files_are_bounded_too() {
        for (bytes, files) in [(1 << 20, MIN_FILES), (8 << 20, 2048)] {
            // Who may not mount keeps nothing in memory.
            let Ok(fd) = tmpfs(bytes) else { return };
            let dir = link(&fd);
            let make = |n: u64| std::fs::File::create(dir.join(n.to_string()));
            let made = (0..files * 2).map(make).position(|made| match made {
                Ok(_) => false,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                    true
                }
            });
            // The folder itself is one of them.
            assert_eq!(made, Some(files as usize - 1), "{bytes}");
        }
    }
}
