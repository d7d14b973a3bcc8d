//! Starting our own binary again: the only way in which this crate makes processes.
//!
//! The caller may have many threads; the helper has one, from its `main` on. What it is to do
//! travels over a socket that is its standard input, never in its arguments or environment.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use super::wire::Wire;
use crate::crash;

/// Where the binary is whose `main` calls [`super::dispatch`] first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    pub exe: PathBuf,
}

impl Launcher {
    /// The running binary, even when its file was replaced in the meantime.
    pub fn this() -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
        }
    }

    /// Starts a hidden subcommand with an empty environment.
    pub(crate) fn spawn(&self, subcommand: &str) -> io::Result<(Child, Wire)> {
        let (ours, theirs) = Wire::pair()?;
        let child = Command::new(&self.exe)
            .arg(subcommand)
            .env_clear()
            .envs(crash::passed_on())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok((child, ours))
    }
}

/// What a container's start was refused at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Making or joining namespaces.
    Namespaces,
    /// A port of the host that is to lead inside.
    Port,
    /// The container's own network.
    Network,
    /// Stacking the root file system.
    Root,
    /// One of the mounts inside it.
    Mount,
    /// The user has no id here.
    User,
    /// The working folder.
    Folder,
    /// Capabilities, limits or the system call filter.
    Confine,
    /// A limit that must hold and cannot.
    Limits,
    /// The program is not there: a shell's 127.
    NotFound,
    /// The program cannot be executed: a shell's 126.
    NotExecutable,
}

/// Why a process did not start, in the words of the process that tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub stage: Stage,
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(stage: Stage, text: impl Into<String>) -> Self {
        Self {
            stage,
            text: text.into(),
        }
    }
}

/// Gives a failed system call its place and object.
pub(crate) trait Refuse<T> {
    fn refuse(self, stage: Stage, what: impl FnOnce() -> String) -> Result<T, Refusal>;
}

impl<T, E: std::fmt::Display> Refuse<T> for Result<T, E> {
    fn refuse(self, stage: Stage, what: impl FnOnce() -> String) -> Result<T, Refusal> {
        self.map_err(|e| Refusal::new(stage, format!("cannot {}: {e}", what())))
    }
}
