//! A blob of another registry's repository: from the store, or while it comes.
//!
//! A download that another repository began is shared as long as it goes well. Its failures are of
//! that repository and its registry: they are neither told nor remembered here, where the
//! repository's own registry is asked instead.

use std::time::Duration;

use super::arrival::Arriving;
use super::fetch::Fetch;
use super::flights::{Boarded, Seat, Terms};
use super::memory::Key;
use super::upstream::Trouble;
use super::{Kept, Mirror, MirrorError, sizes};
use crate::digest::Digest;

/// A blob up to this size is waited for.
const SMALL: u64 = 64 * 1024;
/// Somebody else's download may end just when we look; so often we look again.
const LOOKS: usize = 8;
/// Another repository's download that has sent nothing for so long may be at a registry that is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a blob is.
#[derive(Debug)]
pub enum Found {
    /// In the repository.
    Here,
    /// On its way.
    Arriving(Arriving),
}

impl Mirror {
    /// Finds the blob, fetching it where it is not here.
    pub async fn blob(&self, kept: &Kept, digest: &Digest) -> Result<Found, MirrorError> {
        let mut terms = Terms::Known;
        for _ in 0..LOOKS {
            if self.has_blob(kept, digest).await? {
                return Ok(Found::Here);
            }
            self.refuse_missing(kept, &key(kept, digest))?;
            if self.flights.arrival(digest).is_none() {
                self.refuse_away(kept)?;
            }
            match self.flights.board(digest, &kept.here, terms) {
                Boarded::Joined(seat) if seat.arrival().here != kept.here => {
                    let opened = tokio::time::timeout(PATIENCE, opened(seat)).await;
                    if let Ok(Ok(found)) = opened {
                        return Ok(found);
                    }
                    terms = Terms::Alone;
                }
                Boarded::Joined(seat) => return self.own(kept, seat).await,
                Boarded::First(seat, abandoned) => {
                    // Whoever was let onto a download for others had been granted it.
                    let granted = terms != Terms::Known;
                    tokio::spawn(self.download(kept, &seat, granted).run(abandoned));
                    return self.own(kept, seat).await;
                }
                Boarded::Elsewhere if terms == Terms::Known => {
                    self.ask_size(kept, digest).await?;
                    terms = Terms::Granted;
                }
                // It is being committed for others; then it can be borrowed.
                Boarded::Elsewhere => {
                    if let Some(arrival) = self.flights.arrival(digest) {
                        arrival.until(|now| now.end.is_some()).await;
                    }
                }
            }
        }
        Err(MirrorError::Abandoned)
    }

    /// The size of the blob, where it or the other registry is known to have it. Fetches nothing.
    pub async fn blob_size(
        &self,
        kept: &Kept,
        digest: &Digest,
    ) -> Result<Option<u64>, MirrorError> {
        let (here, wanted) = (kept.here.clone(), digest.clone());
        let known = self.blocking(move |registry| registry.stat_blob(&here, &wanted));
        if let Some(size) = known.await? {
            return Ok(Some(size));
        }
        self.refuse_missing(kept, &key(kept, digest))?;
        if let Some(size) = self.ask_size(kept, digest).await? {
            return Ok(Some(size));
        }
        let (here, digest) = (kept.here.clone(), digest.clone());
        self.blocking(move |registry| sizes::stated(registry, &here, &digest))
            .await
    }

    async fn has_blob(&self, kept: &Kept, digest: &Digest) -> Result<bool, MirrorError> {
        let (here, digest) = (kept.here.clone(), digest.clone());
        let found = self.blocking(move |registry| registry.stat_blob(&here, &digest));
        Ok(found.await?.is_some())
    }

    fn download(&self, kept: &Kept, seat: &Seat, granted: bool) -> Fetch {
        Fetch {
            registry: self.registry.clone(),
            kept: kept.clone(),
            arrival: seat.arrival().clone(),
            granted,
            flights: self.flights.clone(),
            pause: self.options.pause,
        }
    }

    /// What comes of a download from the repository's own registry.
    async fn own(&self, kept: &Kept, seat: Seat) -> Result<Found, MirrorError> {
        let digest = seat.arrival().digest.clone();
        let opened = opened(seat).await;
        opened.map_err(|error| self.missed(kept, &digest, error))
    }

    async fn ask_size(&self, kept: &Kept, digest: &Digest) -> Result<Option<u64>, MirrorError> {
        self.refuse_away(kept)?;
        let asked = kept.source.upstream.blob_size(&kept.there, digest);
        asked
            .await
            .map_err(|error| self.missed(kept, digest, error.into()))
    }

    /// Whoever waits for a registry that could not be reached a moment ago waits in vain. One that
    /// answered, if only to complain, may well have the blob: registries limit and lose manifests
    /// and blobs apart.
    fn refuse_away(&self, kept: &Kept) -> Result<(), MirrorError> {
        let trouble = self.troubles.of(kept.host(), self.now());
        match trouble.filter(|known| known.error.trouble == Trouble::Unreachable) {
            Some(trouble) => Err(trouble.error.into()),
            None => Ok(()),
        }
    }

    /// Remembers that the other registry does not have it, or is away.
    fn missed(&self, kept: &Kept, digest: &Digest, error: MirrorError) -> MirrorError {
        match error {
            MirrorError::Upstream(error) if error.trouble == Trouble::NotFound => {
                let now = self.now();
                let until = now + self.options.negative_ttl.as_secs();
                self.misses.add(key(kept, digest), now, until);
                kept.unknown(digest)
            }
            MirrorError::Upstream(error) if error.trouble == Trouble::Unreachable => {
                // One failure, told to all who shared the download, is noted once.
                if self.refuse_away(kept).is_ok() {
                    self.troubled(kept, &error);
                }
                error.into()
            }
            error => error,
        }
    }
}

/// Waits until the first bytes can be sent, or for all of a small blob: what fails before that can
/// be told by a status.
async fn opened(seat: Seat) -> Result<Found, MirrorError> {
    let ready = seat.arrival().until(|now| {
        let small = now.size.is_some_and(|size| size <= SMALL);
        now.end.is_some() || (now.written > 1 && !small)
    });
    match ready.await.end {
        None => Ok(Found::Arriving(Arriving::new(seat))),
        Some(Ok(())) => Ok(Found::Here),
        Some(Err(error)) => Err(error),
    }
}

/// Blobs and manifests are asked for at different places, so their misses have different keys.
fn key(kept: &Kept, digest: &Digest) -> Key {
    (kept.here.clone(), format!("blob {digest}"))
}
