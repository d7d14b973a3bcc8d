//! Other people's tools, each with storage of its own, so that no test touches the system's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Ran, run};

/// Copies an image between two transports, byte for byte.
#[track_caller]
pub fn skopeo_copy(from: &str, to: &str) -> Ran {
    run(&mut skopeo_copy_command(from, to)).ok()
}

/// The copy as a command, for callers that expect it to fail.
pub fn skopeo_copy_command(from: &str, to: &str) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--preserve-digests"]);
    command.args([
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        from,
        to,
    ]);
    command
}

/// podman or buildah with folders of its own.
#[derive(Debug)]
pub struct Storage {
    program: &'static str,
    folder: PathBuf,
    driver: &'static str,
}

impl Storage {
    /// `folder` must be writable and short: podman puts sockets below it.
    pub fn new(program: &'static str, folder: &Path) -> Self {
        let folder = folder.join(program);
        std::fs::create_dir_all(folder.join("tmp")).expect("folders");
        // vfs works on every file system and needs no mount.
        let driver = "vfs";
        Self {
            program,
            folder,
            driver,
        }
    }

    /// As [`Storage::new`], with layers kept apart and stacked by overlayfs.
    pub fn stacking(program: &'static str, folder: &Path) -> Self {
        let driver = "overlay";
        Self {
            driver,
            ..Self::new(program, folder)
        }
    }

    /// Runs the tool.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.folder.join("root"));
        command.arg("--runroot").arg(self.folder.join("run"));
        command.args(["--storage-driver", self.driver]);
        command.env("TMPDIR", self.folder.join("tmp"));
        command.current_dir(&self.folder);
        run(command.args(arguments))
    }
}

/// Runs a program that keeps its settings in a home folder, with an empty one.
#[track_caller]
pub fn at_home(home: &Path, program: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command.env("HOME", home).env("DOCKER_CONFIG", home);
    // Nobody is there to be asked for the password of a new key.
    command.env("COSIGN_PASSWORD", "");
    for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"] {
        command.env_remove(name);
    }
    run(command.args(arguments).current_dir(home))
}
