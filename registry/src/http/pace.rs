//! How long the next piece of a body is waited for. Pure but for the clock of the runtime.
//!
//! Silence ends a request, and so does a trickle: a client that sends a byte a minute would
//! otherwise hold its session and its file for ever.

use std::time::Duration;

use tokio::time::Instant;

/// A peer that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes a second that a body must have on the average, once it had a time of silence to begin.
/// A modem of 9600 baud is as fast.
const RATE: u64 = 1024;

/// The progress of one body. Only waiting for the client counts, not what a slow disk takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// A piece of so many bytes came after a wait.
    pub(super) fn came(&mut self, bytes: usize, since: Instant) {
        self.bytes += bytes as u64;
        self.waited += since.elapsed();
    }

    /// How long the next piece may take.
    pub(super) fn patience(&self) -> Duration {
        let earned = SILENCE + Duration::from_secs(self.bytes / RATE);
        earned.saturating_sub(self.waited).min(SILENCE)
    }
}
