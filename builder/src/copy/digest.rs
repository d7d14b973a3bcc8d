//! The content of a selection as one digest: everything that the copy depends on, and no time.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use unpacker::digest::Digest;
use unpacker::layer::Ownership;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::{Kind, Metadata};
use unpacker::progress::{Cancel, Cancelled};

use crate::cache::files::Hashed;
use crate::cache::key::KeyWriter;

use super::CopyError;
use super::select::{Match, Seen};

/// How the content of a file of the tree is hashed: remembered for the context, read for everything else.
/// Nothing where the work was stopped.
pub type HashFile<'h> = &'h mut dyn FnMut(&Path, &Metadata) -> io::Result<Option<Content>>;

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
        hash,
        key: KeyWriter::new("content"),
    };
    for found in matches {
        content.key.field("match", found.name.as_bytes());
        match found.is_dir() {
            // Its contents are copied, not the folder.
            true => drop(content.key.field("kind", "Directory")),
            false => found.seen = content.entry(Path::new(""), &found.path, &found.metadata)?,
        }
        for item in &mut found.items {
            cancel.check()?;
            let full = found.path.join(&item.path);
            item.seen = content.entry(&item.path, &full, &item.metadata)?;
        }
    }
    Ok(content.key.finish())
}

struct Entries<'a, 'h> {
    root: &'a Root,
    counts: Counts,
    hash: HashFile<'h>,
    key: KeyWriter,
}

impl Entries<'_, '_> {
    fn entry(&mut self, name: &Path, full: &Path, found: &Metadata) -> Result<Seen, CopyError> {
        self.key.field("name", name.as_os_str().as_bytes());
        self.key.field("kind", format!("{:?}", found.kind));
        self.attributes(full, found)?;
        match found.kind {
            Kind::File => {
                let content = (self.hash)(full, found);
                let content = content.map_err(CopyError::read(full))?.ok_or(Cancelled)?;
                return Ok(match content {
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
