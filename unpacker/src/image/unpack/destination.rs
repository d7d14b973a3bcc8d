//! The folder that an image is unpacked into: made, or empty; and as it was when that fails.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::UnpackError;
use crate::layer::root::Root;
use crate::layer::root::metadata::Metadata;

/// An empty folder that nobody else unpacks into. Unless it is kept, what came into it goes with this
/// value, and so do the folders that were made for it; one that was there is as it was before.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    pub(super) root: Root,
    before: Before,
    /// The outermost first.
    made: Vec<PathBuf>,
    /// From here on what is in the folder is ours.
    begun: AtomicBool,
    kept: bool,
    /// Held by one who unpacks.
    _lock: File,
}

/// What the empty folder was like.
#[derive(Debug)]
struct Before {
    metadata: Metadata,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Destination {
    /// Makes the folder, or takes one that is empty.
    pub fn prepare(path: &Path) -> Result<Self, UnpackError> {
        let made = make(path).map_err(|source| failed(path, source))?;
        let opened = open(path);
        if opened.is_err() {
            remove(&made);
        }
        let (root, lock, before) = opened?;
        Ok(Self {
            path: path.to_owned(),
            root,
            before,
            made,
            begun: AtomicBool::new(false),
            kept: false,
            _lock: lock,
        })
    }

    /// What is in the folder stays.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// Before anything is written: since the folder was prepared, which a download may be ago,
    /// somebody may have put files into it.
    pub(super) fn begin(&self) -> Result<(), UnpackError> {
        let entries = self.root.read_dir(Path::new(""));
        if !entries.map_err(|source| self.failed(source))?.is_empty() {
            let path = self.path.clone();
            return Err(UnpackError::NotEmpty { path });
        }
        self.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn failed(&self, source: io::Error) -> UnpackError {
        failed(&self.path, source)
    }

    /// Removes what came into the folder, and makes the folder what it was.
    pub(super) fn reset(&self) -> io::Result<()> {
        let (root, top) = (&self.root, Path::new(""));
        if !self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        root.set_mode(top, 0o700)?;
        for entry in root.read_dir(top)? {
            root.remove_all(Path::new(&entry.name))?;
        }
        let now = root.metadata(top)?;
        let Before { metadata, xattrs } = &self.before;
        for name in root.list_xattrs(top)? {
            if xattrs.iter().all(|(known, _)| *known != name) {
                root.remove_xattr(top, &name)?;
            }
        }
        for (name, value) in xattrs {
            if root.xattr(top, name)?.as_ref() != Some(value) {
                root.set_xattr(top, name, value)?;
            }
        }
        if now.owner != metadata.owner {
            root.set_owner(top, metadata.owner)?;
        }
        root.set_mode(top, metadata.mode)?;
        root.set_mtime(top, metadata.mtime)?;
        self.begun.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.kept {
            // Why it is not kept is told; what cannot be removed besides is there to be seen.
            let _ = self.reset();
            remove(&self.made);
        }
    }
}

fn failed(path: &Path, source: io::Error) -> UnpackError {
    UnpackError::Destination {
        path: path.to_owned(),
        source,
    }
}

/// Makes the folder and those above it that are missing, and answers them.
fn make(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && fs::metadata(path).is_err();
    let missing: Vec<&Path> = path.ancestors().take_while(missing).collect();
    let mut made = Vec::new();
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Ok(()) => made.push(path.to_owned()),
            // Somebody else's, then; or something else, which opening it tells.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                remove(&made);
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// Removes folders that were made, as far as nobody has put anything into them.
fn remove(made: &[PathBuf]) {
    for path in made.iter().rev() {
        if fs::remove_dir(path).is_err() {
            return;
        }
    }
}

fn open(path: &Path) -> Result<(Root, File, Before), UnpackError> {
    let failed = |source| failed(path, source);
    let root = Root::open(path).map_err(failed)?;
    let lock = File::open(path).map_err(failed)?;
    // A file system without locks is no reason to do nothing.
    if let Err(Errno::WOULDBLOCK) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        let path = path.to_owned();
        return Err(UnpackError::Busy { path });
    }
    let top = Path::new("");
    if !root.read_dir(top).map_err(failed)?.is_empty() {
        let path = path.to_owned();
        return Err(UnpackError::NotEmpty { path });
    }
    let before = Before {
        metadata: root.metadata(top).map_err(failed)?,
        xattrs: root.xattrs(top).map_err(failed)?,
    };
    Ok((root, lock, before))
}
