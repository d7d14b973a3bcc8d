//! A clock that never waits: sleeping moves its time forward and is written down.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use unpacker::remote::clock::Clock;

#[derive(Debug, Clone)]
pub(crate) struct TestClock {
    start: Instant,
    passed: Arc<Mutex<Duration>>,
    slept: Arc<Mutex<Vec<Duration>>>,
}

impl TestClock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            passed: Arc::default(),
            slept: Arc::default(),
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.passed.lock().unwrap() += by;
    }

    /// The sleeps so far, in milliseconds.
    pub(crate) fn slept(&self) -> Vec<u128> {
        let slept = self.slept.lock().unwrap();
        slept.iter().map(Duration::as_millis).collect()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.start + *self.passed.lock().unwrap()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + *self.passed.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.slept.lock().unwrap().push(duration);
        self.advance(duration);
        Box::pin(async {})
    }

    fn jitter(&self) -> u16 {
        0
    }
}
