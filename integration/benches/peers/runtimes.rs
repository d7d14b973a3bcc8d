//! Other people's container tools, each with an image or a bundle of its own that is ready to run.
//!
//! All of them on the host's network and without a terminal: setting up a bridge is not what is
//! compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::probe;
use serde_json::{Value, json};

use crate::figures::{has, quiet, run};

const MOMENT: &str = "/bin/moment";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "3600"];
const LIFE: &str = "life";

/// runc with a bundle whose root file system lies there unpacked.
pub(crate) struct Runc {
    folder: PathBuf,
}

impl Runc {
    pub(crate) fn prepare(folder: &Folder, layers: &[Vec<u8>]) -> Option<Self> {
        if !probe::root() || !has("runc") {
            println!("run, exec: runc is not installed");
            return None;
        }
        let folder = folder.join("runc");
        let runc = Self { folder };
        for (name, args) in [("moment", &[MOMENT][..]), (LIFE, &SLEEP)] {
            runc.write_bundle(name, args, layers);
        }
        // Its process keeps what it inherits.
        let mut life = runc.command();
        life.args(["run", "--detach", "--bundle"]);
        let begun = quiet(life.arg(runc.folder.join(LIFE)).arg(LIFE)).status();
        assert!(begun.unwrap().success(), "runc run");
        Some(runc)
    }

    fn write_bundle(&self, name: &str, args: &[&str], layers: &[Vec<u8>]) {
        let root = self.folder.join(name).join("rootfs");
        fs::create_dir_all(&root).unwrap();
        for layer in layers {
            let tar = self.folder.join("layer.tar");
            fs::write(&tar, layer).unwrap();
            run(Command::new("tar")
                .arg("-xf")
                .arg(&tar)
                .arg("-C")
                .arg(&root));
        }
        let bundle = self.folder.join(name);
        run(Command::new("runc").arg("spec").current_dir(&bundle));
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        // Limits that this machine may not raise would be refused.
        config["process"]["rlimits"] = json!([]);
        let spaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|space| space["type"] != "network");
        fs::write(&path, config.to_string()).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.join("state"));
        command
    }

    pub(crate) fn run(&self) -> Command {
        let mut command = self.command();
        command.args(["run", "--bundle"]);
        command.arg(self.folder.join("moment")).arg("moment");
        command
    }

    pub(crate) fn exec(&self) -> Command {
        let mut command = self.command();
        command.args(["exec", LIFE, MOMENT]);
        command
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        // The benchmark is over in any case.
        let _ = quiet(self.command().args(["delete", "--force", LIFE])).status();
    }
}

/// podman with storage of its own.
pub(crate) struct Podman {
    folder: PathBuf,
}

impl Podman {
    pub(crate) fn prepare(folder: &Folder, layout: &Path) -> Option<Self> {
        if !probe::root() || !has("podman") || !has("runc") {
            println!("run, exec: podman or runc is not installed");
            return None;
        }
        let podman = Self {
            folder: folder.join("podman"),
        };
        fs::create_dir_all(&podman.folder).unwrap();
        let from = format!("oci:{}:latest", layout.display());
        let to = format!(
            "containers-storage:[overlay@{}+{}]localhost/moment:1",
            podman.folder.join("root").display(),
            podman.folder.join("run").display()
        );
        run(Command::new("skopeo").args(["copy", "--quiet", &from, &to]));
        let mut life = podman.container(&["--detach", "--name", LIFE]);
        run(life.args(SLEEP).stdout(Stdio::null()));
        Some(podman)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.arg("--root").arg(self.folder.join("root"));
        command.arg("--runroot").arg(self.folder.join("run"));
        command.args(["--storage-driver", "overlay", "--runtime", "runc"]);
        command.args(["--cgroup-manager", "cgroupfs"]);
        command
    }

    fn container(&self, options: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--network", "host"]);
        command.args([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ]);
        command.args(options).arg("localhost/moment:1");
        command
    }

    pub(crate) fn run(&self) -> Command {
        self.container(&["--rm"])
    }

    pub(crate) fn exec(&self) -> Command {
        let mut command = self.command();
        command.args(["exec", LIFE, MOMENT]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The benchmark is over in any case.
        let _ = quiet(self.command().args(["rm", "--force", "--time", "0", LIFE])).status();
    }
}

/// docker with a daemon of its own.
pub(crate) struct Docker {
    daemon: Dockerd,
}

impl Docker {
    pub(crate) fn prepare(daemon: Dockerd, layout: &Path) -> Self {
        let archive = layout.with_extension("tar");
        let from = format!("oci:{}:latest", layout.display());
        let to = format!("docker-archive:{}:moment:1", archive.display());
        run(Command::new("skopeo").args(["copy", "--quiet", &from, &to]));
        daemon
            .run(&["load", "--input", &archive.display().to_string()])
            .ok();
        let begin = [
            "run",
            "--detach",
            "--network",
            "host",
            "--name",
            LIFE,
            "moment:1",
        ];
        daemon.run(&[&begin[..], &SLEEP].concat()).ok();
        Self { daemon }
    }

    pub(crate) fn run(&self) -> Command {
        self.daemon
            .command(&["run", "--rm", "--network", "host", "moment:1"])
    }

    pub(crate) fn exec(&self) -> Command {
        self.daemon.command(&["exec", LIFE, MOMENT])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.daemon.run(&["rm", "--force", LIFE]);
    }
}
