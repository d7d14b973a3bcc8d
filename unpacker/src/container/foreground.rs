//! The helper behind [`super::run::run`]: holds a container that must not outlive its caller.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::child;
use super::exit::Exit;
use super::launch::{Refusal, Stage};
use super::program::Stdio;
use super::spec::ContainerSpec;
use super::sys;
use super::wire::{self, Wire};

/// What the helper answers. Its one order is a message whose descriptors are the specification,
/// standard input, output and error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Refused(Refusal),
    Running,
    Ended(Exit),
}

/// The hidden subcommand.
pub(crate) fn main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    let _ = rustix::process::setsid();
    let answer = match order(&wire).and_then(|(spec, stdio)| hold(&wire, &spec, stdio)) {
        Ok(exit) => Answer::Ended(exit),
        Err(refusal) => Answer::Refused(refusal),
    };
    let _ = wire.send(&answer, &[]);
}

fn order(wire: &Wire) -> Result<(ContainerSpec, Stdio), Refusal> {
    let lost = |why: String| Refusal::new(Stage::Namespaces, format!("no order: {why}"));
    let got = wire.recv::<String>().map_err(|e| lost(e.to_string()))?;
    let fds: Vec<OwnedFd> = got.map(|(_, fds)| fds).unwrap_or_default();
    let [spec, input, output, error] =
        <[OwnedFd; 4]>::try_from(fds).map_err(|_| lost("descriptors are missing".into()))?;
    let spec = wire::from_file(spec).map_err(|e| lost(e.to_string()))?;
    Ok((spec, Stdio::pipes(input, output, error)))
}

/// Waits until the container ends, or kills it when the caller is gone.
fn hold(wire: &Wire, spec: &ContainerSpec, stdio: Stdio) -> Result<Exit, Refusal> {
    let started = child::start(spec, stdio)?;
    let _ = wire.send(&Answer::Running, &[]);
    loop {
        let mut fds = [
            PollFd::new(&started.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[1].revents().is_empty() {
            let _ = sys::send_signal(&started.pidfd, libc::SIGKILL);
            break;
        }
        if !fds[0].revents().is_empty() {
            break;
        }
    }
    Ok(started.wait(spec).exit)
}
