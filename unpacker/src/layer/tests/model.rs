//! The semantics of layers once more, as simply as they can be said: maps in memory, one layer after
//! the other in one tree. No descriptor, no stack, no cache; nothing of it is shared with the code
//! that is tested.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::*;

type Parts = Vec<String>;
/// What an entry asks for makes no sense.
#[derive(Debug)]
pub(super) struct Refused;

#[derive(Debug, Clone, PartialEq)]
enum What {
    Directory,
    File(String),
    Symlink(String),
    Fifo,
}

#[derive(Debug, Clone)]
struct Inode {
    what: What,
    mode: u32,
    owner: Owner,
    mtime: Timestamp,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Inode {
    /// A directory that no entry describes.
    fn implied() -> Self {
        Self {
            what: What::Directory,
            mode: 0o755,
            owner: Owner::default(),
            mtime: Timestamp::default(),
            xattrs: BTreeMap::new(),
        }
    }

    fn of(Item(_, fields, data): &Item) -> Self {
        let (what, mode) = match fields.kind {
            Kind::Directory => (What::Directory, fields.mode),
            Kind::Symlink => {
                let target = fields.symlink.as_ref().unwrap().display().to_string();
                (What::Symlink(target), 0o777)
            }
            Kind::Fifo => (What::Fifo, fields.mode),
            _ => (
                What::File(String::from_utf8(data.clone()).unwrap()),
                fields.mode,
            ),
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let xattrs = fields.xattrs.iter();
        Self {
            what,
            mode,
            owner: fields.owner,
            mtime: fields.mtime,
            xattrs: xattrs
                .map(|(name, value)| (text(name), value.clone()))
                .collect(),
        }
    }

    fn line(&self) -> String {
        let (kind, what) = match &self.what {
            What::Directory => ("Directory", ""),
            What::File(data) => ("File", data.as_str()),
            What::Symlink(target) => ("Symlink", target.as_str()),
            What::Fifo => ("Fifo", "0:0"),
        };
        let (mode, owner, time) = (self.mode, self.owner, self.mtime);
        let mut line = format!("{kind} {mode:o} {}:{} {what}", owner.uid, owner.gid);
        if !self.xattrs.is_empty() {
            let all = self
                .xattrs
                .iter()
                .map(|(name, value)| format!("{name}={value:?}"));
            line += &format!(" {:?}", all.collect::<Vec<_>>());
        }
        line + &format!(" @{}.{}", time.seconds, time.nanos)
    }
}

/// A tree.
#[derive(Debug)]
pub(super) struct Model {
    /// Which inode a path is; the root is the empty path.
    names: BTreeMap<Parts, usize>,
    inodes: Vec<Inode>,
    /// Paths that the layer has brought: what its own whiteouts spare.
    brought: BTreeSet<Parts>,
}

impl Model {
    pub(super) fn of(layers: &[Vec<Item>]) -> Result<Self, Refused> {
        let mut model = Self {
            names: BTreeMap::from([(Parts::new(), 0)]),
            inodes: vec![Inode::implied()],
            brought: BTreeSet::new(),
        };
        for layer in layers {
            model.layer(layer)?;
        }
        Ok(model)
    }

    /// As [`listing`] tells it of a tree on disk.
    pub(super) fn listing(&self) -> BTreeMap<String, String> {
        let line = |(path, inode): (&Parts, &usize)| {
            (format!("/{}", path.join("/")), self.inodes[*inode].line())
        };
        self.names.iter().map(line).collect()
    }

    /// The names that are one file, for files with several.
    pub(super) fn links(&self) -> BTreeSet<Vec<String>> {
        let mut files: HashMap<usize, Vec<String>> = HashMap::new();
        for (path, inode) in &self.names {
            files.entry(*inode).or_default().push(path.join("/"));
        }
        files
            .into_values()
            .filter(|names| names.len() > 1)
            .collect()
    }

    fn layer(&mut self, items: &[Item]) -> Result<(), Refused> {
        self.brought.clear();
        let mut late = Vec::new();
        for item in items {
            let path = clean(&item.0);
            match path.last().and_then(|name| name.strip_prefix(".wh.")) {
                Some(".wh..opq") => self.opaque(&path[..path.len() - 1])?,
                Some(name) => self.whiteout(&path[..path.len() - 1], name)?,
                None => match &item.1.hard_link {
                    None => self.put(&path, Inode::of(item))?,
                    Some(target) => {
                        let target = clean(&target.display().to_string());
                        if path.is_empty() || target.is_empty() {
                            return Err(Refused);
                        }
                        if !self.link(&path, &target)? {
                            late.push((path, target));
                        }
                    }
                },
            }
        }
        self.link_late(late)
    }

    fn put(&mut self, path: &[String], inode: Inode) -> Result<(), Refused> {
        let Some((name, folder)) = path.split_last() else {
            self.inodes[0] = inode;
            return match self.inodes[0].what {
                What::Directory => Ok(()),
                _ => Err(Refused),
            };
        };
        let path = join(&self.folder(folder)?, name);
        self.bring(&path);
        match self.what(&path) {
            Some(What::Directory) if inode.what == What::Directory => {
                let known = self.names[&path];
                self.inodes[known] = inode;
            }
            _ => {
                self.remove(&path);
                self.insert(path, inode);
            }
        }
        Ok(())
    }

    /// Whether the target was there.
    fn link(&mut self, path: &[String], target: &[String]) -> Result<bool, Refused> {
        let (last, folder) = target.split_last().unwrap();
        let Some(folder) = self.walk(folder, false)? else {
            return Ok(false);
        };
        let source = join(&folder, last);
        let (name, folder) = path.split_last().unwrap();
        let path = join(&self.folder(folder)?, name);
        match self.what(&source) {
            None => return Ok(false),
            Some(What::Directory) => return Err(Refused),
            Some(_) => {}
        }
        self.bring(&path);
        if path != source {
            self.remove(&path);
            let inode = *self.names.get(&source).ok_or(Refused)?;
            self.names.insert(path, inode);
        }
        Ok(true)
    }

    /// Links that came before their targets, again and again until nothing changes; what waits for
    /// a name that was just made goes first.
    fn link_late(&mut self, mut late: Vec<(Parts, Parts)>) -> Result<(), Refused> {
        loop {
            let mut done = vec![false; late.len()];
            for first in 0..late.len() {
                let mut ready = vec![first];
                while let Some(index) = ready.pop() {
                    let (path, target) = &late[index];
                    if !done[index] && self.link(path, target)? {
                        done[index] = true;
                        let waits = |other: &usize| late[*other].1 == *path;
                        ready.extend((0..late.len()).filter(waits));
                    }
                }
            }
            let before = late.len();
            let mut kept = done.iter().map(|done| !done);
            late.retain(|_| kept.next().unwrap());
            match late.len() {
                0 => return Ok(()),
                left if left == before => return Err(Refused),
                _ => {}
            }
        }
    }

    fn whiteout(&mut self, folder: &[String], name: &str) -> Result<(), Refused> {
        if let Some(folder) = self.walk(folder, false)? {
            self.remove_older(&join(&folder, name), 0);
        }
        Ok(())
    }

    fn opaque(&mut self, folder: &[String]) -> Result<(), Refused> {
        if let Some(folder) = self.walk(folder, false)? {
            self.remove_older(&folder, folder.len() + 1);
        }
        Ok(())
    }

    /// Removes what earlier layers left at a path and below it, from names of so many parts on.
    fn remove_older(&mut self, top: &[String], parts: usize) {
        let within = |path: &Parts| path.starts_with(top) && path.len() >= parts;
        let older = |path: &&Parts| within(path) && !self.brought.contains(*path);
        let gone: Vec<Parts> = self.names.keys().filter(older).cloned().collect();
        for path in gone {
            self.names.remove(&path);
        }
    }

    fn remove(&mut self, top: &[String]) {
        self.names.retain(|path, _| !path.starts_with(top));
    }

    fn insert(&mut self, path: Parts, inode: Inode) {
        self.inodes.push(inode);
        self.names.insert(path, self.inodes.len() - 1);
    }

    fn bring(&mut self, path: &[String]) {
        for length in 0..=path.len() {
            self.brought.insert(path[..length].to_vec());
        }
    }

    fn what(&self, path: &[String]) -> Option<&What> {
        let inode = self.names.get(path)?;
        Some(&self.inodes[*inode].what)
    }

    fn folder(&mut self, path: &[String]) -> Result<Parts, Refused> {
        self.walk(path, true)?.ok_or(Refused)
    }

    /// The directory that a name leads to, made where it is missing.
    fn walk(&mut self, path: &[String], create: bool) -> Result<Option<Parts>, Refused> {
        let (mut at, mut links) = (Parts::new(), 0);
        let mut todo: VecDeque<String> = path.iter().cloned().collect();
        while let Some(part) = todo.pop_front() {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                at.pop();
                continue;
            }
            let next = join(&at, &part);
            match self.what(&next).cloned() {
                Some(What::Directory) => at = next,
                Some(What::Symlink(target)) => {
                    links += 1;
                    if links > 200 {
                        return Err(Refused);
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    for part in target.rsplit('/') {
                        todo.push_front(part.to_owned());
                    }
                }
                _ if !create => return Ok(None),
                _ => {
                    self.remove(&next);
                    self.insert(next.clone(), Inode::implied());
                    at = next;
                }
            }
        }
        Ok(Some(at))
    }
}

fn join(folder: &[String], name: &str) -> Parts {
    let mut path = folder.to_vec();
    path.push(name.to_owned());
    path
}

fn clean(name: &str) -> Parts {
    let mut path = Parts::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(path.pop()),
            part => path.push(part.to_owned()),
        }
    }
    path
}
