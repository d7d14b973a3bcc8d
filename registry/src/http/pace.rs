//! How long the next piece of a body is waited for. Pure but for the clock of the runtime.
//!
//! Silence ends a request, and so does a trickle: a client that sends a byte a minute would
//! otherwise hold its session, its thread and its file for ever.

use std::time::Duration;

use tokio::time::Instant;

/// A peer that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes a second that a body must have on the average, once it had a time of silence to begin.
/// A modem of 9600 baud is as fast.
const RATE: u64 = 1024;

/// The progress of one body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    begun: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            bytes: 0,
        }
    }

    pub(super) fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// When the next piece must be there.
    pub(super) fn deadline(&self) -> Instant {
        let due = self.begun + SILENCE + Duration::from_secs(self.bytes / RATE);
        due.min(Instant::now() + SILENCE)
    }
}
