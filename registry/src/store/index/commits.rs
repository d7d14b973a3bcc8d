//! What the group commit does, for metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Counters of one index; clones share their values.
#[derive(Debug, Clone)]
pub struct Commits {
    /// Changes that shared one commit.
    pub changes: Histogram,
    /// Seconds of one commit, with the changes in it.
    pub duration: Histogram,
    pub failures: Counter,
}

impl Default for Commits {
    fn default() -> Self {
        Self {
            changes: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            duration: Histogram::new(exponential_buckets(0.000_5, 2.5, 10)),
            failures: Counter::default(),
        }
    }
}
