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

use redb::{Database, WriteTransaction};

use super::{Commits, DatabaseFile, IndexError, begin_write};
use crate::store::step::{Step, Steps};

/// Jobs in one transaction. More would only make the unlucky first wait longer.
const BATCH: usize = 256;

type Reply = Box<dyn FnOnce(Result<(), IndexError>) + Send>;
/// Writes rows, unless there is no transaction; answers whether that worked and how to tell the
/// caller.
type Job = Box<dyn FnOnce(Option<&WriteTransaction>) -> (Result<(), redb::Error>, Reply) + Send>;

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

    /// Queues `work` and waits until it is durable or failed.
    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (tell, told) = sync_channel(1);
        let job: Job = Box::new(move |transaction| {
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
        queue.send(job).map_err(|_| IndexError::Closed)?;
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
        let rest = jobs.try_iter().take(BATCH - 1);
        let mut batch: VecDeque<Job> = std::iter::once(first).chain(rest).collect();
        while !batch.is_empty() {
            let mut replies = Vec::new();
            let begun = Instant::now();
            let result = file.with(|database| commit(database, steps, &mut batch, &mut replies));
            commits.changes.observe(replies.len() as f64);
            commits.duration.observe(begun.elapsed().as_secs_f64());
            commits.failures.inc_by(u64::from(result.is_err()));
            if replies.is_empty() {
                // Not even begun: nobody can be served now.
                replies.extend(batch.drain(..).map(|job| job(None).1));
            }
            for reply in replies {
                reply(result.clone());
            }
        }
    }
}

fn commit(
    database: &Database,
    steps: &Steps,
    batch: &mut VecDeque<Job>,
    replies: &mut Vec<Reply>,
) -> Result<(), redb::Error> {
    let transaction = begin_write(database)?;
    while let Some(job) = batch.pop_front() {
        let (result, reply) = job(Some(&transaction));
        replies.push(reply);
        result?;
    }
    steps.at(Step::Staged)?;
    transaction.commit()?;
    steps.at(Step::Committed)?;
    Ok(())
}
