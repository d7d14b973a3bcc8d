//! Containers that outlive whoever started them: the caller's side.
//!
//! ```text
//! <dir>/monitor.json   who watches and what runs (pid, start time and boot id tell it for sure)
//! <dir>/attach.sock    frames of `stream`, to and from the first process
//! <dir>/log, log.1 …   output, one JSON object a line: {"time":RFC 3339,"stream":…,"log":…}
//! <dir>/exit.json      how it ended; its presence says that it did
//! ```

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::progress::Cancel;

use super::exit::Exit;
use super::launch::{Launcher, Refusal};
use super::spec::{ContainerSpec, Process};

/// What a sandbox folder tells about its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// `pid` is the container's first process as the host sees it.
    Running {
        pid: i32,
    },
    Exited(Exit),
    /// It ran, and ended without a record: the host was restarted or the monitor killed.
    Lost,
    /// Nothing was ever started from this folder.
    Never,
}

/// Why a sandbox does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("cannot start a helper process")]
    Spawn(#[source] io::Error),
    /// In the words of the process that tried.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the sandbox is already running as process {pid}")]
    Running { pid: i32 },
    #[error("the sandbox is not running")]
    NotRunning,
    #[error("the sandbox is still there after SIGKILL")]
    Unkillable,
    #[error("the monitor ended without an answer")]
    Lost,
    #[error("cannot use the sandbox folder")]
    Io(#[from] io::Error),
}

/// One line of a sandbox's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, UTC.
    pub time: String,
    /// `stdout` or `stderr`; a terminal has `stdout` only.
    pub stream: String,
    /// The text, with its newline when it had one.
    pub log: String,
}

/// Starts a container in its own session below a monitor of ours, and returns when its program
/// runs. `dir` exists; records of an earlier run in it are replaced, the log is continued.
pub fn start(
    launcher: &Launcher,
    dir: &Path,
    spec: &ContainerSpec,
) -> Result<State, SuperviseError> {
    let _ = (launcher, dir, spec);
    Err(SuperviseError::Lost)
}

/// What is known of the container in `dir`; asks the kernel, never only a file.
pub fn state(dir: &Path) -> io::Result<State> {
    let _ = dir;
    Ok(State::Never)
}

/// Sends `signal` to the first process and, when it still runs after `grace`, kills everything.
pub fn stop(dir: &Path, signal: i32, grace: Duration) -> Result<State, SuperviseError> {
    let _ = (dir, signal, grace);
    Err(SuperviseError::NotRunning)
}

/// Kills everything in the container.
pub fn kill(dir: &Path) -> Result<State, SuperviseError> {
    stop(dir, libc::SIGKILL, Duration::ZERO)
}

/// A stream of frames to and from the first process.
pub fn attach(dir: &Path) -> Result<UnixStream, SuperviseError> {
    let _ = dir;
    Err(SuperviseError::NotRunning)
}

/// Runs one more process in the container and answers, once it runs, the stream of its frames.
/// It lives as long as that stream: when the caller closes it, the process gets SIGHUP.
pub fn exec(
    launcher: &Launcher,
    dir: &Path,
    process: &Process,
) -> Result<UnixStream, SuperviseError> {
    let _ = (launcher, dir, process);
    Err(SuperviseError::NotRunning)
}

/// Which lines [`logs`] tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Only so many of the last lines; `None` for all that are kept.
    pub tail: Option<usize>,
    /// Goes on until the container ends.
    pub follow: bool,
}

/// Calls `each` with the lines of the log, oldest first.
pub fn logs(
    dir: &Path,
    options: LogOptions,
    cancel: &Cancel,
    each: &mut dyn FnMut(LogLine),
) -> io::Result<()> {
    let _ = (dir, options, cancel, each);
    Ok(())
}
