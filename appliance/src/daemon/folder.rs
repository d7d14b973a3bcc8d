//! The data folder: which file lies where. ARCHITECTURE.md draws it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
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
    /// One that exists is closed too, unless it holds something that is not ours.
    pub fn create(&self) -> io::Result<()> {
        make(&self.root)?;
        self.secure()?;
        for folder in [
            self.content(),
            self.sandboxes(),
            self.volumes(),
            self.cache(),
        ] {
            make(&folder)?;
        }
        Ok(())
    }

    /// The root belongs to us and only we may enter it, or an error says why that is not so.
    fn secure(&self) -> io::Result<()> {
        let data = fs::metadata(&self.root)?;
        let denied = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        if data.uid() != rustix::process::geteuid().as_raw() {
            return Err(denied(format!(
                "it belongs to the user with id {}",
                data.uid()
            )));
        }
        if data.mode() & 0o077 == 0 {
            return Ok(());
        }
        if !self.lock().exists() && fs::read_dir(&self.root)?.next().is_some() {
            // `--data /tmp` must not close /tmp.
            let mode = data.mode() & 0o7777;
            return Err(denied(format!(
                "its mode {mode:04o} lets others in, and it holds other files"
            )));
        }
        fs::set_permissions(&self.root, Permissions::from_mode(0o700))
    }

    /// Removes the temporary files of a daemon that was killed. The caller holds the folder's lock.
    pub fn sweep(&self) -> io::Result<()> {
        sweep(&self.root, false)?;
        sweep(&self.content(), false)?;
        sweep(&self.cache(), true)
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

    /// Leases of addresses on the bridge.
    pub fn bridge(&self) -> PathBuf {
        self.root.join("bridge")
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

    /// What was in the log before it grew large.
    pub fn old_log(&self) -> PathBuf {
        self.root.join("daemon.log.1")
    }
}

/// What a file is called until it is whole and takes its name.
const UNFINISHED: [&str; 2] = [".tmp", ".export-"];

fn sweep(folder: &Path, deep: bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is = |prefix: &str| name.to_string_lossy().starts_with(prefix);
        let kind = entry.file_type()?;
        if kind.is_file() && UNFINISHED.iter().any(|prefix| is(prefix)) {
            fs::remove_file(entry.path())?;
        } else if kind.is_dir() && deep {
            sweep(&entry.path(), deep)?;
        }
    }
    Ok(())
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn open_to_others(path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_a_killed_daemon_was_writing_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().to_owned());
        folder.create().unwrap();
        let steps = folder.cache().join("steps");
        fs::create_dir(&steps).unwrap();
        let (kept, gone) = (
            "daemon.json",
            [".tmpA1", "content/.export-1", "cache/steps/.tmpB2"],
        );
        for name in gone.iter().chain([&kept]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        folder.sweep().unwrap();
        assert!(gone.iter().all(|name| !dir.path().join(name).exists()));
        assert!(dir.path().join(kept).exists() && steps.exists());
    }

    #[test]
    fn an_existing_folder_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().to_owned());
        open_to_others(dir.path());
        folder.create().unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&folder.content()), 0o700);
        // Later too, once a daemon has been here.
        fs::write(folder.lock(), "").unwrap();
        open_to_others(dir.path());
        folder.create().unwrap();
        assert_eq!(mode(dir.path()), 0o700);
    }

    #[test]
    fn a_folder_of_other_things_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        open_to_others(dir.path());
        fs::write(dir.path().join("thesis"), "").unwrap();
        let refused = DataFolder::new(dir.path().to_owned()).create().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(mode(dir.path()), 0o755);
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            let _ = io::stderr().write_all(b"skipped: needs root\n");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(12345), None).unwrap();
        assert!(DataFolder::new(dir.path().to_owned()).create().is_err());
    }
}
