//! Everything that can be told of a folder tree, a line per path, so that two trees can be compared.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::layout;

/// Paths from the root on, each with type, mode, owner, links, attributes, time and content.
pub type Tree = BTreeMap<String, String>;

/// Room for a list of names and for a value; the kernel's limit of both.
const MAX_XATTR: usize = 64 * 1024;

/// How a tree is looked at.
pub struct Look<'a> {
    /// What an owner on disk is in the image, given the path.
    pub owner: &'a dyn Fn(&Path, &Metadata) -> (u32, u32),
    /// Whether an attribute of this name is told.
    pub xattr: &'a dyn Fn(&str) -> bool,
}

impl std::fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").finish_non_exhaustive()
    }
}

impl Look<'_> {
    /// The tree below a folder, which itself is `/`.
    #[track_caller]
    pub fn at(&self, top: &Path) -> Tree {
        let mut tree = Tree::new();
        let mut links: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
        let mut todo = vec![PathBuf::from(".")];
        while let Some(below) = todo.pop() {
            let path = top.join(&below);
            let data = match below.as_os_str() == "." {
                true => fs::metadata(&path),
                false => fs::symlink_metadata(&path),
            };
            let name = below.strip_prefix(".").expect("it was put before");
            let name = format!("/{}", name.display());
            // Overlayfs lists what is not there when a layer is wrong.
            let Ok(data) = data else {
                tree.insert(name, "phantom".to_owned());
                continue;
            };
            if data.is_dir() {
                let entries = fs::read_dir(&path).expect("a folder");
                todo.extend(entries.map(|entry| below.join(entry.expect("an entry").file_name())));
            } else if data.nlink() > 1 {
                let file = (data.dev(), data.ino());
                links.entry(file).or_default().push(name.clone());
            }
            tree.insert(name, self.line(&path, &data));
        }
        for mut names in links.into_values() {
            names.sort();
            let all = names.join(" ");
            for name in names {
                let line = tree.get_mut(&name).expect("it was inserted");
                line.push_str(&format!(" one file: {all}"));
            }
        }
        tree
    }

    fn line(&self, path: &Path, data: &Metadata) -> String {
        let kind = data.file_type();
        let (kind, what) = match kind {
            kind if kind.is_dir() => ("folder", String::new()),
            kind if kind.is_symlink() => {
                let target = fs::read_link(path).expect("a link");
                ("link", target.display().to_string())
            }
            kind if kind.is_file() => ("file", layout::digest(&fs::read(path).expect("a file"))),
            kind if kind.is_fifo() => ("fifo", String::new()),
            kind if kind.is_char_device() => ("char", device(data)),
            kind if kind.is_block_device() => ("block", device(data)),
            _ => ("other", String::new()),
        };
        let (uid, gid) = (self.owner)(path, data);
        let mode = data.mode() & 0o7777;
        let attributes = self.xattrs(path);
        let time = format!("{}.{:09}", data.mtime(), data.mtime_nsec());
        format!("{kind} {mode:04o} {uid}:{gid} {what} {attributes}@{time}")
    }

    fn xattrs(&self, path: &Path) -> String {
        let mut names = vec![0; MAX_XATTR];
        let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
        let mut told = Vec::new();
        for name in names[..length].split(|byte| *byte == 0) {
            let name = String::from_utf8_lossy(name);
            if name.is_empty() || !(self.xattr)(&name) {
                continue;
            }
            let value = xattr(path, &name).unwrap_or_default();
            told.push(format!("{name}={value:?} "));
        }
        told.sort();
        told.concat()
    }
}

/// The value of an extended attribute, of a link itself too.
pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; MAX_XATTR];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// As it is on disk, without what security modules and stores of images note.
#[track_caller]
pub fn of(top: &Path) -> Tree {
    let look = Look {
        owner: &|_, data| (data.uid(), data.gid()),
        xattr: &is_the_images,
    };
    look.at(top)
}

/// Whether an attribute came out of an image.
pub fn is_the_images(name: &str) -> bool {
    name.starts_with("user.")
        || name == "security.capability"
        || name.starts_with("system.posix_acl")
}

/// What is in one tree and not in the other, for people; empty where they are equal.
pub fn difference(left: &Tree, right: &Tree) -> String {
    let mut told = String::new();
    for name in left
        .keys()
        .chain(right.keys().filter(|name| !left.contains_key(*name)))
    {
        let (one, other) = (left.get(name), right.get(name));
        if one != other && told.len() < 4000 {
            told.push_str(&format!("{name}:\n  {one:?}\n  {other:?}\n"));
        }
    }
    told
}

fn device(data: &Metadata) -> String {
    let (major, minor) = (
        rustix::fs::major(data.rdev()),
        rustix::fs::minor(data.rdev()),
    );
    format!("{major}:{minor}")
}
