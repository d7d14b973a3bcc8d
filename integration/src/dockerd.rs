//! A Docker daemon of one test: own data, own socket, no network, and gone at the end.
//!
//! It never talks to the system's docker: everything that dockerd shares by default has its own
//! path here. Registries on loopback addresses may be plain HTTP without being configured.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::folder::Folder;
use crate::probe;
use crate::process::{self, Ran};

const START: Duration = Duration::from_secs(90);
const END: Duration = Duration::from_secs(30);

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    folder: Folder,
    daemon: Child,
}

impl Dockerd {
    /// `None` after having told why there can be none here.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_with("{}")
    }

    /// As [`Dockerd::start`], with this `daemon.json`.
    #[track_caller]
    pub fn start_with(configuration: &str) -> Option<Self> {
        Self::start_in(Folder::new(), "vfs", configuration)
    }

    /// As [`Dockerd::start_with`], with everything of it in this folder and a storage driver chosen.
    #[track_caller]
    pub fn start_in(folder: Folder, driver: &str, configuration: &str) -> Option<Self> {
        if !probe::root() || !probe::programs(&["dockerd", "docker", "containerd", "runc"]) {
            return None;
        }
        let log = File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(probe::find("dockerd").expect("found above"));
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(option).arg(folder.join(name));
        }
        // A configuration file in any case: the system's must not apply.
        command
            .arg("--config-file")
            .arg(folder.write("daemon.json", configuration));
        command.arg("--host").arg(socket(folder.path()));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        command.args(["--ip-forward=false", "--storage-driver", driver]);
        // dockerd uses a containerd of the system when one runs; then names must not meet.
        let namespace = format!(
            "devpod-test-{}",
            folder.path().file_name()?.to_string_lossy()
        );
        command.args(["--containerd-namespace", &namespace]);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let daemon = command.spawn().expect("dockerd");
        let mut dockerd = Self { folder, daemon };
        dockerd.wait();
        Some(dockerd)
    }

    fn wait(&mut self) {
        let Self { folder, daemon } = self;
        process::eventually("dockerd answers", START, || {
            let ended = process::wait(daemon, Duration::ZERO);
            if let Some(code) = ended {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("dockerd ended with {code}\n{log}");
            }
            client(folder.path(), &["version"]).code == 0
        });
    }

    /// The docker client of this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        client_command(self.folder.path(), arguments)
    }

    /// Runs the docker client against this daemon.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        client(self.folder.path(), arguments)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        if process::wait(&mut self.daemon, END).is_none() {
            process::signal(&self.daemon, Signal::KILL);
            process::wait(&mut self.daemon, END);
        }
    }
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("sock").display())
}

#[track_caller]
fn client(folder: &Path, arguments: &[&str]) -> Ran {
    process::run(&mut client_command(folder, arguments))
}

fn client_command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command
        .env_remove("DOCKER_CONTEXT")
        .env("DOCKER_CONFIG", folder.join("config"));
    command.arg("--host").arg(socket(folder)).args(arguments);
    command
}
