//! What a container is, as data. Written by the parent as JSON onto an inherited descriptor, read
//! by the re-executed, single-threaded child: no secret of it ever stands in an argument list.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::capability::Capabilities;
use super::network::spec::Wiring;
use super::resources::{Resources, Ulimit};
use super::seccomp::file::Profile;

/// Everything that is needed to start a container's first process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub rootfs: RootFs,
    pub hostname: String,
    /// In order, after the standard mounts (/proc, /sys, /dev, /dev/pts, /dev/shm).
    pub mounts: Vec<Mount>,
    pub network: Network,
    /// What goes through a private network or a bridge.
    #[serde(default)]
    pub wiring: Wiring,
    pub process: Process,
    /// Run `process` below an init of ours that reaps and forwards signals. Without it the process
    /// is PID 1 itself.
    pub init: bool,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub surroundings: Surroundings,
    #[serde(default)]
    pub log: LogLimits,
}

/// How much of a sandbox's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    /// Bytes of one file, and a line.
    pub max_size: u64,
    /// Files: the newest, and those that it was before; 1 to 100.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_files: 3,
        }
    }
}

/// What of the root file system is not as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// `/` cannot be written to; mounts can, unless they are read-only themselves.
    pub read_only: bool,
    /// What of /proc and /sys tells or changes the host is there as it is.
    pub unmasked: bool,
    /// Bytes of /dev/shm; docker's 64 MiB by default.
    pub shm_size: Option<u64>,
    /// Further lines of /etc/hosts.
    pub hosts: Vec<HostLine>,
}

/// An address and its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    pub address: std::net::IpAddr,
    pub name: String,
}

/// The overlay that becomes `/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Layer folders, lowest first, absolute. May be empty (`FROM scratch`).
    pub lower: Vec<PathBuf>,
    /// Where changes go; both on one file system that is no overlay.
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Changes need not survive a crash of the host (build steps, throw-away sandboxes).
    pub volatile: bool,
    /// The upper folder is to become a layer, so that nothing can stand for an overlay.
    #[serde(default)]
    pub becomes_layer: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Mount {
    /// A host file or folder at `target`, which is resolved inside the root and made when missing.
    Bind {
        source: PathBuf,
        target: PathBuf,
        read_only: bool,
    },
    /// As a bind of `place` beneath `root`, which never leads out of it: whoever may write there may
    /// put links in the way.
    Beneath {
        root: PathBuf,
        place: PathBuf,
        target: PathBuf,
        read_only: bool,
    },
    Tmpfs {
        target: PathBuf,
        /// Bytes; `None` for the kernel's default.
        size: Option<u64>,
        /// Permissions; `None` for 1777.
        #[serde(default)]
        mode: Option<u32>,
        #[serde(default)]
        read_only: bool,
    },
}

impl Mount {
    /// Where it is seen.
    pub fn target(&self) -> &Path {
        match self {
            Self::Bind { target, .. }
            | Self::Beneath { target, .. }
            | Self::Tmpfs { target, .. } => target,
        }
    }

    /// Whether it shows this folder of the host.
    pub fn shows(&self, folder: &Path) -> bool {
        matches!(self, Self::Bind { source, .. } if source == folder)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's network namespace; resolv.conf and hosts are the host's, read-only.
    Host,
    /// An empty one with `lo` up.
    None,
    /// One of its own, from which the world can be reached: see `container::network`.
    Private,
    /// As `Private`, with a device on a bridge of root's: see `container::network::bridge`.
    Bridge,
}

/// A process to be run in a container, first or later (`exec`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; the program is looked up in the `PATH` of `env` inside the root.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Resolved inside the root as the last thing; made when missing for the first process.
    pub cwd: String,
    pub user: User,
    /// A pseudo-terminal of the container's own devpts becomes stdin, stdout and stderr.
    pub terminal: bool,
    /// A later process of a container is confined as the first one is, whatever stands here.
    #[serde(default)]
    pub confinement: Confinement,
}

/// What a process may do. The default is docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// Inside the container's user namespace, and never outside of it.
    pub capabilities: Capabilities,
    /// Programs of the image cannot gain privileges: no sudo, no su.
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub ulimits: Vec<Ulimit>,
    /// On how many processors it is kept.
    pub processors: Option<u32>,
}

/// Which system calls there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Those of docker's default profile.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// Those of a file of the user's.
    Profile(Box<Profile>),
}

/// Numeric identity inside the container. Names are resolved beforehand (`container::user`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}
