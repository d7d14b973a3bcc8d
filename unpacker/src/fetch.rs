//! Blobs from a registry into the content store: those that are missing, side by side.
//!
//! What the store has is not fetched; what another pull is fetching is waited for. Blobs that arrived
//! before an error or a cancel stay, and so does what came of the others.

use std::cmp::Reverse;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use config::name::Reference;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::arrival::{Announced, Arrivals, Turn};
use crate::content::Content;
use crate::progress::{Event, Phase, Progress};
use crate::pull::{MAX_BLOBS, PullError};
use crate::remote::client::Remote;
use crate::remote::download::BlobName;

/// How often the progress of somebody else's download is told.
const NEWS_EVERY: Duration = Duration::from_millis(200);

/// Blobs that will come; readers of [`Arrivals::waiting`] wait for them while this lives.
#[derive(Debug)]
pub struct Wanted {
    arrivals: Arrivals,
    blobs: Vec<(BlobName, Announced)>,
}

impl Wanted {
    /// The first, an image's configuration, is asked for first: with it an image can be unpacked. Then
    /// come the others, the largest first, as they are unpacked.
    pub fn new(arrivals: &Arrivals, mut blobs: Vec<BlobName>) -> Self {
        if let Some(layers) = blobs.get_mut(1..) {
            layers.sort_by_key(|blob| Reverse(blob.size));
        }
        let announced = |blob: BlobName| {
            let announced = arrivals.announce(&blob.digest);
            (blob, announced)
        };
        Self {
            arrivals: arrivals.clone(),
            blobs: blobs.into_iter().map(announced).collect(),
        }
    }

    /// Fetches what is missing of them from the repository of `reference`.
    pub async fn fetch(
        self,
        remote: &Remote,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        self.check_room().await?;
        // The client's own semaphore bounds the transfers; here all blobs may stand in line.
        stream::iter(self.blobs)
            .map(|(blob, announced)| {
                let content = self.arrivals.content();
                let fetch = Fetch {
                    remote,
                    content,
                    reference,
                    blob,
                    announced,
                    progress,
                };
                fetch.run()
            })
            .buffer_unordered(MAX_BLOBS)
            .try_collect()
            .await
    }

    /// A disk that is too small is found before it is full.
    async fn check_room(&self) -> Result<(), PullError> {
        let content = Arc::clone(self.arrivals.content());
        let blobs: Vec<BlobName> = self.blobs.iter().map(|(blob, _)| blob.clone()).collect();
        let looked = tokio::task::spawn_blocking(move || room(&*content, &blobs)).await;
        let (needed, free) = looked
            .map_err(io::Error::other)
            .and_then(|looked| looked)
            .map_err(|source| PullError::Room { source })?;
        match free {
            Some(free) if needed > free => Err(PullError::NoRoom { needed, free }),
            _ => Ok(()),
        }
    }
}

/// Bytes that are still to come, and bytes that there is room for.
fn room(content: &dyn Content, blobs: &[BlobName]) -> io::Result<(u64, Option<u64>)> {
    let mut needed: u64 = 0;
    for blob in blobs {
        if !is_here(content, blob)? {
            let rest = blob.size.saturating_sub(content.unfinished(&blob.digest)?);
            needed = needed.saturating_add(rest);
        }
    }
    Ok((needed, content.free()?))
}

fn is_here(content: &dyn Content, blob: &BlobName) -> io::Result<bool> {
    let found = content.open(&blob.digest)?;
    Ok(found.is_some_and(|found| found.size == blob.size))
}

/// One of them.
struct Fetch<'a> {
    remote: &'a Remote,
    content: &'a Arc<dyn Content>,
    reference: &'a Reference,
    blob: BlobName,
    announced: Announced,
    progress: &'a dyn Progress,
}

impl Fetch<'_> {
    async fn run(self) -> Result<(), PullError> {
        let turn = self.turn().await;
        let was_here = self.is_here().await? || self.bring(&turn).await?;
        let note = was_here.then(|| "exists".to_owned());
        self.announced.is_here();
        self.progress.event(Event::Finished {
            id: self.blob.id(),
            phase: Phase::Download,
            note,
        });
        Ok(())
    }

    /// Stands in line and downloads it; true where it came another way meanwhile.
    async fn bring(&self, turn: &Turn) -> Result<bool, PullError> {
        self.tell(0);
        let _permit = self.remote.transfer().await;
        if self.is_here().await? {
            return Ok(true);
        }
        self.download(turn).await?;
        Ok(false)
    }

    /// Waits while somebody else downloads it, and tells how far that is.
    async fn turn(&self) -> Turn {
        let mut turn = pin!(self.announced.turn());
        loop {
            if let Ok(turn) = tokio::time::timeout(NEWS_EVERY, &mut turn).await {
                return turn;
            }
            self.tell(self.announced.have());
        }
    }

    async fn download(&self, turn: &Turn) -> Result<(), PullError> {
        let work = self.remote.download_for(
            self.reference,
            &self.blob,
            self.content,
            Some(turn),
            self.progress,
        );
        Ok(work.await?)
    }

    async fn is_here(&self) -> Result<bool, PullError> {
        let (content, blob) = (Arc::clone(self.content), self.blob.clone());
        let looked = tokio::task::spawn_blocking(move || is_here(&*content, &blob)).await;
        let looked = looked.map_err(io::Error::other).and_then(|looked| looked);
        looked.map_err(|source| PullError::Content {
            digest: self.blob.digest.clone(),
            source,
        })
    }

    fn tell(&self, done: u64) {
        self.progress.event(Event::Transfer {
            id: self.blob.id(),
            phase: Phase::Download,
            done,
            total: Some(self.blob.size),
        });
    }
}
