//! One download: from the other registry into an unfinished file, which readers follow, and then
//! into the store.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::arrival::Arrival;
use super::flights::Flights;
use super::upstream::{RemoteBlob, Trouble, UpstreamError};
use super::{Kept, MirrorError, sizes};
use crate::service::{AdmittedWriter, Registry};
use crate::store::writer::BlobWriter;
use crate::store::{CommitBlobError, StoreError};

/// Failures in a row after which a download is given up.
const FAILURES: u32 = 5;
/// So many bytes since the last failure count as the line having worked.
const WORTH_ANOTHER_TRY: u64 = 1024 * 1024;
/// A registry may ask for patience, but clients are waiting.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Pieces between network and disk.
const IN_FLIGHT: usize = 16;

/// Everything that one download needs.
pub(super) struct Fetch {
    pub(super) registry: Registry,
    pub(super) kept: Kept,
    pub(super) arrival: Arc<Arrival>,
    /// Whether the other registry has said that its repository has the blob.
    pub(super) granted: bool,
    pub(super) flights: Flights,
    pub(super) pause: Duration,
}

impl Fetch {
    /// Runs to its end, or until `abandoned` tells that nobody wants it.
    pub(super) async fn run(self, abandoned: Arc<Notify>) {
        let received = tokio::select! {
            received = self.receive() => received,
            () = abandoned.notified() => Err(MirrorError::Abandoned),
        };
        let end = match received {
            Ok(Some(writer)) => self.commit(writer).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = &end {
            let host = self.kept.host();
            tracing::warn!(host, digest = %self.arrival.digest, %error, "blob did not arrive");
        }
        // In this order: who finds it gone finds it in the store.
        self.flights.landed(&self.arrival);
        self.arrival.end(end);
    }

    /// All bytes, unverified; `None` where the blob is here already.
    async fn receive(&self) -> Result<Option<BlobWriter>, MirrorError> {
        // The semaphore is never closed, so there is always a permit coming.
        let _permit = self.kept.permits.acquire().await;
        if self.borrow().await? {
            return Ok(None);
        }
        let mut sink = self.open().await?;
        let (mut failures, mut before) = (0, 0);
        loop {
            let error = match self.attempt(&mut sink).await {
                Ok(()) => return sink.close().await.map(Some),
                Err(MirrorError::Upstream(error)) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            if sink.received >= before + WORTH_ANOTHER_TRY {
                failures = 0;
            }
            before = sink.received;
            if failures == FAILURES {
                return Err(error.into());
            }
            let wait = self.pause.saturating_mul(1 << failures);
            let asked = error.retry_after.unwrap_or_default();
            tracing::info!(%error, received = sink.received, "download broke; it goes on");
            tokio::time::sleep(wait.max(asked).min(MAX_WAIT)).await;
            failures += 1;
        }
    }

    /// Shows content that is here already. What only other repositories hold is shown in this one
    /// once the other registry has said that it has it there too. False where nobody holds it.
    async fn borrow(&self) -> Result<bool, MirrorError> {
        let (registry, here) = (self.registry.clone(), self.kept.here.clone());
        let digest = self.arrival.digest.clone();
        let (held, shown) = blocking(move || {
            let held = registry.store().blobs().get(&digest)?.is_some();
            Ok((held, held && registry.stat_blob(&here, &digest)?.is_some()))
        })
        .await?;
        if !held {
            return Ok(false);
        }
        if !shown && !self.granted {
            let upstream = &self.kept.source.upstream;
            let asked = upstream.blob_size(&self.kept.there, &self.arrival.digest);
            asked.await?;
        }
        let (registry, arrival) = (self.registry.clone(), Arc::clone(&self.arrival));
        blocking(move || {
            let mut all = true;
            for repository in arrival.close() {
                all &= registry.link_blob(&repository, &arrival.digest)?;
            }
            Ok(all)
        })
        .await
    }

    async fn open(&self) -> Result<Sink, MirrorError> {
        let (registry, arrival) = (self.registry.clone(), Arc::clone(&self.arrival));
        let here = self.kept.here.clone();
        let writer = blocking(move || {
            let writer = registry.admitted_writer(&here, &arrival.digest, None)?;
            let file = writer.reader().map_err(StoreError::from)?;
            // Only this download opens the file, and once.
            let _ = arrival.file.set(file);
            Ok(writer)
        });
        Ok(Sink::new(writer.await?, Arc::clone(&self.arrival)))
    }

    async fn attempt(&self, sink: &mut Sink) -> Result<(), MirrorError> {
        let upstream = &self.kept.source.upstream;
        let asked = upstream.blob(&self.kept.there, &self.arrival.digest, sink.received);
        let mut blob = asked.await?;
        if blob.size.is_none() {
            blob.size = self.stated().await?;
        }
        let limit = self.check(&blob, sink.received)?;
        // A registry that cannot do ranges sends all of it again; what is here is passed over.
        let mut known = sink.received - blob.start;
        while let Some(mut piece) = blob.pieces.next().await? {
            let skip = known.min(piece.len() as u64);
            known -= skip;
            // Bounded by the piece's own length, so it fits.
            piece.advance(skip as usize);
            if sink.received + piece.len() as u64 > limit {
                return Err(self.wrong("more bytes than the blob has"));
            }
            sink.write(piece).await?;
        }
        let size = self.arrival.progress.borrow().size;
        match size {
            Some(size) if sink.received < size => Err(self.short(sink.received, size)),
            _ => Ok(()),
        }
    }

    /// The size that a manifest of the repository says.
    async fn stated(&self) -> Result<Option<u64>, MirrorError> {
        let (registry, here) = (self.registry.clone(), self.kept.here.clone());
        let digest = self.arrival.digest.clone();
        blocking(move || sizes::stated(&registry, &here, &digest)).await
    }

    /// What the answer says about itself must agree with what is known. Answers how many bytes may
    /// come in all.
    fn check(&self, blob: &RemoteBlob, received: u64) -> Result<u64, MirrorError> {
        let most = self.registry.policy().max_blob;
        let known = self.arrival.progress.borrow().size;
        if blob.start > received {
            return Err(self.wrong("bytes from behind those that were asked for"));
        }
        if blob.size.is_some_and(|size| size > most) {
            return Err(self.wrong("a blob that is larger than any is allowed to be"));
        }
        match (known, blob.size) {
            (Some(known), Some(size)) if known != size => {
                return Err(self.wrong("a blob of another size than before"));
            }
            _ => {}
        }
        self.arrival.progress.send_modify(|progress| {
            progress.size = known.or(blob.size);
        });
        Ok(known.or(blob.size).unwrap_or(most))
    }

    fn wrong(&self, what: &str) -> MirrorError {
        let text = format!(
            "{} sends {what} for {} of {}",
            self.kept.host(),
            self.arrival.digest,
            self.kept.there
        );
        UpstreamError::new(Trouble::Wrong, text).into()
    }

    fn short(&self, received: u64, size: u64) -> MirrorError {
        let text = format!(
            "{} sent {received} of {size} bytes of {}",
            self.kept.host(),
            self.arrival.digest
        );
        UpstreamError::new(Trouble::Failed, text).into()
    }

    /// Verifies, makes durable, and shows it in every repository that claimed it.
    async fn commit(&self, writer: BlobWriter) -> Result<(), MirrorError> {
        let (registry, arrival) = (self.registry.clone(), Arc::clone(&self.arrival));
        let committed = blocking(move || {
            let repositories = arrival.close();
            let mut repositories = repositories.iter();
            let Some(first) = repositories.next() else {
                return Ok(Ok(()));
            };
            match registry.commit_blob(first, writer, &arrival.digest) {
                Ok(_) => {}
                Err(CommitBlobError::Store(error)) => return Err(error),
                Err(CommitBlobError::Digest { actual, .. }) => return Ok(Err(actual)),
            }
            for repository in repositories {
                registry.link_blob(repository, &arrival.digest)?;
            }
            Ok(Ok(()))
        });
        match committed.await? {
            Ok(()) => Ok(()),
            Err(actual) => Err(self.wrong(&format!("content with digest {actual}"))),
        }
    }
}

impl Drop for Fetch {
    /// Whatever ended this, nobody waits for it any more.
    fn drop(&mut self) {
        if self.arrival.progress.borrow().end.is_none() {
            self.flights.landed(&self.arrival);
            self.arrival.end(Err(MirrorError::Abandoned));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, MirrorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(StoreError::from(io::Error::other(error)).into()),
    }
}

/// The unfinished file, written by a thread of its own. Dropping it discards the file.
struct Sink {
    queue: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<AdmittedWriter, StoreError>>,
    received: u64,
}

impl Sink {
    fn new(writer: AdmittedWriter, arrival: Arc<Arrival>) -> Self {
        let (queue, pieces) = mpsc::channel(IN_FLIGHT);
        Self {
            queue,
            writer: tokio::task::spawn_blocking(move || write(writer, &arrival, pieces)),
            received: 0,
        }
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), MirrorError> {
        if piece.is_empty() {
            return Ok(());
        }
        let count = piece.len() as u64;
        if self.queue.send(piece).await.is_err() {
            let failed = (&mut self.writer).await;
            return Err(stopped(failed));
        }
        self.received += count;
        Ok(())
    }

    async fn close(self) -> Result<BlobWriter, MirrorError> {
        drop(self.queue);
        match self.writer.await {
            Ok(Ok(writer)) => Ok(writer.into_writer()),
            failed => Err(stopped(failed)),
        }
    }
}

fn stopped(end: Result<Result<AdmittedWriter, StoreError>, tokio::task::JoinError>) -> MirrorError {
    let error = match end {
        Ok(Err(error)) => return error.into(),
        Ok(Ok(_)) => io::Error::other("the writer stopped before its blob was complete"),
        Err(panic) => io::Error::other(panic),
    };
    StoreError::from(error).into()
}

fn write(
    mut writer: AdmittedWriter,
    arrival: &Arrival,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<AdmittedWriter, StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        writer.write(&piece)?;
        let written = writer.written();
        arrival
            .progress
            .send_modify(|progress| progress.written = written);
    }
    Ok(writer)
}
