//! A container in the foreground, for build steps: it ends before [`run`] returns, in any case.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::progress::{Cancel, Cancelled};

use super::CONTAINER;
use super::exit::Exit;
use super::foreground::Answer;
use super::launch::{Launcher, Refusal};
use super::spec::ContainerSpec;
use super::wire::{self, Wire};

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

/// How often a waiting run looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Runs `spec` to its end. Standard input is `/dev/null`; `output` gets both outputs as they come.
/// A timeout or cancellation kills every process of the container, and so does our own death.
pub fn run(
    launcher: &Launcher,
    spec: &ContainerSpec,
    timeout: Option<Duration>,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<Exit, RunError> {
    let mut following = Following::start(launcher, spec)?;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let result = loop {
        if let Err(cancelled) = cancel.check() {
            break Err(cancelled.into());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break Err(RunError::TimedOut(timeout.unwrap_or_default()));
        }
        match following.step(output) {
            Ok(None) => {}
            Ok(Some(exit)) => break Ok(exit),
            Err(error) => break Err(error),
        }
    };
    // The helper sees the wire's end, kills what still runs, and ends.
    let Following {
        wire, mut helper, ..
    } = following;
    drop(wire);
    let _ = helper.wait();
    result
}

/// A started helper and the outputs of its container.
struct Following {
    helper: Child,
    wire: Wire,
    outputs: Vec<(Stream, OwnedFd)>,
    exit: Option<Exit>,
}

impl Following {
    fn start(launcher: &Launcher, spec: &ContainerSpec) -> Result<Self, RunError> {
        let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let null = std::fs::File::open("/dev/null")?;
        let spec = wire::to_file(spec)?;
        let (helper, wire) = launcher.spawn(CONTAINER).map_err(RunError::Spawn)?;
        let fds = [
            spec.as_fd(),
            null.as_fd(),
            stdout_end.as_fd(),
            stderr_end.as_fd(),
        ];
        wire.send(&"run", &fds)?;
        Ok(Self {
            helper,
            wire,
            outputs: vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)],
            exit: None,
        })
    }

    /// Waits a moment and deals with what has come. The end is told when the outputs are read.
    fn step(&mut self, output: &mut dyn FnMut(Stream, &[u8])) -> Result<Option<Exit>, RunError> {
        let readable = self.wait_readable()?;
        let (outputs, wire) = readable.split_at(self.outputs.len());
        let mut open = outputs.iter();
        let mut failed = None;
        self.outputs.retain(|(stream, fd)| {
            if !open.next().copied().unwrap_or(false) {
                return true;
            }
            forward(*stream, fd, output).unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        if wire == [true] {
            self.hear()?;
        }
        Ok(self.exit.filter(|_| self.outputs.is_empty()))
    }

    /// For each output, and for the wire while an answer is awaited: whether it has something.
    fn wait_readable(&self) -> io::Result<Vec<bool>> {
        let mut fds: Vec<_> = (self.outputs.iter())
            .map(|(_, fd)| PollFd::new(fd, PollFlags::IN))
            .collect();
        if self.exit.is_none() {
            fds.push(PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::IN));
        }
        let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&look)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    fn hear(&mut self) -> Result<(), RunError> {
        match self.wire.recv::<Answer>()? {
            None => Err(RunError::Lost),
            Some((Answer::Refused(refusal), _)) => Err(refusal.into()),
            Some((Answer::Running, _)) => Ok(()),
            Some((Answer::Ended(exit), _)) => {
                self.exit = Some(exit);
                Ok(())
            }
        }
    }
}

/// Passes on one piece; `false` at the end.
fn forward(
    stream: Stream,
    fd: &OwnedFd,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<bool> {
    let mut bytes = [0_u8; 16 * 1024];
    match rustix::io::read(fd, &mut bytes) {
        Ok(0) => Ok(false),
        Ok(n) => {
            output(stream, &bytes[..n]);
            Ok(true)
        }
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
