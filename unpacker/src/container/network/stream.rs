//! One connection carried between two sockets: bytes through a pipe that is only lent while there
//! are any, ends of one direction passed on as ends of that direction.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::poll::{Poll, Watched};

/// What a pipe holds by default.
const PIECE: usize = 64 * 1024;
/// How often one direction moves before others have their turn.
const TURNS: usize = 16;
/// Pipes that are kept for the next connection with something to say.
const SPARE: usize = 16;

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { read, write })
    }

    fn give(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

/// What goes one way.
#[derive(Debug, Default)]
struct Way {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    filled: usize,
    /// The sender said that nothing follows.
    ended: bool,
    /// The receiver was told.
    told: bool,
}

impl Way {
    fn carry(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut Pipes) -> io::Result<()> {
        for _ in 0..TURNS {
            let moved = match self.filled {
                0 if self.ended => break,
                0 => self.fill(from, pipes)?,
                _ => self.drain(to)?,
            };
            if !moved {
                break;
            }
        }
        if self.filled == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give(pipe);
        }
        if self.ended && self.filled == 0 && !self.told {
            self.told = true;
            // The receiver may be gone altogether.
            let _ = shutdown(to, Shutdown::Write);
        }
        Ok(())
    }

    fn fill(&mut self, from: &OwnedFd, pipes: &mut Pipes) -> io::Result<bool> {
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => pipes.take()?,
        };
        let got = moved(from, &pipe.write, PIECE)?;
        self.pipe = Some(pipe);
        self.ended = got == Some(0);
        self.filled = got.unwrap_or(0);
        Ok(got.is_some())
    }

    fn drain(&mut self, to: &OwnedFd) -> io::Result<bool> {
        let Some(pipe) = &self.pipe else {
            return Ok(false);
        };
        let gone = moved(&pipe.read, to, self.filled)?;
        self.filled -= gone.unwrap_or(0);
        Ok(gone.is_some())
    }
}

/// How many bytes went; `None` when none can go now.
fn moved(from: &OwnedFd, to: &OwnedFd, most: usize) -> io::Result<Option<usize>> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(from, None, to, None, most, flags) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Both ways between two sockets.
#[derive(Debug, Default)]
pub(super) struct Stream {
    up: Way,
    down: Way,
}

impl Stream {
    /// Carries what can be carried now and says what to wait for. `true` when all is over; an
    /// error when one side broke off, which the other is to be told by [`break_off`].
    pub(super) fn carry(
        &mut self,
        near: &mut Watched,
        far: &mut Watched,
        pipes: &mut Pipes,
        poll: &Poll,
    ) -> io::Result<bool> {
        self.up.carry(&near.fd, &far.fd, pipes)?;
        self.down.carry(&far.fd, &near.fd, pipes)?;
        let reads = |way: &Way| !way.ended && way.filled == 0;
        near.want(poll, reads(&self.up), self.down.filled > 0)?;
        far.want(poll, reads(&self.down), self.up.filled > 0)?;
        Ok(self.up.told && self.down.told)
    }
}

/// Closes so that the peer sees a failure, not an end.
pub(super) fn break_off(side: Watched) {
    let _ = sockopt::set_socket_linger(&side.fd, Some(Duration::ZERO));
}
