//! Layers side by side, with the outcome of one after the other.
//!
//! Workers carry out what is missing, each layer alone in a folder of its own, the largest first.
//! Whoever called goes through the layers in order and gives each its place: a layer that stands
//! alone is kept by its diffID; one that leans is settled now that its parents are there, and kept
//! by its chainID; what cannot be settled is carried out again. A failure of a layer stops those
//! above it only, so that the lowest one is told.
//!
//! Whoever makes a layer holds the lock of its chainID. A worker never waits for one: it leaves the
//! layer to the caller, who waits in order, and so for nobody who waits for him.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::UnpackError;
use super::blob::Source;
use super::stack::{Found, Stack, failed};
use crate::image::Layer;
use crate::layer::apply::{Alone, ApplyError, Form, Settled, apply, apply_alone, settle};
use crate::layer::root::Root;
use crate::progress::{Cancel, Cancelled};
use crate::snapshot::id::SnapshotId;
use crate::snapshot::store::{MakeLock, Snapshots, Staging};

/// Layers that are carried out at a time, at most. Each takes some three threads and five megabytes.
const MAX_WORKERS: usize = 4;
/// Layers among which the largest is first. One that is done holds two descriptors until those below
/// it are done, so nobody gets far ahead.
const WINDOW: usize = 64;

/// Completes a stack with the layers of an image.
pub(super) fn unpack(
    layers: &[Layer],
    source: &Source<'_>,
    stack: &mut Stack<'_>,
    cancel: &Cancel,
) -> Result<(), UnpackError> {
    let snapshots = stack.snapshots;
    let (jobs, mut outcomes) = plan(layers, stack, cancel)?;
    let cancels: Vec<Cancel> = jobs.iter().map(|job| job.cancel.clone()).collect();
    let workers = jobs.len().min(in_flight());
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let spawn = |_| {
            let worker = thread::Builder::new().name("layer".into());
            worker.spawn_scoped(scope, || work(&jobs, source, snapshots))
        };
        // Fewer threads than wanted do it too; where there is none the caller works alone.
        let workers: Vec<_> = (0..workers).map_while(|n| spawn(n).ok()).collect();
        if workers.is_empty() {
            work(&jobs, source, snapshots);
        }
        let mut layers = layers.iter().zip(&mut outcomes);
        let placed = layers.try_for_each(|(layer, outcome)| {
            let found = place(layer, outcome.take(), source, stack, cancel)?;
            stack.push(found)
        });
        if placed.is_err() {
            stop(&cancels);
        }
        for worker in workers {
            // What one that panicked left undone was done by the caller.
            let _ = worker.join();
        }
        placed
    })
}

fn stop(cancels: &[Cancel]) {
    cancels.iter().for_each(Cancel::cancel);
}

fn in_flight() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_WORKERS)
}

// What workers do.

/// A layer to be carried out alone.
struct Job<'a> {
    layer: &'a Layer,
    /// Its place in the image.
    index: usize,
    outcome: SyncSender<Outcome>,
    cancel: Cancel,
    /// Those of the layers above it.
    above: Vec<Cancel>,
}

enum Outcome {
    Alone {
        alone: Alone,
        staging: Staging,
        lock: MakeLock,
    },
    /// Somebody else makes it, or has made it, or it has to know its parents.
    Later(Option<MakeLock>),
    Failed(UnpackError),
}

type Waiting = Option<Receiver<Outcome>>;

/// What is missing, the largest first, and where the outcome of each layer will be.
fn plan<'a>(
    layers: &'a [Layer],
    stack: &Stack<'_>,
    cancel: &Cancel,
) -> Result<(VecDeque<Job<'a>>, Vec<Waiting>), UnpackError> {
    let mut jobs: Vec<Job<'a>> = Vec::new();
    let mut outcomes = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        // One of several equal ones is enough: the next may find it.
        let known = jobs.iter().any(|job| job.layer.diff_id == layer.diff_id);
        if known || stack.look(layer)?.is_some() {
            outcomes.push(None);
            continue;
        }
        let (sender, receiver) = sync_channel(1);
        outcomes.push(Some(receiver));
        jobs.push(Job {
            layer,
            index,
            outcome: sender,
            cancel: cancel.part(),
            above: Vec::new(),
        });
    }
    let mut above: Vec<Cancel> = Vec::new();
    for job in jobs.iter_mut().rev() {
        job.above.clone_from(&above);
        above.push(job.cancel.clone());
    }
    jobs.sort_by_key(|job| (job.index / WINDOW, Reverse(job.layer.blob.size())));
    Ok((jobs.into(), outcomes))
}

fn work(jobs: &Mutex<VecDeque<Job<'_>>>, source: &Source<'_>, snapshots: &Snapshots) {
    loop {
        let next = jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(job) = next else {
            return;
        };
        let outcome = match job.cancel.check() {
            Ok(()) => carry_out(&job, source, snapshots).unwrap_or_else(Outcome::Failed),
            Err(cancelled) => Outcome::Failed(cancelled.into()),
        };
        if matches!(outcome, Outcome::Failed(_)) {
            stop(&job.above);
        }
        // Nobody waits any more where a lower layer failed.
        let _ = job.outcome.send(outcome);
    }
}

fn carry_out(
    job: &Job<'_>,
    source: &Source<'_>,
    snapshots: &Snapshots,
) -> Result<Outcome, UnpackError> {
    let id = SnapshotId::of_chain(&job.layer.chain_id);
    let Some(lock) = snapshots.try_lock(&id).map_err(failed(&id))? else {
        return Ok(Outcome::Later(None));
    };
    // Somebody may have made it before we had the lock.
    if Stack::new(snapshots, source.options.ownership)
        .look(job.layer)?
        .is_some()
    {
        return Ok(Outcome::Later(Some(lock)));
    }
    let staging = snapshots.stage().map_err(failed(&id))?;
    let root = Root::open(&staging.fs()).map_err(failed(&id))?;
    let Source {
        options, progress, ..
    } = source;
    let done = source.read(job.layer, |tar| {
        apply_alone(tar, &root, options, *progress, &job.cancel)
    });
    match done {
        Ok(alone) => Ok(Outcome::Alone {
            alone,
            staging,
            lock,
        }),
        // It may be carried out when the parents are known, or that tells what is wrong.
        Err(UnpackError::Apply { .. }) if job.index > 0 => Ok(Outcome::Later(Some(lock))),
        Err(error) => Err(error),
    }
}

// What the caller does, in order.

/// The snapshot of a layer on top of the stack, made where it is missing.
fn place(
    layer: &Layer,
    outcome: Waiting,
    source: &Source<'_>,
    stack: &Stack<'_>,
    cancel: &Cancel,
) -> Result<Found, UnpackError> {
    let outcome = match outcome {
        // A worker that panicked answers nothing.
        Some(waiting) => waiting.recv().unwrap_or(Outcome::Later(None)),
        None => Outcome::Later(None),
    };
    match outcome {
        Outcome::Failed(error) => Err(error),
        Outcome::Later(lock) => make(layer, lock, source, stack, cancel),
        Outcome::Alone {
            alone,
            staging,
            lock,
        } => match keep(layer, &alone, staging, source, stack, cancel)? {
            Some(found) => {
                source.finished(layer, None);
                Ok(found)
            }
            None => make(layer, Some(lock), source, stack, cancel),
        },
    }
}

/// Gives a layer that was carried out alone its place; `None` where it has to be carried out again.
fn keep(
    layer: &Layer,
    alone: &Alone,
    staging: Staging,
    source: &Source<'_>,
    stack: &Stack<'_>,
    cancel: &Cancel,
) -> Result<Option<Found>, UnpackError> {
    let describes_root = alone.applied.describes_root;
    if alone.stands() {
        return stack.commit_alone(staging, layer, describes_root);
    }
    let id = SnapshotId::of_chain(&layer.chain_id);
    let root = Root::open(&staging.fs()).map_err(failed(&id))?;
    match settle(alone, &root, &stack.roots, source.options, cancel) {
        Ok(Settled::Done) => {
            let kept = stack.commit_above(staging, layer, describes_root);
            kept.map(Some)
        }
        Err(ApplyError::Cancelled(cancelled)) => Err(cancelled.into()),
        Ok(Settled::Again) | Err(_) => Ok(None),
    }
}

/// A layer's snapshot, found by now or carried out with its parents known.
fn make(
    layer: &Layer,
    lock: Option<MakeLock>,
    source: &Source<'_>,
    stack: &Stack<'_>,
    cancel: &Cancel,
) -> Result<Found, UnpackError> {
    let id = SnapshotId::of_chain(&layer.chain_id);
    let there = || {
        let found = stack.look(layer)?;
        if found.is_some() {
            source.finished(layer, Some("exists"));
        }
        Ok::<_, UnpackError>(found)
    };
    let _lock = match lock {
        Some(lock) => lock,
        None => {
            if let Some(found) = there()? {
                return Ok(found);
            }
            let lock = stack.snapshots.lock(&id, cancel).map_err(failed(&id))?;
            lock.ok_or(Cancelled)?
        }
    };
    if let Some(found) = there()? {
        return Ok(found);
    }
    let staging = stack.snapshots.stage().map_err(failed(&id))?;
    let root = Root::open(&staging.fs()).map_err(failed(&id))?;
    let parents = &stack.roots;
    let Source {
        options, progress, ..
    } = source;
    let applied = source.read(layer, |tar| {
        apply(
            tar,
            &root,
            Form::Overlay { parents },
            options,
            *progress,
            cancel,
        )
    })?;
    let found = stack.commit_above(staging, layer, applied.describes_root)?;
    source.finished(layer, None);
    Ok(found)
}
