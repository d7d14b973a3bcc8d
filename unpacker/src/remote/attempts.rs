//! Which errors are tried again, and after how long.
//!
//! Delay before attempt n+1: min(1000 ms × 2^n, 30 000 ms) + random(0..100) ms, and at least what
//! the server asked for by `Retry-After`.

use std::time::{Duration, SystemTime};

use super::clock::Clock;
use super::error::RemoteError;
use crate::progress::{Event, Progress};

const FIRST_DELAY_MS: u64 = 1_000;
const MAX_DELAY_MS: u64 = 30_000;
const JITTER_MS: u64 = 100;
/// A server may ask for patience, but not for ever.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Counts the attempts of one operation.
pub(super) struct Attempts<'a> {
    clock: &'a dyn Clock,
    progress: &'a dyn Progress,
    failed: u32,
    retries: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(clock: &'a dyn Clock, progress: &'a dyn Progress, retries: u32) -> Self {
        Self {
            clock,
            progress,
            failed: 0,
            retries,
        }
    }

    /// An attempt that moved data forward before it failed starts the count again: a large blob
    /// over a bad line arrives as long as each connection brings some of it.
    pub(super) fn moved_forward(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, or gives the error back when there is none.
    pub(super) async fn after(&mut self, error: RemoteError) -> Result<(), RemoteError> {
        if !error.retriable() || self.failed >= self.retries {
            return Err(error);
        }
        let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
        let delay = delay(self.failed, self.clock.jitter()).max(asked);
        self.failed += 1;
        let text = format!(
            "{error}; trying again in {:.1} s ({} of {})",
            delay.as_secs_f64(),
            self.failed,
            self.retries
        );
        self.progress.event(Event::Warning { text });
        self.clock.sleep(delay).await;
        Ok(())
    }
}

fn delay(attempt: u32, random: u16) -> Duration {
    let base = FIRST_DELAY_MS << attempt.min(16);
    let jitter = (u64::from(random) * JITTER_MS) >> 16;
    Duration::from_millis(base.min(MAX_DELAY_MS) + jitter)
}

/// `Retry-After` as seconds or as an HTTP date (RFC 9110 section 10.2.3).
pub(super) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc2822);
    let date = SystemTime::from(date.ok()?);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit() {
        for (attempt, random, ms) in [
            (0, 0, 1_000),
            (1, 0, 2_000),
            (2, 0, 4_000),
            (4, 0, 16_000),
            (5, 0, 30_000),
            (40, 0, 30_000),
            (0, u16::MAX, 1_099),
            (0, u16::MAX / 2, 1_049),
        ] {
            assert_eq!(delay(attempt, random), Duration::from_millis(ms));
        }
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(parse_retry_after(value, now), expected, "{value}");
        }
    }
}
