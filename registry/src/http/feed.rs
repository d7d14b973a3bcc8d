//! What a body brings, on its way to a file.
//!
//! A blocking thread has the sink only while there is something to write. Threads are few (tokio has
//! 512 of them, and every look at a file needs one) and uploads may be many and slow, so one that
//! waits for its client must hold none.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::ApiError;

type Batch = Vec<Bytes>;
type Write<S, E> = fn(&mut S, &[u8]) -> Result<(), E>;

/// A sink, and the batches that go into it one after the other.
pub(super) struct Feed<S, E> {
    /// One batch waits here while another is written.
    queue: mpsc::Sender<Batch>,
    rest: Rest<S>,
    /// The last that had something to write.
    job: Option<JoinHandle<Result<(), E>>>,
    write: Write<S, E>,
}

/// The sink with its end of the queue, while nobody writes.
type Rest<S> = Arc<Mutex<Option<(S, mpsc::Receiver<Batch>)>>>;

impl<S, E> Feed<S, E>
where
    S: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    pub(super) fn new(sink: S, write: Write<S, E>) -> Self {
        let (queue, batches) = mpsc::channel(1);
        Self {
            queue,
            rest: Arc::new(Mutex::new(Some((sink, batches)))),
            job: None,
            write,
        }
    }

    /// Takes a batch, once there is room for it. False when writing has failed.
    pub(super) async fn push(&mut self, batch: Batch) -> bool {
        if self.queue.send(batch).await.is_err() {
            return false;
        }
        // Either the sink rests, or its writer will find the batch before it lets it rest.
        let rested = take(&self.rest);
        if let Some((sink, batches)) = rested {
            let (rest, write) = (Arc::clone(&self.rest), self.write);
            let job = move || drain(sink, batches, &rest, write);
            self.job = Some(tokio::task::spawn_blocking(job));
        }
        true
    }

    /// Waits until everything is written.
    pub(super) async fn finish(mut self) -> Result<S, ApiError> {
        if let Some(job) = self.job.take() {
            match job.await {
                Ok(result) => result.map_err(Into::into)?,
                Err(error) => return Err(ApiError::internal(&error)),
            }
        }
        // Whoever ended well has let it rest.
        let lost = || ApiError::internal(&std::io::Error::other("the sink is lost"));
        let (sink, _) = take(&self.rest).ok_or_else(lost)?;
        Ok(sink)
    }
}

fn take<S>(rest: &Rest<S>) -> Option<(S, mpsc::Receiver<Batch>)> {
    rest.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Blocking: writes until nothing waits. After an error the sink is gone, and the queue with it, by
/// which the other side learns of it.
fn drain<S, E>(
    mut sink: S,
    mut batches: mpsc::Receiver<Batch>,
    rest: &Rest<S>,
    write: Write<S, E>,
) -> Result<(), E> {
    loop {
        let batch = match batches.try_recv() {
            Ok(batch) => batch,
            Err(_) => {
                let mut resting = rest.lock().unwrap_or_else(PoisonError::into_inner);
                // One that came since finds nobody resting, so it is for this one to write.
                match batches.try_recv() {
                    Ok(batch) => batch,
                    Err(_) => {
                        *resting = Some((sink, batches));
                        return Ok(());
                    }
                }
            }
        };
        for piece in batch {
            write(&mut sink, &piece)?;
        }
    }
}
