//! Pulls, gathered in memory and recorded now and then.
//!
//! A pull must cost nothing, so it is counted in a map; a thread turns the map into rows when it has
//! gathered for a while, and once more at the end. A crash loses the pulls of the last moments; a write
//! that fails does not, because retention removes what was not pulled: they are tried again.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::store::index::{Index, IndexError, pulled};

/// Distinct tags and manifests that are gathered at most; what comes then is not counted.
const MOST: usize = 50_000;
/// Rows in one transaction, so that no other write waits long for them.
const BATCH: usize = 256;

#[derive(Debug, Default)]
struct Gathered {
    pulls: HashMap<(String, String), pulled::Pulls>,
    ended: bool,
}

impl Gathered {
    fn add(&mut self, key: (String, String), more: pulled::Pulls) {
        if self.pulls.len() >= MOST && !self.pulls.contains_key(&key) {
            return;
        }
        let pulls = self.pulls.entry(key).or_default();
        pulls.last = pulls.last.max(more.last);
        pulls.count = pulls.count.saturating_add(more.count);
    }
}

#[derive(Debug, Default)]
struct Shared {
    gathered: Mutex<Gathered>,
    /// Held while they are recorded: who has waited for it finds all earlier ones in the index.
    recording: Mutex<()>,
    end: Condvar,
}

/// The gathering map and its thread. Dropping it records what is still there.
#[derive(Debug)]
pub(crate) struct Pulls {
    shared: Arc<Shared>,
    index: Arc<Index>,
    thread: Option<JoinHandle<()>>,
}

impl Pulls {
    /// `quiet` is how long pulls are gathered.
    pub(super) fn start(index: Arc<Index>, quiet: Duration) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, rows) = (Arc::clone(&shared), Arc::clone(&index));
        let thread = Builder::new()
            .name("registry-pulls".to_owned())
            .spawn(move || run(&theirs, &rows, quiet))?;
        Ok(Self {
            shared,
            index,
            thread: Some(thread),
        })
    }

    /// One pull of a tag or a digest.
    pub(crate) fn note(&self, repository: &str, reference: &str, now: u64) {
        let pull = pulled::Pulls {
            last: now,
            count: 1,
        };
        let key = (repository.to_owned(), reference.to_owned());
        self.shared.lock().add(key, pull);
    }

    /// Records what has been gathered so far.
    pub(crate) fn flush(&self) -> Result<(), IndexError> {
        flush(&self.shared, &self.index)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pulls {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.end.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there costs only counts.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, index: &Index, quiet: Duration) {
    loop {
        let ended = {
            let gathered = shared.lock();
            let wait = shared
                .end
                .wait_timeout_while(gathered, quiet, |gathered| !gathered.ended);
            wait.unwrap_or_else(PoisonError::into_inner).0.ended
        };
        if let Err(error) = flush(shared, index) {
            tracing::warn!(?error, "pulls could not be recorded");
        }
        if ended {
            return;
        }
    }
}

fn flush(shared: &Shared, index: &Index) -> Result<(), IndexError> {
    let recording = shared.recording.lock();
    let _recording = recording.unwrap_or_else(PoisonError::into_inner);
    let pulls = std::mem::take(&mut shared.lock().pulls);
    let noted = pulls
        .into_iter()
        .map(|((repository, reference), pulls)| (repository, reference, pulls));
    let mut left: Vec<pulled::Noted> = noted.collect();
    while !left.is_empty() {
        let batch = left.split_off(left.len().saturating_sub(BATCH));
        let rows = batch.clone();
        if let Err(error) = index.write(move |transaction| pulled::add(transaction, &rows)) {
            let mut gathered = shared.lock();
            for (repository, reference, pulls) in left.into_iter().chain(batch) {
                gathered.add((repository, reference), pulls);
            }
            return Err(error);
        }
    }
    Ok(())
}
