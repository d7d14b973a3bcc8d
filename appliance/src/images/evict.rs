//! What the registry mirrors is kept within its bounds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use registry::mirror::Mirror;
use registry::mirror::evict::Evicted;
use tokio_util::sync::CancellationToken;

use crate::error::Outcome;
use crate::images::service::{Images, store};
use crate::sandbox::record::{self, Record};

/// How often the last pulls are written down, and room is made.
const PERIOD: Duration = Duration::from_secs(60);
/// Work that is about to end is waited for so long; else room is made the next time.
const PATIENCE: Duration = Duration::from_secs(1);

impl Images {
    /// Evicts until mirrored images hold at most `max` bytes. `None` while other work goes on: it may
    /// need what nothing names yet.
    pub(crate) fn evict(&self, mirror: &Mirror, max: u64) -> Outcome<Option<Evicted>> {
        let Some(_alone) = self.gate.alone(PATIENCE) else {
            return Ok(None);
        };
        let mut in_use = HashSet::new();
        for folder in record::folders(&self.folder.sandboxes())? {
            in_use.extend(Record::load(&folder)?.map(|record| record.image_digest));
        }
        let evicted = mirror.evict(max, &|digest| in_use.contains(digest.as_ref()));
        evicted.map(Some).map_err(store)
    }
}

/// Runs until `stop`: writes the last pulls down and keeps the mirror within `max` bytes.
pub(crate) async fn look_after(
    images: Arc<Images>,
    mirror: Arc<Mirror>,
    max: Option<u64>,
    stop: CancellationToken,
) {
    let mut stopping = false;
    while !stopping {
        stopping = tokio::time::timeout(PERIOD, stop.cancelled()).await.is_ok();
        let (images, mirror) = (Arc::clone(&images), Arc::clone(&mirror));
        let work = tokio::task::spawn_blocking(move || match max.filter(|_| !stopping) {
            Some(max) => images.evict(&mirror, max).map(Option::unwrap_or_default),
            None => mirror.flush().map(|()| Evicted::default()).map_err(store),
        });
        match work.await {
            Ok(Ok(Evicted { images: 0, .. })) => {}
            Ok(Ok(evicted)) => tracing::info!(
                images = evicted.images,
                bytes = evicted.bytes,
                "mirrored images were evicted"
            ),
            Ok(Err(failure)) => tracing::warn!(%failure, "the mirror cannot be kept within bounds"),
            Err(error) => tracing::error!(%error, "the mirror cannot be kept within bounds"),
        }
    }
}
