//! Time and chance for the registry client, handed in so that tests decide them.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use ring::rand::{SecureRandom, SystemRandom};

/// What the client knows of time. `sleep` must also move `now` forward by that much.
pub trait Clock: Send + Sync + fmt::Debug {
    /// For the age of tokens.
    fn now(&self) -> Instant;
    /// For `Retry-After` dates.
    fn wall(&self) -> SystemTime;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Any 16 bits; they spread the retries of many clients.
    fn jitter(&self) -> u16;
}

/// The real clock: tokio's timers and the kernel's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn jitter(&self) -> u16 {
        let mut bytes = [0; 2];
        // Without a random source all clients retry at the same moment, which is no error.
        let _ = SystemRandom::new().fill(&mut bytes);
        u16::from_ne_bytes(bytes)
    }
}
