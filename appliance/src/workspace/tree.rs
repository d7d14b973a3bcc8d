//! The files of a source: read beneath its own root, because what was cloned is a stranger's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use config::devcontainer::discover::Entry;
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// A folder with more entries than this is not searched for a configuration.
const MAX_ENTRIES: usize = 100_000;

/// A folder on this host.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// The ids that the root belongs to.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let stat = rustix::fs::fstat(&self.root)?;
        Ok((stat.st_uid, stat.st_gid))
    }

    /// `None` where there is nothing. No link may lead out of the root.
    fn open_beneath(&self, path: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let path = if path.is_empty() { "." } else { path };
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The entries of a folder; none when it does not exist. Links count as what they lead to.
    pub fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let Some(fd) = self.open_beneath(folder, OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for entry in Dir::new(fd)?.take(MAX_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                FileType::Symlink | FileType::Unknown => self.is_dir(folder, &name),
                _ => false,
            };
            entries.push(Entry { name, is_dir });
        }
        Ok(entries)
    }

    fn is_dir(&self, folder: &str, name: &str) -> bool {
        let path = if folder.is_empty() {
            name.to_owned()
        } else {
            format!("{folder}/{name}")
        };
        matches!(self.open_beneath(&path, OFlags::DIRECTORY), Ok(Some(_)))
    }

    /// A file's text; `None` when it does not exist.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        let Some(fd) = self.open_beneath(path, OFlags::empty())? else {
            return Ok(None);
        };
        let file = File::from(fd);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = String::new();
        // One byte more than the parsers take, so that they are who complains.
        file.take(config::jsonc::MAX_BYTES as u64 + 1)
            .read_to_string(&mut text)?;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn reads_inside_and_never_outside() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret"), "s").unwrap();
        let root = outer.path().join("repo");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "text").unwrap();
        symlink("a/file", root.join("inside")).unwrap();
        symlink("a", root.join("folder")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("/etc/passwd", root.join("absolute")).unwrap();
        let tree = Tree::open(&root).unwrap();
        assert_eq!(tree.read("a/file").unwrap().as_deref(), Some("text"));
        assert_eq!(tree.read("inside").unwrap().as_deref(), Some("text"));
        assert_eq!(tree.read("none").unwrap(), None);
        assert_eq!(tree.read("a/file/x").unwrap(), None);
        for outside in ["outside", "absolute", "../secret", "/etc/passwd"] {
            assert!(tree.read(outside).is_err(), "{outside}");
        }
        assert!(tree.read("a").is_err());
        let mut names: Vec<_> = tree
            .list("")
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.is_dir))
            .collect();
        names.sort();
        let expected = [
            ("a", true),
            ("absolute", false),
            ("folder", true),
            ("inside", false),
            ("outside", false),
        ];
        assert_eq!(
            names,
            expected.map(|(name, is_dir)| (name.to_owned(), is_dir))
        );
        assert!(tree.list("none").unwrap().is_empty());
    }

    #[test]
    fn a_fifo_does_not_block() {
        let root = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("devcontainer.json"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let tree = Tree::open(root.path()).unwrap();
        assert!(tree.read("devcontainer.json").is_err());
    }
}
