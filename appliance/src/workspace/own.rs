//! Gives a volume to somebody: owner and group of everything in it. No link is followed, so that a
//! link in a cloned repository gives nothing else away.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, openat};
use rustix::io::Errno;

/// Deeper trees than this are refused; each level holds one descriptor.
const MAX_DEPTH: usize = 256;

pub fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = openat(CWD, path, flags, Mode::empty())?;
    give_below(root.as_fd(), uid, gid, 0)?;
    rustix::fs::fchown(&root, Some(uid), Some(gid))?;
    Ok(())
}

fn give_below(folder: impl AsFd, uid: Uid, gid: Gid, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!(
            "folders are nested deeper than {MAX_DEPTH}"
        )));
    }
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
            && let Some(child) = open_folder(&folder, name)?
        {
            give_below(&child, uid, gid, depth + 1)?;
        }
        match chownat(
            &folder,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            // Removed meanwhile.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open_folder(folder: impl AsFd, name: &std::ffi::CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn gives_everything_and_follows_no_link() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can give files away");
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let volume = outer.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/file"), "").unwrap();
        fs::write(outer.path().join("other"), "").unwrap();
        symlink("../other", volume.join("link")).unwrap();
        symlink("..", volume.join("a/up")).unwrap();
        give(&volume, 1234, 4321).unwrap();
        for path in ["", "a", "a/b", "a/b/file", "link", "a/up"] {
            let data = fs::symlink_metadata(volume.join(path)).unwrap();
            assert_eq!((data.uid(), data.gid()), (1234, 4321), "{path}");
        }
        assert_eq!(fs::metadata(outer.path().join("other")).unwrap().uid(), 0);
    }
}
