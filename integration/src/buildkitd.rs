//! A buildkitd of its own: folder, socket and state are gone with it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::folder::Folder;
use crate::probe;
use crate::process;

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

/// A running buildkitd, with root's rights.
#[derive(Debug)]
pub struct Buildkitd {
    folder: Folder,
    daemon: Child,
}

impl Buildkitd {
    /// `None` after having told why there can be none here. Its steps are on the host's network, and
    /// nothing that it keeps is collected meanwhile.
    #[track_caller]
    pub fn start() -> Option<Self> {
        if !probe::root() || !probe::programs(&["buildkitd", "buildctl", "runc"]) {
            return None;
        }
        let folder = Folder::new();
        let log = File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(probe::find("buildkitd").expect("found above"));
        command.arg("--root").arg(folder.join("root"));
        command.arg("--addr").arg(address(&folder));
        // A configuration file in any case: the system's must not apply.
        command.arg("--config").arg(folder.write("toml", ""));
        // crun, where it is installed, refuses hosts with both versions of control groups.
        command.args(["--containerd-worker=false", "--oci-worker-binary=runc"]);
        command.args(["--oci-worker-net=host", "--oci-worker-gc=false"]);
        command.args(["--allow-insecure-entitlement", "network.host"]);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let daemon = command.spawn().expect("buildkitd");
        let mut buildkitd = Self { folder, daemon };
        buildkitd.wait();
        Some(buildkitd)
    }

    fn wait(&mut self) {
        let Self { folder, daemon } = self;
        process::eventually("buildkitd answers", START, || {
            if let Some(code) = process::wait(daemon, Duration::ZERO) {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                panic!("buildkitd ended with {code}\n{log}");
            }
            let mut command = client(folder);
            process::run(command.args(["debug", "workers"])).code == 0
        });
    }

    /// A build by the Dockerfile frontend that is part of it, so that no image is fetched for that.
    pub fn build(&self, context: &Path, dockerfile: &Path) -> Command {
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let file = dockerfile.file_name().expect("a file's name").display();
        let folder = dockerfile.parent().expect("a folder");
        let mut command = client(&self.folder);
        command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        command.args(["--opt", &format!("filename={file}")]);
        command.args(["--local", &option("context", context)]);
        command.args(["--local", &option("dockerfile", folder)]);
        command
    }
}

impl Drop for Buildkitd {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        if process::wait(&mut self.daemon, END).is_none() {
            process::signal(&self.daemon, Signal::KILL);
            process::wait(&mut self.daemon, END);
        }
    }
}

fn address(folder: &Folder) -> String {
    format!("unix://{}", folder.join("sock").display())
}

fn client(folder: &Folder) -> Command {
    let mut command = Command::new(probe::find("buildctl").unwrap_or_else(|| "buildctl".into()));
    command.arg("--addr").arg(address(folder));
    command.current_dir(folder.path());
    // An own home: credentials of whoever runs the tests are nobody's business.
    command.env("HOME", folder.path());
    command.env_remove("DOCKER_CONFIG");
    command
}
