//! Bytes on their way into a descriptor that does not always take them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What may wait for a reader.
const MAX_WAITING: usize = 1 << 20;
/// How often a waiting drain looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes that wait for a descriptor to take them.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) fd: OwnedFd,
    pub(crate) bytes: Vec<u8>,
    pub(crate) close_when_empty: bool,
}

impl Outbox {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            bytes: Vec::new(),
            close_when_empty: false,
        })
    }

    /// Writes what is taken; an error says that nothing more ever will be.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.bytes.is_empty() {
            match rustix::io::write(&self.fd, &self.bytes) {
                Ok(n) => drop(self.bytes.drain(..n)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Writes everything, unless the reader goes away or the time is over.
    pub(crate) fn drain_until(&mut self, deadline: Option<Instant>) {
        while self.flush().is_ok() && !self.bytes.is_empty() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            let _ = poll(&mut fds, timeout(LOOK).as_ref());
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= MAX_WAITING
    }
}

/// A patience as `poll` takes it.
pub(crate) fn timeout(patience: Duration) -> Option<Timespec> {
    Timespec::try_from(patience).ok()
}
