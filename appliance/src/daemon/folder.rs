//! The data folder: which file lies where. ARCHITECTURE.md draws it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The root of everything that a daemon keeps; absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    root: PathBuf,
}

impl DataFolder {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder, closed to others: unpacked images hold setuid programs (CVE-2021-41091).
    pub fn create(&self) -> io::Result<()> {
        for folder in [
            self.root.clone(),
            self.sandboxes(),
            self.volumes(),
            self.cache(),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        Ok(())
    }

    pub fn content(&self) -> PathBuf {
        self.root.join("content")
    }

    pub fn registry_index(&self) -> PathBuf {
        self.root.join("registry.redb")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Mode 0600.
    pub fn socket(&self) -> PathBuf {
        self.root.join("devpod.sock")
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Written when the daemon is ready, removed when it ends.
    pub fn status(&self) -> PathBuf {
        self.root.join("daemon.json")
    }

    pub fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }
}
