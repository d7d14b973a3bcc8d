//! Layers are packed while later steps run: when the last step ends, most of the image is blobs already.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use unpacker::snapshot::id::SnapshotId;

use crate::assemble::layer;
use crate::cache::layers::Layers;
use crate::cache::source::Extent;
use crate::plan::{Base, Plan};
use crate::request::BuildRequest;

use super::Solver;

/// Snapshots that wait to be packed.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The numbers of the stages whose layers are wanted.
    stages: BTreeSet<usize>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<SnapshotId>,
    closed: bool,
}

/// Ends the queue, also where what fills it panics.
struct Closing<'a>(&'a Ahead);

impl Ahead {
    /// Of the image the layers of the last stage are wanted, and of those that it stands on; of a
    /// whole cache those of all stages.
    pub(super) fn of(plan: &Plan, request: &BuildRequest) -> Self {
        let every = request.cache_exports.contains(&Extent::Max);
        let stages = match every {
            true => plan.stages.iter().map(|stage| stage.index).collect(),
            false => chain(plan),
        };
        Self {
            stages,
            queue: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Has a step's result packed, if it will be a layer of something that is sent.
    pub(super) fn add(&self, stage: usize, snapshot: &SnapshotId) {
        if self.stages.contains(&stage) {
            self.queue().waiting.push_back(snapshot.clone());
            self.changed.notify_one();
        }
    }

    /// The next one, waited for; `None` when no more come.
    fn next(&self) -> Option<SnapshotId> {
        let mut queue = self.queue();
        loop {
            if let Some(snapshot) = queue.waiting.pop_front() {
                return Some(snapshot);
            }
            if queue.closed {
                return None;
            }
            let waited = self.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.changed.notify_all();
    }
}

/// The last stage and those that it begins with.
fn chain(plan: &Plan) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut next = plan.stages.last();
    while let Some(stage) = next {
        found.insert(stage.index);
        next = match stage.base {
            Base::Stage(earlier) => plan.stages.iter().find(|stage| stage.index == earlier),
            Base::Scratch | Base::Image(..) | Base::Folder(_) => None,
        };
    }
    found
}

impl Solver<'_> {
    /// Carries out `work`, which fills the queue, and packs beside it. Returns when both have ended; what
    /// waits to be packed is left where `work` fails.
    pub(super) fn packing_ahead<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        thread::scope(|scope| {
            let packer = thread::Builder::new().name("build-pack".into());
            // Without the thread everything is packed at the end.
            let _ = packer.spawn_scoped(scope, || self.pack_ahead());
            let _closing = Closing(&self.ahead);
            let done = work();
            if done.is_err() {
                self.env.cancel.cancel();
            }
            done
        })
    }

    /// What cannot be packed now is tried again at the end, which tells why not.
    fn pack_ahead(&self) {
        let packing = self.request.packing();
        let layers = Layers::new(self.env.cache, packing, self.request.source_date_epoch);
        while let Some(snapshot) = self.ahead.next() {
            if self.env.cancel.check().is_ok() {
                let _ = layer(self.env, self.request, &layers, &snapshot);
            }
        }
    }
}
