//! Who wants to know what, and the way of an event into the index.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use config::registry::webhook::Webhook;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Notify;

use super::sender::HookState;
use super::{Event, Origin, Subject};
use crate::metrics;
use crate::service::Registry;
use crate::store::StoreError;
use crate::store::index::events as rows;

/// Events that wait in memory for their row; more are dropped rather than held up a pull.
const MAX_GATHERED: usize = 10_000;

/// Events of one change, to be written with it. Empty where nobody wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes(Vec<Vec<u8>>);

impl Notes {
    pub(crate) fn rows(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// The webhooks of a registry and what is on its way to them.
#[derive(Debug)]
pub struct Journal {
    webhooks: Vec<Webhook>,
    gathered: Mutex<VecDeque<Vec<u8>>>,
    /// Rung when the queue may have grown.
    pub(super) arrived: Notify,
    /// Rung when something was gathered.
    pub(super) gathering: Notify,
    counts: Family<metrics::Result, Counter>,
    states: Mutex<BTreeMap<String, HookState>>,
}

impl Journal {
    /// For these webhooks, of which there is at least one.
    pub(super) fn new(webhooks: Vec<Webhook>) -> Self {
        let states = webhooks
            .iter()
            .map(|hook| (hook.name.clone(), HookState::default()));
        let states: BTreeMap<_, _> = states.collect();
        Self {
            webhooks,
            gathered: Mutex::default(),
            arrived: Notify::new(),
            gathering: Notify::new(),
            counts: Family::default(),
            states: Mutex::new(states),
        }
    }

    pub fn webhooks(&self) -> &[Webhook] {
        &self.webhooks
    }

    /// Events by what became of them: `delivered`, `failed` attempts, `refused`, `dropped`.
    pub fn counts(&self) -> &Family<metrics::Result, Counter> {
        &self.counts
    }

    pub(super) fn count(&self, result: &'static str, many: u64) {
        let label = metrics::Result { result };
        self.counts.get_or_create(&label).inc_by(many);
    }

    /// How it goes with each webhook, by name.
    pub fn states(&self) -> BTreeMap<String, HookState> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn note_state(&self, webhook: &str, change: impl FnOnce(&mut HookState)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(states.entry(webhook.to_owned()).or_default());
    }

    fn wants(&self, subject: &Subject<'_>) -> bool {
        let repository = subject.repository.as_str();
        self.webhooks.iter().any(|hook| {
            hook.events.contains(&subject.kind) && hook.repositories.matches(repository)
        })
    }

    fn gathered(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back what could not be written, before what came since. The oldest fall off.
    fn gather_again(&self, mut events: Vec<Vec<u8>>) {
        let mut gathered = self.gathered();
        let room = MAX_GATHERED.saturating_sub(gathered.len());
        let over = events.len().saturating_sub(room);
        for event in events.drain(over..).rev() {
            gathered.push_front(event);
        }
        if over > 0 {
            self.count("dropped", over as u64);
        }
        self.gathering.notify_one();
    }

    fn gather(&self, event: Vec<u8>) {
        let mut gathered = self.gathered();
        if gathered.len() < MAX_GATHERED {
            gathered.push_back(event);
            self.gathering.notify_one();
        } else {
            self.count("dropped", 1);
        }
    }
}

impl Registry {
    /// The webhooks, where there are any.
    pub fn journal(&self) -> Option<&Journal> {
        self.0.journal.get()
    }

    /// Called once, before anything is served; a second one would be deaf.
    pub(super) fn set_journal(&self, journal: Journal) {
        if self.0.journal.set(journal).is_err() {
            tracing::error!("webhooks were configured twice; the first ones stand");
        }
    }

    /// What to write with a change. Costs nothing where nobody wants to know.
    pub(crate) fn note(&self, subject: &Subject<'_>) -> Notes {
        let wanted = self.journal().filter(|journal| journal.wants(subject));
        let event = wanted.and_then(|_| self.event(subject));
        Notes(event.into_iter().collect())
    }

    /// Tells of something that changed nothing, a moment later.
    pub(crate) fn note_later(&self, subject: &Subject<'_>) {
        if let Some(journal) = self.journal().filter(|journal| journal.wants(subject))
            && let Some(event) = self.event(subject)
        {
            journal.gather(event);
        }
    }

    /// A change was committed with its notes.
    pub(crate) fn noted(&self) {
        if let Some(journal) = self.journal() {
            journal.arrived.notify_waiters();
        }
    }

    fn event(&self, subject: &Subject<'_>) -> Option<Vec<u8>> {
        let at = (self.store().options().clock)().duration_since(UNIX_EPOCH);
        let (actor, request) = match self.origin() {
            Some(Origin { actor, request }) => (actor.clone(), Some(request.clone())),
            // No request: the process itself.
            None => ("devpod".to_owned(), None),
        };
        let event = Event {
            // Without randomness there is no TLS and no session either; the event is then lost.
            id: crate::store::blobs::random_hex().ok()?,
            at: at.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            action: subject.kind.as_str().to_owned(),
            repository: subject.repository.to_string(),
            tags: subject.tags.iter().map(ToString::to_string).collect(),
            digest: subject.digest.map(ToString::to_string),
            media_type: subject.media_type.map(str::to_owned),
            size: subject.size,
            from: subject.from.map(ToString::to_string),
            actor,
            request,
        };
        serde_json::to_vec(&event).ok()
    }

    /// Writes what was gathered. Blocking.
    pub(super) fn write_gathered(&self) -> Result<(), StoreError> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        let events: Vec<Vec<u8>> = journal.gathered().drain(..).collect();
        if !events.is_empty() {
            let events = Arc::new(events);
            let (index, pulls) = (self.store().index(), Arc::clone(&events));
            let written = index.write(move |transaction| rows::append(transaction, &pulls));
            if let Err(error) = written {
                journal.gather_again(Arc::unwrap_or_clone(events));
                return Err(error.into());
            }
            self.noted();
        }
        Ok(())
    }

    /// Events that some webhook has not been told yet.
    pub fn queued_events(&self) -> Result<u64, StoreError> {
        if self.journal().is_none() {
            return Ok(0);
        }
        Ok(self.store().index().read(rows::queue)?.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_comes_first_again_and_is_bounded() {
        let journal = Journal::new(Vec::new());
        journal.gather(b"new".to_vec());
        journal.gather_again(vec![b"1".to_vec(), b"2".to_vec()]);
        let all: Vec<_> = journal.gathered().iter().cloned().collect();
        assert_eq!(all, [&b"1"[..], b"2", b"new"]);
        let dropped = metrics::Result { result: "dropped" };
        assert_eq!(journal.counts().get_or_create(&dropped).get(), 0);
        journal.gather_again(vec![b"0".to_vec(); MAX_GATHERED]);
        assert_eq!(journal.gathered().len(), MAX_GATHERED);
        assert_eq!(journal.counts().get_or_create(&dropped).get(), 3);
        assert_eq!(journal.gathered().back().unwrap(), b"new");
    }
}
