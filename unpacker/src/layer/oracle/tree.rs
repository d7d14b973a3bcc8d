//! Everything that can be seen of a tree, as text to compare.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::layer::root::Root;
use crate::layer::root::metadata::{Kind, Metadata};
use crate::layer::tree::OPAQUE;

/// The most that is read of a file.
const MAX_FILE: u64 = 1 << 20;

pub(crate) fn open(path: impl AsRef<Path>) -> Root {
    Root::open(path.as_ref()).unwrap()
}

/// The stack of layer folders, lowest first, as the kernel shows it.
pub(crate) fn mount_overlay(folders: &[PathBuf]) -> io::Result<Root> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&fs, "userxattr")?;
    for folder in folders.iter().rev() {
        fsconfig_set_string(&fs, "lowerdir+", folder)?;
    }
    fsconfig_create(&fs)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let fd = fsmount(&fs, flags, MountAttrFlags::empty())?;
    Ok(Root::from_fd(fd))
}

/// Every path with all that is said of it, times left out where `times` is false.
pub(crate) fn listing(root: &Root, times: bool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    let mut inodes: BTreeMap<(u64, u64), String> = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let metadata = root.metadata(&path).unwrap();
        let mut line = line_of(root, &path, &metadata);
        // A whiteout has no time of its own.
        if times && !metadata.is_whiteout() {
            line += &format!(" @{}.{}", metadata.mtime.seconds, metadata.mtime.nanos);
        }
        let name = format!("/{}", path.display());
        if metadata.kind == Kind::Directory {
            let entries = root.read_dir(&path).unwrap();
            todo.extend(entries.into_iter().map(|entry| path.join(entry.name)));
        } else if metadata.links > 1 {
            let first = inodes.entry(metadata.identity).or_insert(name.clone());
            line += &format!(" ={}", if *first == name { "" } else { "linked" });
        }
        found.insert(name, line);
    }
    found
}

fn line_of(root: &Root, path: &Path, metadata: &Metadata) -> String {
    let what = match metadata.kind {
        Kind::File if metadata.size > MAX_FILE => format!("{} bytes", metadata.size),
        Kind::File => String::from_utf8_lossy(&root.read_small(path, MAX_FILE).unwrap()).into(),
        Kind::Symlink => root.read_link(path).unwrap().display().to_string(),
        Kind::Directory => String::new(),
        _ => format!("{}:{}", metadata.node.major, metadata.node.minor),
    };
    let xattrs: Vec<String> = root
        .xattrs(path)
        .unwrap()
        .iter()
        .filter(|(name, _)| name != OPAQUE && name != "security.selinux")
        .map(|(name, value)| format!("{}={value:?}", name.display()))
        .collect();
    let (kind, mode, owner) = (metadata.kind, metadata.mode, metadata.owner);
    let mut line = format!("{kind:?} {mode:o} {}:{} {what}", owner.uid, owner.gid);
    if !xattrs.is_empty() {
        line += &format!(" {xattrs:?}");
    }
    line
}

/// Links between layers are one file when flat and cannot be in a stack.
pub(crate) fn plain(listing: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let cut = |line: String| line.split(" =").next().unwrap_or_default().to_owned();
    listing.into_iter().map(|(k, v)| (k, cut(v))).collect()
}
