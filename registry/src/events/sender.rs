//! One task for each webhook: tells it every event that it wants, in order, again until it is taken.
//!
//! How a request travels is not decided here: see [`Deliver`]. Between attempts the delay grows, the
//! queue stays; an event that is too old goes untold, and is counted and logged.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::registry::webhook::Webhook;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Event;
use super::envelope::{EVENT_ID, SIGNATURE, sign, wrap};
use super::journal::Journal;
use crate::service::Registry;
use crate::store::StoreError;
use crate::store::index::events::{self as rows, Queue};

/// A request to a receiver, complete.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    pub url: String,
    /// Names are lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout: Duration,
}

/// The address and the headers may hold tokens.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why a receiver did not take an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    #[error("receiver cannot be reached: {reason}")]
    Unreachable { reason: String },
    #[error("receiver answered {status}")]
    Status { status: u16 },
}

impl DeliverError {
    /// Whether this very event will never be taken. What may be the receiver's or the network's
    /// trouble is tried again.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 400 | 413 | 415 | 422
            }
        )
    }
}

pub type Delivered<'a> = Pin<Box<dyn Future<Output = Result<(), DeliverError>> + Send + 'a>>;

/// Sends a request: POST, no redirects followed, good is any 2xx. Errors must not repeat the address.
pub trait Deliver: fmt::Debug + Send + Sync {
    fn deliver(&self, delivery: Delivery) -> Delivered<'_>;
}

/// How patient senders are.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The delay before the attempt after `failed` ones.
    pub delay: fn(failed: u32) -> Duration,
    /// Older events go untold.
    pub keep: Duration,
    /// Pulls are gathered for so long.
    pub gather: Duration,
    /// How this registry is called in events.
    pub source: String,
}

impl Schedule {
    /// D11: min(1 s × 2^n, 30 s) and up to 100 ms more; events are kept for a week.
    pub fn patient(source: String) -> Self {
        Self {
            delay,
            keep: Duration::from_secs(7 * 24 * 3600),
            gather: Duration::from_secs(1),
            source,
        }
    }
}

fn delay(failed: u32) -> Duration {
    let exponential = 1000_u64 << failed.saturating_sub(1).min(10);
    let mut random = [0; 1];
    // Without randomness there is no jitter.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    Duration::from_millis(exponential.min(30_000) + u64::from(random[0] % 101))
}

/// How it goes with one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookState {
    /// Since the process began.
    pub delivered: u64,
    pub failed: u64,
    /// Attempts in a row that failed; zero while it goes well.
    pub failing: u32,
    pub last_error: Option<String>,
}

/// A webhook whose key was read.
#[derive(Clone)]
pub struct Hook {
    pub webhook: Webhook,
    pub secret: Option<Vec<u8>>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.webhook.name)
            .finish_non_exhaustive()
    }
}

/// The queue and every webhook's state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    pub queue: Queue,
    pub hooks: BTreeMap<String, HookState>,
}

/// The senders of a registry, before they run.
#[derive(Debug)]
pub struct Senders {
    registry: Registry,
    hooks: Vec<Hook>,
    deliver: Arc<dyn Deliver>,
    schedule: Schedule,
}

impl Senders {
    /// From now on events are kept for these webhooks; `None` where there are none, and then
    /// nothing is kept. Blocking; to be called once, before the registry serves.
    pub fn new(
        registry: &Registry,
        hooks: Vec<Hook>,
        deliver: Arc<dyn Deliver>,
        schedule: Schedule,
    ) -> Result<Option<Self>, StoreError> {
        let index = registry.store().index();
        if hooks.is_empty() {
            if index.read(rows::exist)? {
                index.write(rows::forget)?;
            }
            return Ok(None);
        }
        let names: Vec<String> = hooks.iter().map(|hook| hook.webhook.name.clone()).collect();
        index.write(move |transaction| rows::subscribe(transaction, &names))?;
        let webhooks = hooks.iter().map(|hook| hook.webhook.clone()).collect();
        registry.set_journal(Journal::new(webhooks));
        Ok(Some(Self {
            registry: registry.clone(),
            hooks,
            deliver,
            schedule,
        }))
    }

    /// Sends until it is dropped. What was gathered is written at the end by [`Registry::flush_events`].
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        tasks.spawn(gather(self.registry.clone(), self.schedule.clone()));
        for hook in self.hooks {
            let sender = Sender {
                registry: self.registry.clone(),
                hook,
                deliver: Arc::clone(&self.deliver),
                schedule: self.schedule.clone(),
            };
            tasks.spawn(sender.run());
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// Writes pulls a moment after they came, and forgets what is too old.
async fn gather(registry: Registry, schedule: Schedule) {
    let Some(journal) = registry.journal() else {
        return;
    };
    loop {
        // Also without news, so that old events go.
        let _ = tokio::time::timeout(EXPIRY, journal.gathering.notified()).await;
        sleep(schedule.gather).await;
        let (written, keep) = (registry.clone(), schedule.keep);
        let work = move || {
            written
                .write_gathered()
                .and_then(|()| written.expire_events(keep))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(expired)) => {
                tracing::warn!(expired, "events went untold: no webhook took them in time");
            }
            Ok(Err(error)) => tracing::warn!(?error, "events cannot be written"),
        }
    }
}

const EXPIRY: Duration = Duration::from_secs(600);
/// Read at a time; what was told of them is remembered together.
const BATCH: usize = 64;
/// The queue is looked at so often even when nobody rings.
const LOOK: Duration = Duration::from_secs(5);

struct Sender {
    registry: Registry,
    hook: Hook,
    deliver: Arc<dyn Deliver>,
    schedule: Schedule,
}

impl Sender {
    async fn run(self) {
        let name = self.hook.webhook.name.clone();
        let mut told = loop {
            let (of, registry) = (name.clone(), self.registry.clone());
            match index(move || registry.store().index().read(|t| rows::cursor(t, &of))).await {
                Some(cursor) => break cursor,
                None => sleep(LOOK).await,
            }
        };
        loop {
            told = self.batch(told).await;
        }
    }

    /// Tells the next events; answers the last that needs no telling any more.
    async fn batch(&self, mut told: u64) -> u64 {
        let Some(journal) = self.registry.journal() else {
            return std::future::pending().await;
        };
        // Before the look, or news that come after it would be missed.
        let mut rung = std::pin::pin!(journal.arrived.notified());
        rung.as_mut().enable();
        let registry = self.registry.clone();
        let read = index(move || {
            registry
                .store()
                .index()
                .read(|t| rows::after(t, told, BATCH))
        })
        .await;
        let events = read.unwrap_or_default();
        if events.is_empty() {
            let _ = tokio::time::timeout(LOOK, rung).await;
            return told;
        }
        for (sequence, event) in events {
            self.tell(journal, sequence, &event).await;
            told = sequence;
        }
        let (registry, name) = (self.registry.clone(), self.hook.webhook.name.clone());
        let work = move |rows: &_| rows::told(rows, &name, told);
        // What is not remembered is told once more after a restart.
        index(move || registry.store().index().write(work)).await;
        told
    }

    /// Tells one event, until it is taken, refused for good or gone.
    async fn tell(&self, journal: &Journal, sequence: u64, bytes: &[u8]) {
        let webhook = &self.hook.webhook;
        let Ok(event) = serde_json::from_slice::<Event>(bytes) else {
            // Of a later program, or damaged: nobody can be told what it says.
            journal.count("dropped", 1);
            return;
        };
        let wanted = event
            .kind()
            .is_some_and(|kind| webhook.events.contains(&kind));
        if !wanted || !webhook.repositories.matches(&event.repository) {
            return;
        }
        let delivery = self.delivery(&event);
        for failed in 1.. {
            let Err(error) = self.deliver.deliver(delivery.clone()).await else {
                journal.count("delivered", 1);
                return journal.note_state(&webhook.name, |state| {
                    state.delivered += 1;
                    state.failing = 0;
                });
            };
            self.failed(journal, &event, &error);
            if error.is_final() {
                return;
            }
            sleep((self.schedule.delay)(failed)).await;
            if self.is_gone(sequence).await {
                return;
            }
        }
    }

    fn delivery(&self, event: &Event) -> Delivery {
        let webhook = &self.hook.webhook;
        let envelope = wrap(event, webhook.format, &self.schedule.source);
        let mut headers = vec![
            ("content-type".to_owned(), envelope.content_type.to_owned()),
            (EVENT_ID.to_owned(), event.id.clone()),
        ];
        if let Some(secret) = &self.hook.secret {
            headers.push((SIGNATURE.to_owned(), sign(secret, &envelope.body)));
        }
        let own = webhook.headers.iter().cloned();
        headers.extend(own.map(|(name, value)| (name.to_ascii_lowercase(), value)));
        Delivery {
            url: webhook.url.clone(),
            headers,
            body: envelope.body,
            timeout: webhook.timeout,
        }
    }

    fn failed(&self, journal: &Journal, event: &Event, error: &DeliverError) {
        let webhook = &self.hook.webhook.name;
        let (id, reason) = (&event.id, error.to_string());
        let refused = error.is_final();
        journal.count(if refused { "refused" } else { "failed" }, 1);
        tracing::warn!(webhook, event = id, ?reason, refused, "event was not taken");
        journal.note_state(webhook, |state| {
            state.failed += 1;
            state.failing = if refused {
                0
            } else {
                state.failing.saturating_add(1)
            };
            state.last_error = Some(reason);
        });
    }

    /// Whether the event left the queue meanwhile, for its age or for newer ones.
    async fn is_gone(&self, sequence: u64) -> bool {
        let registry = self.registry.clone();
        let read = move || {
            registry
                .store()
                .index()
                .read(|t| rows::after(t, sequence - 1, 1))
        };
        let next = index(read).await;
        next.is_some_and(|events| events.first().is_none_or(|(first, _)| *first != sequence))
    }
}

/// Looks into the index off the async threads. A failure is logged; what was asked is asked again.
async fn index<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::store::index::IndexError> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Some(value),
        Ok(Err(error)) => {
            tracing::warn!(?error, "the queue of events cannot be used");
            sleep(LOOK).await;
            None
        }
        // The runtime ends.
        Err(_) => None,
    }
}

impl Registry {
    /// Writes the events that were gathered in memory. Blocking; for the end of the process.
    pub fn flush_events(&self) -> Result<(), StoreError> {
        self.write_gathered()
    }

    /// Drops events older than `keep`; answers how many.
    fn expire_events(&self, keep: Duration) -> Result<u64, StoreError> {
        let now: SystemTime = (self.store().options().clock)();
        let before = now.checked_sub(keep).unwrap_or(UNIX_EPOCH);
        let before = before
            .duration_since(UNIX_EPOCH)
            .map_or(0, |at| at.as_millis());
        let is_old = move |bytes: &[u8]| {
            let event = serde_json::from_slice::<Event>(bytes);
            event.map_or(true, |event| u128::from(event.at) < before)
        };
        let index = self.store().index();
        // Nearly always there is nothing, and a look costs no commit.
        let oldest = index.read(rows::queue)?.oldest;
        if !oldest.is_some_and(|oldest| is_old(&oldest)) {
            return Ok(0);
        }
        let expired = index.write(move |transaction| rows::expire(transaction, is_old))?;
        if let Some(journal) = self.journal() {
            journal.count("dropped", expired);
        }
        Ok(expired)
    }

    /// What waits for whom.
    pub fn event_report(&self) -> Result<Report, StoreError> {
        Ok(Report {
            queue: self.store().index().read(rows::queue)?,
            hooks: self.journal().map(Journal::states).unwrap_or_default(),
        })
    }
}
