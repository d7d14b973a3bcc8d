//! How a process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a container's or an exec's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// The kernel killed it: the container had no memory left.
    OutOfMemory,
}

impl Exit {
    /// Ended well.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// What a shell would call it: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::OutOfMemory => 128 + libc::SIGKILL,
        }
    }

    /// The same end when processes of the container were killed for want of memory meanwhile.
    pub(crate) fn with_kills(self, out_of_memory: u64) -> Self {
        match self {
            Self::Signal(libc::SIGKILL) if out_of_memory > 0 => Self::OutOfMemory,
            end => end,
        }
    }

    /// From a status as `waitpid` gives it. A status that is no end counts as code 255.
    pub(crate) fn of_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else {
            Self::Code(255)
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::OutOfMemory => f.write_str("killed: out of memory"),
        }
    }
}
