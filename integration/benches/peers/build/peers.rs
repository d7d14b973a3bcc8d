//! The builders, each with a store of its own and the same base image, all of which bring their images to
//! the same registry.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::account::Account;
use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::process;
use rustix::process::Signal;

use crate::figures::{has, quiet};

pub(crate) const BASE: &str = "debian:base";

pub(crate) trait Builder {
    fn name(&self) -> String;
    /// Builds a folder to an image in the registry, its new layers compressed as said.
    fn build(&self, context: &Path, name: &str, compression: &str) -> Command;
    /// The process that works for the command.
    fn daemon(&self) -> Option<u32>;
}

/// devpod, by its daemon.
pub(crate) struct Ours {
    pub(crate) name: &'static str,
    pub(crate) appliance: TestAppliance,
}

impl Builder for Ours {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn build(&self, context: &Path, name: &str, compression: &str) -> Command {
        let base = format!("BASE={BASE}");
        let mut command = self.appliance.place().devpod(&["build", "-t", name]);
        command.args(["--build-arg", &base, "--compression", compression]);
        command.arg(context);
        command
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.appliance.pid())
    }
}

/// buildkitd, as root or in a user namespace of an ordinary user.
pub(crate) struct BuildKit {
    folder: Folder,
    registry: String,
    daemon: Child,
    /// Deleted when this one is.
    user: Option<Account>,
}

impl BuildKit {
    pub(crate) fn start(registry: &str, user: Option<Account>) -> Option<Self> {
        if !has("buildkitd") || !has("buildctl") || !has("runc") {
            println!("build: buildkitd, buildctl or runc is not installed");
            return None;
        }
        let folder = Folder::new();
        let settings = format!(
            "[worker.oci]\ngc = false\nbinary = \"runc\"\n[worker.containerd]\nenabled = false\n\
             [registry.\"{registry}\"]\nhttp = true\n"
        );
        let settings = folder.write("buildkitd.toml", settings);
        let mut command = match &user {
            None => Command::new("buildkitd"),
            Some(user) => in_namespace(user, &folder),
        };
        command.arg("--config").arg(settings);
        command.arg("--root").arg(folder.join("root"));
        let socket = folder.join("buildkitd.sock");
        command.args(["--addr", &format!("unix://{}", socket.display())]);
        command.args(["--oci-worker-net", "host"]);
        let log = fs::File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let daemon = command.stderr(log).spawn().unwrap();
        let kit = Self {
            folder,
            registry: registry.to_owned(),
            daemon,
            user,
        };
        process::eventually("buildkitd answers", Duration::from_secs(60), || {
            let mut ask = kit.command();
            quiet(ask.args(["debug", "workers"]))
                .status()
                .unwrap()
                .success()
        });
        Some(kit)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildctl");
        let socket = self.folder.join("buildkitd.sock");
        command.args(["--addr", &format!("unix://{}", socket.display())]);
        command
    }
}

/// As rootlesskit does it: the user's ids, and a mount namespace.
fn in_namespace(user: &Account, folder: &Folder) -> Command {
    let chowned = quiet(Command::new("chown").arg(&user.name).arg(folder.path())).status();
    assert!(chowned.unwrap().success(), "chown");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-auto", "--map-root-user", "--mount", "--"]);
    command.args(["buildkitd", "--rootless"]);
    command
        .env("HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path());
    command.env("USER", &user.name);
    command.uid(user.uid).gid(user.gid);
    command
}

impl Builder for BuildKit {
    fn name(&self) -> String {
        let rootless = if self.user.is_some() {
            ", rootless"
        } else {
            ""
        };
        format!("BuildKit{rootless}")
    }

    fn build(&self, context: &Path, name: &str, compression: &str) -> Command {
        let here = context.display();
        let registry = &self.registry;
        let mut command = self.command();
        command.args([
            "build",
            "--progress",
            "plain",
            "--frontend",
            "dockerfile.v0",
        ]);
        command.args(["--local", &format!("context={here}")]);
        command.args(["--local", &format!("dockerfile={here}")]);
        command.args(["--opt", &format!("build-arg:BASE={registry}/{BASE}")]);
        command.args(["--output", &format!(
            "type=image,name={registry}/{name},push=true,oci-mediatypes=true,compression={compression}"
        )]);
        command
    }

    fn daemon(&self) -> Option<u32> {
        Some(self.daemon.id())
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        process::signal(&self.daemon, Signal::TERM);
        process::wait(&mut self.daemon, Duration::from_secs(30));
    }
}

/// buildah as root, without a daemon.
pub(crate) struct Buildah {
    folder: Folder,
    registry: String,
}

impl Buildah {
    pub(crate) fn prepare(registry: &str) -> Option<Self> {
        if !has("buildah") || !has("runc") {
            println!("build: buildah or runc is not installed");
            return None;
        }
        Some(Self {
            folder: Folder::new(),
            registry: registry.to_owned(),
        })
    }
}

impl Builder for Buildah {
    fn name(&self) -> String {
        "buildah".to_owned()
    }

    fn build(&self, context: &Path, name: &str, compression: &str) -> Command {
        let store: Vec<PathBuf> = ["root", "run"].map(|name| self.folder.join(name)).into();
        let buildah = format!(
            "buildah --root {} --runroot {} --storage-driver overlay",
            store[0].display(),
            store[1].display()
        );
        let (registry, here) = (&self.registry, context.display());
        // This version's push cannot choose a compression where it is not asked for by its settings.
        assert_eq!(compression, "gzip");
        let script = format!(
            "{buildah} bud --layers --runtime runc --network host --tls-verify=false \
             --ulimit nofile=1024:1024 --build-arg BASE={registry}/{BASE} -t {name} {here} && \
             {buildah} push --tls-verify=false {name} docker://{registry}/{name}"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    }

    fn daemon(&self) -> Option<u32> {
        None
    }
}
