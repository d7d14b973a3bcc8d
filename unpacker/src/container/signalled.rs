//! Whom the signals for a running process reach: the process, or all that it started with it.
//!
//! A process that is not on a terminal has nobody who would pass a Ctrl-C on to its children, so a
//! signal for it goes to its whole process group. Numbers alone are never trusted: a group is
//! named by a descriptor of its leader, or by a number that the unreaped leader still holds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::record;
use super::sys;

/// How often a group that was told to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A process, and its group when it leads one of its own.
#[derive(Debug)]
pub(crate) struct Signalled {
    pidfd: OwnedFd,
    group: Option<Pid>,
}

impl Signalled {
    /// One process; what it started gets nothing.
    pub(crate) fn process(pidfd: OwnedFd) -> Self {
        Self { pidfd, group: None }
    }

    /// A child of ours that leads a process group.
    pub(crate) fn group(pidfd: OwnedFd, leader: Pid) -> Self {
        Self {
            pidfd,
            group: Some(leader),
        }
    }

    /// Becomes readable at the process' end.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn signal_process(&self, signal: i32) -> io::Result<()> {
        sys::send_signal(&self.pidfd, signal)
    }

    /// To the whole group where there is one.
    pub(crate) fn signal_all(&self, signal: i32) -> io::Result<()> {
        let Some(leader) = self.group else {
            return self.signal_process(signal);
        };
        match sys::send_group_signal(&self.pidfd, signal) {
            // Kernels before 6.9. The number is the leader's for as long as we have not reaped it.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                sys::send_signal(&self.pidfd, 0)?;
                sys::send_signal_to_group_number(leader, signal)
            }
            done => done,
        }
    }

    /// As a terminal that is closed: SIGHUP, and SIGCONT for who was stopped.
    pub(crate) fn hang_up(&self) {
        // Whoever has ended in the meantime needs neither.
        let _ = self.signal_all(libc::SIGHUP);
        let _ = self.signal_all(libc::SIGCONT);
    }

    /// Waits until the group is empty and kills what is left of it at the deadline.
    pub(crate) fn end_by(&self, deadline: Instant) {
        while Instant::now() < deadline {
            if self.is_over() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        let _ = self.signal_all(libc::SIGKILL);
    }

    /// A leader that is not reaped counts as a member, and only a descriptor names the group
    /// without it; where there is none, nobody can tell before the deadline.
    fn is_over(&self) -> bool {
        let Some(leader) = self.group else {
            return record::has_ended(&self.pidfd);
        };
        if !record::has_ended(&self.pidfd) {
            return false;
        }
        let gone = |done: io::Result<()>| {
            done.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
        };
        match sys::send_group_signal(&self.pidfd, 0) {
            Ok(()) => {
                let _ = sys::wait(leader.as_raw_nonzero().get(), libc::WNOHANG);
                gone(sys::send_group_signal(&self.pidfd, 0))
            }
            done => gone(done),
        }
    }
}
