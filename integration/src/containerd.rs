//! A containerd of one test: own root, state and socket, without the Kubernetes interface.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::folder::Folder;
use crate::probe;
use crate::process::{self, Ran};

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    folder: Folder,
    daemon: Child,
}

impl Containerd {
    /// `None` after having told why there can be none here.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_in(Folder::new())
    }

    /// As [`Containerd::start`], with everything of it in this folder.
    #[track_caller]
    pub fn start_in(folder: Folder) -> Option<Self> {
        if !probe::root() || !probe::programs(&["containerd", "ctr"]) {
            return None;
        }
        let path = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
            path("root"),
            path("state"),
            path("sock"),
            path("opt"),
        );
        let config = folder.write("config.toml", config);
        let log = File::create(folder.join("log")).expect("a log");
        let mut command = Command::new("containerd");
        command.arg("--config").arg(config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let daemon = command.spawn().expect("containerd");
        let mut containerd = Self { folder, daemon };
        containerd.wait();
        Some(containerd)
    }

    fn wait(&mut self) {
        let Self { folder, daemon } = self;
        process::eventually("containerd answers", START, || {
            if let Some(code) = process::wait(daemon, Duration::ZERO) {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("containerd ended with {code}\n{log}");
            }
            ctr(folder, &["version"]).code == 0
        });
    }

    /// Runs ctr against this containerd.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        ctr(&self.folder, arguments)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        if process::wait(&mut self.daemon, END).is_none() {
            process::signal(&self.daemon, Signal::KILL);
            process::wait(&mut self.daemon, END);
        }
    }
}

#[track_caller]
fn ctr(folder: &Folder, arguments: &[&str]) -> Ran {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(folder.join("sock"));
    process::run(command.args(arguments))
}
