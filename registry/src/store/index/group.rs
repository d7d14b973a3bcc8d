//! Group commit: one thread, one transaction for everything that is queued.
//!
//! While a commit waits for the disk the next requests gather; none waits for more than one commit
//! in progress and its own. A transaction that fails fails everyone in it, and nobody else: those
//! that it did not come to have another one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use redb::WriteTransaction;

use super::file::{DatabaseFile, Opened};
use super::{Commits, IndexError, begin_write};
use crate::store::step::{Step, Steps};
use crate::store::writer::Staged;

/// Jobs in one transaction. More would only make the unlucky first wait longer.
const BATCH: usize = 256;
/// Bytes of small blobs in one transaction, which are in memory until it is sealed.
const BATCH_BYTES: usize = 2 << 20;

type Reply = Box<dyn FnOnce(Result<(), IndexError>) + Send>;
/// Writes rows, unless there is no transaction; answers whether that worked and how to tell the
/// caller.
type Work = Box<dyn FnOnce(Option<&WriteTransaction>) -> (Result<(), redb::Error>, Reply) + Send>;

struct Job {
    work: Work,
    /// The blob that the rows name, where it has no final name yet.
    blob: Option<Staged>,
}

/// The writer thread. Dropping this waits until it has finished.
#[derive(Debug)]
pub(super) struct Group {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Group {
    pub(super) fn start(
        file: Arc<DatabaseFile>,
        steps: Steps,
        commits: Commits,
    ) -> Result<Self, IndexError> {
        let (queue, jobs) = sync_channel(BATCH);
        let path = file.path.clone();
        let thread = Builder::new()
            .name("registry-index".to_owned())
            .spawn(move || run(&file, &steps, &commits, &jobs))
            .map_err(|error| IndexError::Database {
                path,
                source: Arc::new(redb::Error::Io(error)),
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Queues `work` and waits until it is durable or failed, together with `blob`.
    pub(super) fn write<T: Send + 'static>(
        &self,
        blob: Option<Staged>,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (tell, told) = sync_channel(1);
        let work: Work = Box::new(move |transaction| {
            let (value, result) = match transaction.map(work) {
                Some(Ok(value)) => (Some(value), Ok(())),
                Some(Err(error)) => (None, Err(error)),
                None => (None, Ok(())),
            };
            let reply: Reply = Box::new(move |outcome| {
                // Nobody listens when the caller has gone; its rows stand all the same.
                let _ = tell.send(outcome.and(value.ok_or(IndexError::Closed)));
            });
            (result, reply)
        });
        let queue = self.queue.as_ref().ok_or(IndexError::Closed)?;
        queue
            .send(Job { work, blob })
            .map_err(|_| IndexError::Closed)?;
        told.recv().unwrap_or(Err(IndexError::Closed))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has already failed the calls that waited for it.
            let _ = thread.join();
        }
    }
}

fn run(file: &DatabaseFile, steps: &Steps, commits: &Commits, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut jobs = gather(first, jobs);
        while !jobs.is_empty() {
            let mut batch = Batch::default();
            let begun = Instant::now();
            let result = file.with(|opened| batch.commit(file, opened, steps, &mut jobs));
            commits.changes.observe(batch.replies.len() as f64);
            commits.duration.observe(begun.elapsed().as_secs_f64());
            commits.failures.inc_by(u64::from(result.is_err()));
            if batch.replies.is_empty() {
                // Not even begun: nobody can be served now.
                batch.refuse(jobs.drain(..));
            }
            for (reply, named) in batch.replies.into_iter().zip(batch.named) {
                reply(result.clone().and(named.map_err(|error| file.error(error))));
            }
        }
    }
}

/// What is queued, as far as it fits into one transaction.
fn gather(first: Job, jobs: &Receiver<Job>) -> VecDeque<Job> {
    let weigh = |job: &Job| job.blob.as_ref().map_or(0, Staged::weight);
    let mut weight = weigh(&first);
    let mut gathered = VecDeque::from([first]);
    while gathered.len() < BATCH && weight < BATCH_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        weight += weigh(&job);
        gathered.push_back(job);
    }
    gathered
}

/// The callers of one transaction, and whether each one's blob got its name.
#[derive(Default)]
struct Batch {
    replies: Vec<Reply>,
    named: Vec<std::io::Result<()>>,
}

impl Batch {
    fn commit(
        &mut self,
        file: &DatabaseFile,
        opened: &Opened,
        steps: &Steps,
        jobs: &mut VecDeque<Job>,
    ) -> Result<(), redb::Error> {
        let transaction = begin_write(&opened.database)?;
        let mut blobs = Vec::new();
        while let Some(job) = jobs.pop_front() {
            let (result, reply) = (job.work)(Some(&transaction));
            self.add(reply);
            blobs.push(job.blob);
            result?;
        }
        steps.at(Step::Staged)?;
        commit(file, transaction, steps)?;
        let entries = blobs.iter_mut().flatten().filter_map(Staged::take_entry);
        let entries = entries.collect();
        file.journal.seal(entries, || self.name(blobs))?;
        opened.refresh()
    }

    fn add(&mut self, reply: Reply) {
        self.replies.push(reply);
        self.named.push(Ok(()));
    }

    /// Takes in jobs that get no transaction.
    fn refuse(&mut self, jobs: impl Iterator<Item = Job>) {
        for job in jobs {
            self.add((job.work)(None).1);
        }
    }

    /// Gives each blob its final name; answers whether all got theirs.
    fn name(&mut self, blobs: Vec<Option<Staged>>) -> bool {
        for (blob, named) in blobs.into_iter().zip(&mut self.named) {
            *named = blob.map_or(Ok(()), Staged::publish);
        }
        self.named.iter().all(Result::is_ok)
    }
}

/// Commits in memory. From here on all of the batch is sealed, or nothing of it stands.
fn commit(
    file: &DatabaseFile,
    transaction: WriteTransaction,
    steps: &Steps,
) -> Result<(), redb::Error> {
    let committed = transaction
        .commit()
        .map_err(redb::Error::from)
        .and_then(|()| Ok(steps.at(Step::Committed)?));
    if committed.is_err() {
        file.journal.discard();
    }
    committed
}
