//! What a container is, as data. Written by the parent as JSON onto an inherited descriptor, read
//! by the re-executed, single-threaded child: no secret of it ever stands in an argument list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::network::spec::Wiring;

/// Everything that is needed to start a container's first process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub rootfs: RootFs,
    pub hostname: String,
    /// In order, after the standard mounts (/proc, /sys, /dev, /dev/pts, /dev/shm).
    pub mounts: Vec<Mount>,
    pub network: Network,
    /// What goes through a private network.
    #[serde(default)]
    pub wiring: Wiring,
    pub process: Process,
    /// Run `process` below an init of ours that reaps and forwards signals. Without it the process
    /// is PID 1 itself.
    pub init: bool,
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
    /// `size` in bytes; `None` for the kernel's default.
    Tmpfs { target: PathBuf, size: Option<u64> },
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
}

/// Numeric identity inside the container. Names are resolved beforehand (`container::user`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}
