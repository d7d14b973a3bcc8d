//! What the registry counts, in the words of Prometheus.
//!
//! One [`Metrics`] per registry. Parts of the program hold clones of its counters, which share their
//! value, and bump them where something happens; a scrape only reads. No label has unbounded values:
//! never a repository, a tag, a digest or a caller.

mod process;

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry as Names, Unit};

use crate::service::Registry;
use crate::store::StoreError;
use crate::store::index::holdings;

/// What a request was for and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The kind of endpoint, such as `manifest`; never a path.
    pub endpoint: &'static str,
    /// A method that is served here, or `other`.
    pub method: &'static str,
    /// `2xx`, `3xx`, `4xx` or `5xx`.
    pub status: &'static str,
}

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Asked {
    pub endpoint: &'static str,
    pub method: &'static str,
}

/// What became of something: `deleted`, `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Result {
    pub result: &'static str,
}

type Durations = Family<Asked, Histogram, fn() -> Histogram>;

/// Every counter. Fields are cheap to clone and clones share their value.
pub struct Metrics {
    pub requests: Family<Answered, Counter>,
    /// Until the last byte of the answer left.
    pub duration: Durations,
    /// Of bodies, without headers.
    pub received: Counter,
    pub sent: Counter,
    /// Connections that are open now; see [`Metrics::connection`].
    pub connections: Gauge,
    /// Of collections: links hidden, files unlinked, bytes freed, and how many collections ran.
    pub collections: Counter,
    pub collected_links: Counter,
    pub collected_blobs: Counter,
    pub collected_bytes: Counter,
    /// Of mirrored repositories, by `here`, `arriving`, `stale`, `unknown` and `failed`.
    pub mirror_requests: Family<Result, Counter>,
    /// Sign-ins and permissions, by `allowed`, `denied` and `limited`.
    pub access: Family<Result, Counter>,
    names: Names,
    read: Read,
}

/// What is read at a scrape.
#[derive(Debug, Default)]
struct Read {
    uploads: Gauge,
    repositories: Gauge,
    manifests: Gauge,
    tags: Gauge,
    blobs: Gauge,
    blob_bytes: Gauge,
    events: Gauge,
    scrub_checked: Gauge,
    scrub_quarantined: Gauge,
    scrub_missing: Gauge,
    scrub_finished: Gauge,
    resident: Gauge,
    descriptors: Gauge,
    started: Gauge<f64, AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Seconds: from a cached manifest to a large push.
const DURATIONS: [f64; 13] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

impl Metrics {
    /// Metrics of this registry, beginning at zero.
    pub fn new(registry: &Registry) -> Self {
        let mut metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            collections: Counter::default(),
            collected_links: Counter::default(),
            collected_blobs: Counter::default(),
            collected_bytes: Counter::default(),
            mirror_requests: Family::default(),
            access: Family::default(),
            names: Names::with_prefix("devpod_registry"),
            read: Read::default(),
        };
        metrics.name_requests();
        metrics.name_work();
        metrics.name_state();
        metrics.name_index(registry);
        metrics
    }

    fn name_requests(&mut self) {
        let names = &mut self.names;
        let help = "Requests by kind of endpoint, method and class of status";
        names.register("requests", help, self.requests.clone());
        let help = "Time from a request's headers to the last byte of its answer";
        names.register_with_unit(
            "request_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
        let help = "Bodies received";
        names.register_with_unit("received", help, Unit::Bytes, self.received.clone());
        let help = "Bodies sent";
        names.register_with_unit("sent", help, Unit::Bytes, self.sent.clone());
        let help = "Connections that are open";
        names.register("connections", help, self.connections.clone());
        let help = "Decisions about access";
        names.register("access_decisions", help, self.access.clone());
    }

    fn name_work(&mut self) {
        let names = &mut self.names;
        for (name, help, counter) in [
            (
                "collections",
                "Garbage collections that ended",
                &self.collections,
            ),
            (
                "collected_links",
                "Blobs hidden from a repository that needs them no more",
                &self.collected_links,
            ),
            (
                "collected_blobs",
                "Files that a collection unlinked",
                &self.collected_blobs,
            ),
        ] {
            names.register(name, help, counter.clone());
        }
        let help = "Files that a collection unlinked";
        let bytes = self.collected_bytes.clone();
        names.register_with_unit("collected", help, Unit::Bytes, bytes);
        let help = "Reads of repositories that are kept for other registries";
        names.register("mirror_requests", help, self.mirror_requests.clone());
    }

    fn name_state(&mut self) {
        let (names, read) = (&mut self.names, &self.read);
        for (name, help, gauge) in [
            ("uploads", "Upload sessions that are open", &read.uploads),
            ("repositories", "Repositories", &read.repositories),
            (
                "manifests",
                "Manifests, each once in every repository that has it",
                &read.manifests,
            ),
            ("tags", "Tags", &read.tags),
            (
                "blobs",
                "Blobs and manifests that a row names, each once",
                &read.blobs,
            ),
            (
                "events_queued",
                "Events that some webhook has not been told yet",
                &read.events,
            ),
            (
                "scrub_checked_blobs",
                "Blobs that the newest scrub found whole so far",
                &read.scrub_checked,
            ),
            (
                "scrub_quarantined_blobs",
                "Blobs that it found damaged and set aside",
                &read.scrub_quarantined,
            ),
            (
                "scrub_missing_blobs",
                "Blobs that it could not find or read",
                &read.scrub_missing,
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                &read.descriptors,
            ),
        ] {
            names.register(name, help, gauge.clone());
        }
        let help = "Blobs and manifests that a row names, each once";
        names.register_with_unit("stored", help, Unit::Bytes, read.blob_bytes.clone());
        let help = "Memory of the process";
        names.register_with_unit(
            "process_resident_memory",
            help,
            Unit::Bytes,
            read.resident.clone(),
        );
        let help = "When the newest scrub ended, since 1970; zero while it runs";
        names.register_with_unit(
            "scrub_finished",
            help,
            Unit::Seconds,
            read.scrub_finished.clone(),
        );
        let help = "When the process began, since 1970";
        names.register_with_unit(
            "process_start_time",
            help,
            Unit::Seconds,
            read.started.clone(),
        );
    }

    fn name_index(&mut self, registry: &Registry) {
        let commits = registry.store().index().commits();
        let help = "Changes that shared one commit of the index";
        self.names
            .register("commit_changes", help, commits.changes.clone());
        let help = "Time of one commit of the index";
        self.names.register_with_unit(
            "commit_duration",
            help,
            Unit::Seconds,
            commits.duration.clone(),
        );
        let help = "Commits of the index that failed";
        self.names
            .register("commit_failures", help, commits.failures.clone());
        if let Some(journal) = registry.journal() {
            let counts = journal.counts();
            let help = "Events by what became of them";
            self.names.register("events", help, counts.clone());
        }
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection(&self) -> OpenConnection {
        OpenConnection::on(&self.connections)
    }

    /// Counts what became of a request to a mirrored repository.
    pub fn mirrored(&self, result: &'static str) {
        self.mirror_requests.get_or_create(&Result { result }).inc();
    }

    /// Counts a decision about access.
    pub fn decided(&self, result: &'static str) {
        self.access.get_or_create(&Result { result }).inc();
    }

    /// Counts what a collection removed.
    pub fn collected(&self, links: u64, blobs: u64, bytes: u64) {
        self.collections.inc();
        self.collected_links.inc_by(links);
        self.collected_blobs.inc_by(blobs);
        self.collected_bytes.inc_by(bytes);
    }

    /// Everything as OpenMetrics text. Blocking: it reads the index, shortly.
    pub fn scrape(&self, registry: &Registry) -> std::result::Result<String, StoreError> {
        self.refresh(registry)?;
        let mut text = String::new();
        encode(&mut text, &self.names).map_err(std::io::Error::other)?;
        Ok(text)
    }

    fn refresh(&self, registry: &Registry) -> std::result::Result<(), StoreError> {
        let set = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let read = &self.read;
        let counts = registry.store().index().read(holdings::counts)?;
        set(&read.repositories, counts.repositories);
        set(&read.manifests, counts.manifests);
        set(&read.tags, counts.tags);
        set(&read.uploads, registry.open_uploads() as u64);
        set(&read.blobs, counts.held);
        set(&read.blob_bytes, counts.held_bytes);
        let scrub = registry.last_scrub()?.unwrap_or_default();
        set(&read.scrub_checked, scrub.checked);
        set(&read.scrub_quarantined, scrub.quarantined);
        set(&read.scrub_missing, scrub.missing + scrub.unreadable);
        set(&read.scrub_finished, scrub.finished.unwrap_or(0));
        set(&read.events, registry.queued_events()?);
        set(&read.resident, process::resident_bytes());
        set(&read.descriptors, process::open_descriptors());
        read.started.set(process::started());
        Ok(())
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl OpenConnection {
    /// Counts one more until it is dropped.
    pub(crate) fn on(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
