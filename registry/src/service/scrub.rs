//! The scrub as a verb, and the thread that does it alone from time to time.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::Registry;
use crate::store::StoreError;
use crate::store::scrub::{Scrub, ScrubError, ScrubOptions, Told};

impl Registry {
    /// Verifies every blob that a row names, see [`crate::store::Store::scrub`]. Blocking, for as
    /// long as that takes; one at a time.
    pub fn scrub(&self, options: &ScrubOptions, told: &mut Told<'_>) -> Result<Scrub, ScrubError> {
        self.store().scrub(options, told)
    }

    /// How far the scrub is that goes on or was interrupted, or what the last one did.
    pub fn last_scrub(&self) -> Result<Option<Scrub>, StoreError> {
        self.store().last_scrub()
    }
}

/// When the registry scrubs alone.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// From the start of one scrub to the start of the next; zero for never.
    pub every: Duration,
    /// How long it waits after the start of the process, which has better things to do.
    pub after: Duration,
    pub options: ScrubOptions,
}

/// The scrubbing thread. Dropping it breaks a scrub off; the next process goes on with it.
#[derive(Debug)]
pub struct Scrubber {
    stop: Option<SyncSender<()>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An interrupted or overdue scrub is looked for at least this often.
const LOOK: Duration = Duration::from_secs(3600);

impl Scrubber {
    /// Starts the thread; with `every` zero there is none.
    pub fn start(registry: Registry, schedule: Schedule) -> io::Result<Self> {
        let (stop, stopping) = sync_channel(0);
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = if schedule.every.is_zero() {
            None
        } else {
            let stopped = Arc::clone(&stopped);
            let work = move || run(&registry, &schedule, &stopping, &stopped);
            let name = "registry-scrub".to_owned();
            Some(Builder::new().name(name).spawn(work)?)
        };
        Ok(Self {
            stop: Some(stop),
            stopped,
            thread,
        })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there costs only the scrub.
            let _ = thread.join();
        }
    }
}

fn run(registry: &Registry, schedule: &Schedule, stopping: &Receiver<()>, stopped: &AtomicBool) {
    let mut wait = schedule.after;
    while stopping.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = match due_in(registry, schedule.every) {
            Ok(Duration::ZERO) => {
                scrub(registry, &schedule.options, stopped);
                // At least a moment, should there be nothing to read and no time between two.
                schedule.every.clamp(Duration::from_millis(1), LOOK)
            }
            Ok(left) => left.min(LOOK),
            Err(error) => {
                tracing::warn!(?error, "the scrub's place cannot be read");
                LOOK
            }
        };
    }
}

/// How long until the next scrub; zero where one is due or was interrupted.
fn due_in(registry: &Registry, every: Duration) -> Result<Duration, StoreError> {
    let Some(last) = registry.last_scrub()? else {
        return Ok(Duration::ZERO);
    };
    // A clock that was ahead once must not put the next scrub off for years.
    let age = registry.store().now().checked_sub(last.started);
    match (last.finished, age) {
        (Some(_), Some(age)) => Ok(every.saturating_sub(Duration::from_secs(age))),
        _ => Ok(Duration::ZERO),
    }
}

fn scrub(registry: &Registry, options: &ScrubOptions, stopped: &AtomicBool) {
    let mut told = |_: &Scrub, _: crate::store::scrub::Seen<'_>| {
        if stopped.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    match registry.scrub(options, &mut told) {
        Ok(done) => tracing::info!(
            checked = done.checked,
            bytes = done.bytes,
            quarantined = done.quarantined,
            missing = done.missing,
            unreadable = done.unreadable,
            finished = done.finished.is_some(),
            "scrubbed"
        ),
        // Somebody asked for one; it does what this one would.
        Err(ScrubError::Running) => {}
        Err(error) => tracing::warn!(?error, "scrub failed"),
    }
}
