//! A new volume begins with what the image has in its place, as docker has it.
//!
//! The image is hostile: its folder is found beneath its root, and copied from descriptor to
//! descriptor, holes staying holes. Devices and sockets are left out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fgetxattr, flistxattr, fsetxattr, fstat, futimens, mkdirat, openat, readlinkat, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::progress::{Cancel, Cancelled};
use crate::snapshot::copy::copy_data;

use super::inside::open_beneath;

/// Deeper than any tree of an image; each level is a descriptor.
const MAX_DEPTH: u32 = 256;

/// Overlayfs' own, which a layer that is seen without an overlay still shows.
const OVERLAYS: &[u8] = b"user.overlay.";

/// Why a volume did not get what the image has.
#[derive(Debug, thiserror::Error)]
pub enum PopulateError {
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Copies what is at `place` of the image beneath `root` into the empty folder `volume`. An image
/// without such a folder leaves it empty. What breaks off half-way leaves what it had copied.
pub fn populate(
    root: BorrowedFd<'_>,
    place: &Path,
    volume: &Path,
    cancel: &Cancel,
) -> Result<(), PopulateError> {
    let go_on = || cancel.check().map_err(io::Error::other);
    copy(root, place, volume, &go_on).map_err(|error| match cancel.check() {
        Err(cancelled) => cancelled.into(),
        Ok(()) => error.into(),
    })
}

type GoOn<'a> = &'a dyn Fn() -> io::Result<()>;

fn copy(root: BorrowedFd<'_>, place: &Path, volume: &Path, go_on: GoOn<'_>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let from = match open_beneath(root, place, flags) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        from => from?,
    };
    let to = rustix::fs::open(volume, flags | OFlags::CLOEXEC, Mode::empty())?;
    copy_folder(&from, &to, 0, go_on)
}

fn copy_folder(from: &OwnedFd, to: &OwnedFd, depth: u32, go_on: GoOn<'_>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("folders are nested too deeply"));
    }
    let mut space = Vec::with_capacity(16 * 1024);
    let mut entries = RawDir::new(from, space.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        go_on()?;
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, to, name, depth, go_on)?;
        }
    }
    let stat = fstat(from)?;
    dress(from, to, &stat)
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &std::ffi::CStr,
    depth: u32,
    go_on: GoOn<'_>,
) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let below = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let made = openat(to, name, read | OFlags::DIRECTORY, Mode::empty())?;
            copy_folder(&below, &made, depth + 1, go_on)
        }
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let source = File::from(openat(from, name, read, Mode::empty())?);
            let made = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            copy_data(&source, &made, size, go_on)?;
            dress(&source, &made, &stat)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(target, to, name)?;
            give(to, name, &stat)?;
            let times = times(&stat);
            Ok(utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        FileType::Fifo => {
            let mode = Mode::from_raw_mode(stat.st_mode);
            rustix::fs::mknodat(to, name, FileType::Fifo, mode, 0)?;
            give(to, name, &stat)
        }
        _ => Ok(()),
    }
}

fn give(folder: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Owner, permissions, attributes and times, in the order in which none undoes another.
fn dress(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&to, Some(uid), Some(gid))?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode))?;
    copy_attributes(&from, &to)?;
    Ok(futimens(&to, &times(stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec {
        tv_sec: stat.st_mtime as _,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// Those that can be read and set.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match flistxattr(&from, &mut names[..]) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
        length => length?,
    };
    let mut value = vec![0_u8; 64 * 1024];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(OVERLAYS))
    {
        let Ok(size) = fgetxattr(&from, name, &mut value[..]) else {
            continue;
        };
        match fsetxattr(&to, name, &value[..size], rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_as_it_is_and_links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        std::fs::create_dir_all(root.join("srv/data/deep")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(root.join("srv/data/deep/file"), "text").unwrap();
        symlink("/etc/passwd", root.join("srv/data/out")).unwrap();
        // The place is reached by a link that means the image's own root.
        symlink("/srv/data", root.join("data")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(root.join("srv/data/deep/file"), mode).unwrap();
        let fd = File::open(&root).unwrap();
        populate(fd.as_fd(), Path::new("/data"), &volume, &Cancel::default()).unwrap();
        let (old, new) = (root.join("srv/data/deep/file"), volume.join("deep/file"));
        let data = |path: &Path| {
            let data = std::fs::metadata(path).unwrap();
            (
                data.mode(),
                data.uid(),
                data.mtime(),
                data.mtime_nsec(),
                data.len(),
            )
        };
        assert_eq!(data(&old), data(&new));
        assert_eq!(
            std::fs::read_link(volume.join("out")).unwrap(),
            Path::new("/etc/passwd")
        );
        let deep = (root.join("srv/data/deep"), volume.join("deep"));
        assert_eq!(data(&deep.0), data(&deep.1));
    }

    #[test]
    fn an_image_without_the_folder_leaves_the_volume_empty() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        populate(fd.as_fd(), Path::new("/none"), &volume, &Cancel::default()).unwrap();
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0);
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        std::fs::create_dir_all(root.join("srv")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        let sparse = File::create(root.join("srv/sparse")).unwrap();
        sparse.write_all_at(b"in the middle", 300 << 20).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let fd = File::open(&root).unwrap();
        populate(fd.as_fd(), Path::new("/srv"), &volume, &Cancel::default()).unwrap();
        let copied = File::open(volume.join("sparse")).unwrap();
        let data = copied.metadata().unwrap();
        assert_eq!(data.len(), 1 << 30);
        assert!(data.blocks() * 512 < 1 << 20, "{} blocks", data.blocks());
        let mut text = [0; 13];
        copied.read_exact_at(&mut text, 300 << 20).unwrap();
        assert_eq!(&text, b"in the middle");
    }

    #[test]
    fn a_cancelled_copy_breaks_off() {
        let dir = tempfile::tempdir().unwrap();
        let (root, volume) = (dir.path().join("root"), dir.path().join("volume"));
        std::fs::create_dir_all(root.join("srv")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(root.join("srv/file"), "text").unwrap();
        let fd = File::open(&root).unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        let broken = populate(fd.as_fd(), Path::new("/srv"), &volume, &cancel).unwrap_err();
        assert!(matches!(broken, PopulateError::Cancelled(_)), "{broken}");
        assert!(!volume.join("file").exists());
    }
}
