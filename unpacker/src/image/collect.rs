//! What a layout needs no more: blobs that no image of its index names.
//!
//! Several processes may use one layout. Whoever brings blobs holds a [`Hold`] from before the
//! first blob until the index names them; a collection goes on only while nobody holds one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use oci_spec::image::Descriptor;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::layout::{Layout, LayoutError, TEMPORARY};
use super::read::{self, ImageError, MAX_MANIFEST, MAX_NESTING, Parsed};

/// Blobs stay while this lives.
#[derive(Debug)]
pub struct Hold(#[allow(dead_code)] File);

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    pub blobs: u64,
    pub bytes: u64,
}

/// What a collection has found to stay.
#[derive(Default)]
struct Needed {
    blobs: HashSet<String>,
    /// Documents whose children are noted, by the depth at which they were met: the bound of nesting
    /// cuts off more of a deeper one.
    read: HashSet<(String, usize)>,
}

impl Layout {
    /// Keeps collections away, those of other processes too. Waits for one that goes on.
    pub fn hold(&self) -> Result<Hold, LayoutError> {
        self.lock_blobs(FlockOperation::LockShared)
            .map(Hold)
            .map_err(|source| self.failed(source))
    }

    /// Removes blobs that nothing in the index names, and what killed writers left. `None` where
    /// somebody holds the layout: then whoever collects next does it.
    pub fn collect(&self) -> Result<Option<Freed>, LayoutError> {
        let locked = self.lock_blobs(FlockOperation::NonBlockingLockExclusive);
        let _alone = match locked {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        // No name comes or goes meanwhile.
        let _names = self.lock()?;
        let mut needed = Needed::default();
        for image in self.images()? {
            self.need(&image.descriptor, &mut needed, 0)
                .map_err(|source| self.failed(source))?;
        }
        let swept = self.sweep(&needed.blobs);
        swept.map(Some).map_err(|source| self.failed(source))
    }

    fn lock_blobs(&self, operation: FlockOperation) -> io::Result<File> {
        let file = File::open(self.dir().join("blobs"))?;
        loop {
            match flock(&file, operation) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(file),
            }
        }
    }

    /// Notes the blob and whatever it names. One that is not here names nothing; one that cannot be
    /// read may name anything, and so nothing is removed.
    fn need(&self, blob: &Descriptor, needed: &mut Needed, depth: usize) -> io::Result<()> {
        needed.blobs.insert(blob.digest().to_string());
        if depth > MAX_NESTING || !read::is_document(blob) {
            return Ok(());
        }
        // Indexes that name each other's children make more paths than anybody could walk.
        if !needed.read.insert((blob.digest().to_string(), depth)) {
            return Ok(());
        }
        let bytes = match read::fetch(self, blob, MAX_MANIFEST) {
            Ok(bytes) => bytes,
            Err(ImageError::Content { source, .. }) => return Err(source),
            Err(ImageError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let named = match read::parse(&bytes) {
            Ok(Parsed::Index(children)) => children,
            Ok(Parsed::Manifest { config, layers }) => {
                layers.into_iter().chain([*config]).collect()
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        for child in named {
            self.need(&child, needed, depth + 1)?;
        }
        Ok(())
    }

    fn sweep(&self, needed: &HashSet<String>) -> io::Result<Freed> {
        let mut freed = Freed::default();
        for algorithm in ["sha256", "sha512"] {
            let folder = self.dir().join("blobs").join(algorithm);
            for (name, size) in files(&folder)? {
                let digest = format!("{algorithm}:{name}");
                let ours = config::name::parse_digest(&digest).is_ok();
                if ours && !needed.contains(&digest) {
                    fs::remove_file(folder.join(name))?;
                    freed.blobs += 1;
                    freed.bytes += size;
                }
            }
        }
        for (name, _) in files(self.dir())? {
            if name.starts_with(TEMPORARY) {
                fs::remove_file(self.dir().join(name))?;
            }
        }
        Ok(freed)
    }
}

/// Names and sizes of the files in a folder; of none where it is missing.
fn files(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let (true, Ok(name)) = (
            entry.file_type()?.is_file(),
            entry.file_name().into_string(),
        ) {
            found.push((name, entry.metadata()?.len()));
        }
    }
    Ok(found)
}
