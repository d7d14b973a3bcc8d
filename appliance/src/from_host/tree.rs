//! The files of the image before they are written: a sorted map from path to node.
//!
//! A path of the host is taken part by part: every symbolic link on the way comes along as a link,
//! every folder as a folder, so that merged `/usr`, Debian's alternatives and versioned libraries
//! look in the image as they do on the host. The tree never invents a parent that is missing.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::host::{Host, Kind, LINK_LIMIT, Meta};

/// One thing of the image.
#[derive(Debug, Clone)]
pub enum Node {
    Directory {
        mode: u32,
    },
    /// The host's file of the same path. Its owner and set-id bits do not come along.
    HostFile(Meta),
    /// A file that is written here.
    Text {
        bytes: Vec<u8>,
        mode: u32,
    },
    Symlink {
        target: PathBuf,
    },
}

/// Paths are absolute and free of links in all but their last part. Parents come before children.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

/// Where a path of the host led.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Free of links.
    pub path: PathBuf,
    pub meta: Meta,
}

/// A path that does not lead to a file or folder.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("{} does not exist", path.display())]
    Absent { path: PathBuf },
    #[error("{} is a device, socket or pipe", path.display())]
    Special { path: PathBuf },
    #[error("{} leads through more than {LINK_LIMIT} symbolic links", path.display())]
    Loop { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl Tree {
    /// In order of path.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Puts a path of the host in, with every link and folder on the way. Nothing is put in when the
    /// path does not lead to a folder or to a file that may be read.
    pub fn add_host(&mut self, host: &Host, path: &Path) -> Result<Resolved, WalkError> {
        let (resolved, passed) = walk(host, path)?;
        readable(host, &resolved.path, &resolved.meta)?;
        for (path, node) in passed {
            // What was written here on purpose wins over the host's.
            self.nodes.entry(path).or_insert(node);
        }
        Ok(resolved)
    }

    /// Puts a folder of the host in, with all below it, or nothing. Special files are left out.
    pub fn add_host_tree(&mut self, host: &Host, path: &Path) -> Result<(), WalkError> {
        let mut inside = Vec::new();
        let mut folders = vec![walk(host, path)?.0.path];
        while let Some(folder) = folders.pop() {
            let names = host.read_dir(&folder).map_err(|source| WalkError::Read {
                path: folder.clone(),
                source,
            })?;
            for name in names {
                let path = folder.join(name);
                let (node, meta) = match node(host, &path) {
                    Err(WalkError::Special { .. }) => continue,
                    result => result?,
                };
                readable(host, &path, &meta)?;
                if meta.kind == Kind::Directory {
                    folders.push(path.clone());
                }
                inside.push((path, node));
            }
        }
        self.add_host(host, path)?;
        for (path, node) in inside {
            self.nodes.entry(path).or_insert(node);
        }
        Ok(())
    }

    /// A file of our own at a path, following links that are in the tree already.
    pub fn add_text(&mut self, path: &str, text: impl Into<Vec<u8>>) {
        let node = Node::Text {
            bytes: text.into(),
            mode: 0o644,
        };
        self.insert(Path::new(path), node);
    }

    pub fn add_directory(&mut self, path: &str, mode: u32) {
        self.insert(Path::new(path), Node::Directory { mode });
    }

    /// A link of our own, unless something has the name.
    pub fn add_link(&mut self, path: &Path, target: &Path) {
        if self.nodes.contains_key(path) {
            return;
        }
        let target = target.to_owned();
        self.insert(path, Node::Symlink { target });
    }

    /// Inserts over what is there, making parents. A parent that is a link is kept, and what would
    /// go below it goes where the link leads.
    fn insert(&mut self, path: &Path, node: Node) {
        let mut at = PathBuf::from("/");
        let mut parts: Vec<_> = path.components().skip(1).collect();
        let Some(last) = parts.pop() else { return };
        for part in parts {
            at.push(part);
            // One step suffices: top-level links (`/bin`) lead to plain folders.
            if let Some(Node::Symlink { target }) = self.nodes.get(&at) {
                at = Path::new("/").join(target);
            }
            let folder = Node::Directory { mode: 0o755 };
            self.nodes.entry(at.clone()).or_insert(folder);
        }
        self.nodes.insert(at.join(last), node);
    }
}

/// Follows a path part by part and tells everything that it passed.
fn walk(host: &Host, path: &Path) -> Result<(Resolved, Vec<(PathBuf, Node)>), WalkError> {
    let mut passed = Vec::new();
    let mut left: VecDeque<OsString> = parts(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut end = None;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let (node, meta) = node(host, &next)?;
        if let Node::Symlink { target } = &node {
            links += 1;
            if links > LINK_LIMIT {
                return Err(WalkError::Loop { path: path.into() });
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            let rest = std::mem::take(&mut left);
            left = parts(target);
            left.extend(rest);
        } else {
            at = next.clone();
            end = Some(meta);
        }
        passed.push((next, node));
    }
    // `..` may have left the last thing seen behind.
    let meta = match end {
        Some(meta) if passed.last().is_some_and(|(path, _)| *path == at) => meta,
        _ => node(host, &at)?.1,
    };
    Ok((Resolved { path: at, meta }, passed))
}

/// An ordinary user cannot read every program of a host; better known now than in mid-layer.
fn readable(host: &Host, path: &Path, meta: &Meta) -> Result<(), WalkError> {
    if meta.kind == Kind::File {
        host.open_file(path).map_err(|source| WalkError::Read {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

fn node(host: &Host, path: &Path) -> Result<(Node, Meta), WalkError> {
    let read = |source| WalkError::Read {
        path: path.to_owned(),
        source,
    };
    let Some(meta) = host.lstat(path).map_err(read)? else {
        return Err(WalkError::Absent { path: path.into() });
    };
    let node = match meta.kind {
        Kind::Directory => Node::Directory { mode: 0o755 },
        Kind::File => Node::HostFile(meta),
        Kind::Symlink => Node::Symlink {
            target: host.read_link(path).map_err(read)?,
        },
        Kind::Other => return Err(WalkError::Special { path: path.into() }),
    };
    Ok((node, meta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(tree: &Tree) -> Vec<String> {
        tree.iter()
            .map(|(path, _)| path.display().to_string())
            .collect()
    }

    #[test]
    fn links_and_their_targets_both_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::create_dir_all(root.join("etc/alternatives")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/etc/alternatives/awk", root.join("usr/bin/awk")).unwrap();
        symlink("../../usr/bin/mawk", root.join("etc/alternatives/awk")).unwrap();
        std::fs::write(root.join("usr/bin/mawk"), "").unwrap();
        let host = Host::open(root).unwrap();
        let mut tree = Tree::default();
        let found = tree.add_host(&host, Path::new("/bin/awk")).unwrap();
        assert_eq!(found.path, Path::new("/usr/bin/mawk"));
        let expected = [
            "/bin",
            "/etc",
            "/etc/alternatives",
            "/etc/alternatives/awk",
            "/usr",
            "/usr/bin",
            "/usr/bin/awk",
            "/usr/bin/mawk",
        ];
        assert_eq!(paths(&tree), expected);
        // Our own files follow the merged /bin.
        tree.add_text("/bin/tool", "x");
        assert!(matches!(
            tree.get(Path::new("/usr/bin/tool")),
            Some(Node::Text { .. })
        ));
    }

    #[test]
    fn nothing_stays_of_a_path_that_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        symlink("gone", dir.path().join("dangling")).unwrap();
        let host = Host::open(dir.path()).unwrap();
        let mut tree = Tree::default();
        let error = tree.add_host(&host, Path::new("/a")).unwrap_err();
        assert!(matches!(error, WalkError::Loop { .. }), "{error}");
        let error = tree.add_host(&host, Path::new("/dangling")).unwrap_err();
        assert_eq!(error.to_string(), "/gone does not exist");
        assert_eq!(paths(&tree), Vec::<String>::new());
    }
}
