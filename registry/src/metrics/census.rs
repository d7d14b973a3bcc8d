//! How much there is. Counts of rows are kept by the tables themselves; bytes need a walk over rows,
//! so they are remembered for a while, the longer the more the walk cost.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Metrics;
use crate::service::Registry;
use crate::store::StoreError;
use crate::store::index::holdings::{self, Holdings};

/// The last walk, and until when it counts.
#[derive(Debug, Default)]
pub(super) struct Census {
    held: Holdings,
    until: Option<Instant>,
}

/// The shortest time between two walks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Walks take at most this part of the time.
const SHARE: u32 = 200;

impl Metrics {
    /// Blobs and their bytes. Scrapes that come while one of them walks wait for it.
    pub(super) fn held(&self, registry: &Registry) -> Result<Holdings, StoreError> {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if census.until.is_none_or(|until| begun >= until) {
            census.held = registry.store().index().read(holdings::all)?;
            let ended = Instant::now();
            census.until = Some(ended + INTERVAL.max((ended - begun) * SHARE));
        }
        Ok(census.held)
    }
}
