//! The content of a selection as one digest: everything that the copy depends on, and no time.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use unpacker::digest::Digest;
use unpacker::layer::Ownership;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::{Kind, Metadata};
use unpacker::progress::{Cancel, Cancelled};

use crate::cache::files::Hashed;
use crate::cache::key::KeyWriter;

use super::CopyError;
use super::select::{Match, Seen};
use super::side_by_side::each;

/// How the content of a file of the tree is hashed: remembered for the context, read for everything else.
/// Nothing where the work was stopped.
pub type HashFile<'h> = &'h (dyn Fn(&Root, &Path, &Metadata) -> io::Result<Option<Content>> + Sync);

/// A file's content.
#[derive(Debug)]
pub enum Content {
    /// Of a file that cannot change: its BLAKE3 in hexadecimal.
    Fixed(String),
    /// Of one that may.
    Changing(Hashed),
}

/// What of a tree counts.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Owners are copied along, kept in this manner; `None` for a context, whose owners do not
    /// matter.
    pub owners: Option<Ownership>,
}

/// Hashes a selection, and notes what was seen of it.
pub fn digest(
    root: &Root,
    matches: &mut [Match],
    counts: Counts,
    hash: HashFile<'_>,
    cancel: &Cancel,
) -> Result<Digest, CopyError> {
    let mut content = Entries {
        root,
        counts,
        key: KeyWriter::new("content"),
        names: HashMap::new(),
    };
    for found in matches {
        let contents = contents(root, found, hash, cancel)?;
        content.key.field("match", found.name.as_bytes());
        match found.is_dir() {
            // Its contents are copied, not the folder.
            true => drop(content.key.field("kind", "Directory")),
            false => {
                let (path, metadata) = (&found.path, &found.metadata);
                let known = hashed(hash, root, path, metadata)?;
                found.seen = content.entry(Path::new(""), path, metadata, known)?;
            }
        }
        for (item, known) in found.items.iter_mut().zip(contents) {
            let full = found.path.join(&item.path);
            item.seen = content.entry(&item.path, &full, &item.metadata, known)?;
        }
    }
    Ok(content.key.finish())
}

/// The contents of all files below a match, in the order of its items.
fn contents(
    root: &Root,
    found: &Match,
    hash: HashFile<'_>,
    cancel: &Cancel,
) -> Result<Vec<Option<Content>>, CopyError> {
    let contents: Vec<OnceLock<Content>> = found.items.iter().map(|_| OnceLock::new()).collect();
    let items: Vec<_> = found.items.iter().zip(&contents).collect();
    let own = || root.try_clone().map(Root::steady);
    let own = || own().map_err(CopyError::read("."));
    each(&items, own, |root, (item, content)| {
        cancel.check()?;
        let full = found.full(item);
        if let Some(hashed) = hashed(hash, root, &full, &item.metadata)? {
            // Nobody else has this one.
            let _ = content.set(hashed);
        }
        Ok(())
    })?;
    Ok(contents.into_iter().map(OnceLock::into_inner).collect())
}

/// Of a regular file.
fn hashed(
    hash: HashFile<'_>,
    root: &Root,
    full: &Path,
    found: &Metadata,
) -> Result<Option<Content>, CopyError> {
    if !found.is_file() {
        return Ok(None);
    }
    let content = hash(root, full, found).map_err(CopyError::read(full))?;
    Ok(Some(content.ok_or(Cancelled)?))
}

struct Entries<'a> {
    root: &'a Root,
    counts: Counts,
    key: KeyWriter,
    /// Of files with several names: how many were seen before, as the copy keeps them one file.
    names: HashMap<(u64, u64), usize>,
}

impl Entries<'_> {
    fn entry(
        &mut self,
        name: &Path,
        full: &Path,
        found: &Metadata,
        content: Option<Content>,
    ) -> Result<Seen, CopyError> {
        self.key.field("name", name.as_os_str().as_bytes());
        self.key.field("kind", format!("{:?}", found.kind));
        self.attributes(full, found)?;
        match found.kind {
            Kind::File => {
                self.linked(found);
                return Ok(match content.ok_or(Cancelled)? {
                    Content::Fixed(hash) => {
                        self.key.field("data", hash);
                        Seen::Nothing
                    }
                    Content::Changing(hashed) => {
                        self.key.field("data", hashed.hash.as_bytes());
                        Seen::File(Box::new(hashed))
                    }
                });
            }
            Kind::Symlink => {
                let target = self.root.read_link(full);
                let target = target.map_err(CopyError::read(full))?;
                self.key.field("target", target.as_os_str().as_bytes());
                return Ok(Seen::Link(target));
            }
            Kind::CharDevice | Kind::BlockDevice => {
                let number = format!("{}:{}", found.node.major, found.node.minor);
                self.key.field("node", number);
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        Ok(Seen::Nothing)
    }

    /// A name of a file that had one before says which.
    fn linked(&mut self, found: &Metadata) {
        if found.links < 2 {
            return;
        }
        let next = self.names.len();
        let first = *self.names.entry(found.identity).or_insert(next);
        if first < next {
            self.key.field("linked", first.to_string());
        }
    }

    fn attributes(&mut self, full: &Path, found: &Metadata) -> Result<(), CopyError> {
        let mut mode = found.mode;
        if let Some(ownership) = self.counts.owners {
            let kept = ownership.of(self.root, full, found);
            let (owner, real) = kept.map_err(CopyError::read(full))?;
            mode = real;
            self.key
                .field("owner", format!("{}:{}", owner.uid, owner.gid));
            let xattrs = super::place::xattrs_to_copy(self.root, full, found)?;
            for (name, value) in xattrs {
                self.key.field("xattr", name.as_bytes());
                self.key.field("value", value);
            }
        }
        if found.kind != Kind::Symlink {
            self.key.field("mode", format!("{mode:o}"));
        }
        Ok(())
    }
}
