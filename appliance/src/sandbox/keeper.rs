//! Looks after sandboxes: starts them again as their restart policy says, and stops those in which
//! nothing happens.
//!
//! Activity is a process that somebody runs in a sandbox or is attached to, and output. Policies
//! come from whoever ran the sandbox, never from an image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::error::Outcome;
use crate::sandbox::local::Sandboxes;
use crate::sandbox::options::RestartPolicy;
use crate::sandbox::record::Record;

/// How often a sandbox is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The first pause before starting again; docker's, and doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// One that ran for so long did not fail at once: pauses begin anew.
const STEADY: Duration = Duration::from_secs(10);

/// What people do in sandboxes, by id.
#[derive(Debug, Default)]
pub struct Activity(Mutex<HashMap<String, Doing>>);

#[derive(Debug, Clone, Copy)]
struct Doing {
    open: u32,
    last: Instant,
}

/// Somebody does something in a sandbox until this is dropped.
#[derive(Debug)]
pub struct Busy {
    sandboxes: Arc<Sandboxes>,
    id: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.sandboxes.activity.change(&self.id, -1);
    }
}

impl Activity {
    fn change(&self, id: &str, by: i32) {
        let mut doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let entry = doing
            .entry(id.to_owned())
            .or_insert(Doing { open: 0, last: now });
        entry.open = entry.open.saturating_add_signed(by);
        entry.last = now;
    }

    /// For how long nobody has done anything; `since` where nothing is known.
    fn idle(&self, id: &str, since: Instant) -> Duration {
        let doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match doing.get(id) {
            Some(Doing { open: 1.., .. }) => Duration::ZERO,
            Some(Doing { last, .. }) => last.max(&since).elapsed(),
            None => since.elapsed(),
        }
    }

    fn forget(&self, id: &str) {
        let mut doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doing.remove(id);
    }
}

impl Sandboxes {
    /// Notes that somebody does something in a sandbox, by its name or id.
    pub fn busy(self: &Arc<Self>, name: &str) -> Busy {
        let id = self
            .find(name)
            .map_or_else(|_| name.to_owned(), |record| record.id);
        self.activity.change(&id, 1);
        Busy {
            sandboxes: Arc::clone(self),
            id,
        }
    }
}

/// Whether somebody has to look after it.
pub fn needs_keeping(record: &Record) -> bool {
    record.keeping.restart != RestartPolicy::No || record.keeping.idle_timeout.unwrap_or(0) > 0
}

/// Whether a sandbox exists and runs.
pub async fn runs(sandboxes: &Arc<Sandboxes>, id: &str) -> bool {
    let (all, id) = (Arc::clone(sandboxes), id.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let record = all.find(&id)?;
        all.is_running(&record)
    });
    matches!(looked.await, Ok(Ok(true)))
}

/// What a look at a sandbox led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Running,
    Restarted,
    Over,
}

/// Keeps one sandbox until it is removed, has ended for good, or the daemon stops. `is_first` when
/// the daemon has just begun.
pub async fn keep(
    sandboxes: Arc<Sandboxes>,
    id: String,
    stop: CancellationToken,
    mut is_first: bool,
) {
    let (mut pause, mut begun) = (PAUSE, Instant::now());
    loop {
        let (all, name, first) = (Arc::clone(&sandboxes), id.clone(), is_first);
        let looked = tokio::task::spawn_blocking(move || look(&all, &name, first, begun));
        is_first = false;
        let next = match looked.await {
            Ok(Ok(Look::Running)) => LOOK,
            Ok(Ok(Look::Restarted)) => {
                if begun.elapsed() >= STEADY {
                    pause = PAUSE;
                }
                begun = Instant::now();
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
            Ok(Ok(Look::Over)) | Err(_) => break,
            Ok(Err(failure)) => {
                tracing::warn!(?id, failure = ?failure.to_string(), "a sandbox could not be started again");
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = stop.cancelled() => break,
        }
    }
    sandboxes.activity.forget(&id);
}

fn look(sandboxes: &Sandboxes, id: &str, is_first: bool, begun: Instant) -> Outcome<Look> {
    // Removed, or renamed and otherwise changed: the record is read each time.
    let Ok(record) = sandboxes.find(id) else {
        return Ok(Look::Over);
    };
    if sandboxes.is_running(&record)? {
        stop_when_idle(sandboxes, &record, begun)?;
        return Ok(Look::Running);
    }
    match sandboxes.start_again(&record, is_first)? {
        Some(()) => Ok(Look::Restarted),
        None => Ok(Look::Over),
    }
}

fn stop_when_idle(sandboxes: &Sandboxes, record: &Record, begun: Instant) -> Outcome<()> {
    let Some(limit) = record.keeping.idle_timeout.filter(|seconds| *seconds > 0) else {
        return Ok(());
    };
    let limit = Duration::from_secs(limit);
    let silent = sandboxes.last_output(record).map_or(Duration::MAX, |last| {
        SystemTime::now().duration_since(last).unwrap_or_default()
    });
    if silent.min(sandboxes.activity.idle(&record.id, begun)) < limit {
        return Ok(());
    }
    tracing::info!(
        id = record.id,
        seconds = limit.as_secs(),
        "stopping an idle sandbox"
    );
    sandboxes.stop(record, None)
}
