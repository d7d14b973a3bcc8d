//! The workers of one build: threads that take turns until the plan is done or something fails.
//!
//! The first failure is the build's. It cancels the rest: commands that run are killed, and what they
//! end with is not told.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use unpacker::progress::Cancel;

use crate::assemble::Finished;
use crate::error::BuildError;
use crate::plan::Plan;

use super::schedule::{Next, Schedule, Turn};

/// Results of whole stages, by their numbers in the Dockerfile; each is set once.
pub(super) type Stages = BTreeMap<usize, OnceLock<Finished>>;

/// What carries out a turn on what the stage is so far.
pub(super) type Perform<'p> = &'p (dyn Fn(Turn, &mut Finished) -> Result<(), BuildError> + Sync);

/// Where the workers meet.
struct Board<'b> {
    plan: &'b Plan,
    stages: &'b Stages,
    stop: &'b Cancel,
    inside: Mutex<Inside>,
    changed: Condvar,
}

struct Inside {
    schedule: Schedule,
    /// The stages so far, by their places in the plan.
    so_far: Vec<Finished>,
    failed: Option<BuildError>,
    /// A worker died: its turn never ends.
    abandoned: bool,
}

/// Carries out a plan with so many workers at most. `stop` is set where one of them fails.
pub(super) fn carry_out(
    plan: &Plan,
    stages: &Stages,
    workers: NonZeroUsize,
    stop: &Cancel,
    perform: Perform<'_>,
) -> Result<(), BuildError> {
    let board = Board {
        plan,
        stages,
        stop,
        inside: Mutex::new(Inside {
            schedule: Schedule::of(plan),
            so_far: vec![Finished::default(); plan.stages.len()],
            failed: None,
            abandoned: false,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        // This thread is the first of them.
        for _ in 1..workers.get().min(plan.stages.len()) {
            let worker = std::thread::Builder::new().name("build-stage".into());
            // With fewer threads the build is slower, and whole.
            if worker.spawn_scoped(scope, || board.work(perform)).is_err() {
                break;
            }
        }
        board.work(perform);
    });
    match board.inside().failed.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl Board<'_> {
    fn work(&self, perform: Perform<'_>) {
        while let Some((turn, mut finished)) = self.take() {
            let mut ends = Ends {
                board: self,
                well: false,
            };
            let result = perform(turn, &mut finished);
            self.ended(turn, finished, result);
            ends.well = true;
        }
    }

    fn take(&self) -> Option<(Turn, Finished)> {
        let mut inside = self.inside();
        loop {
            if inside.failed.is_some() || inside.abandoned {
                return None;
            }
            match inside.schedule.take() {
                Next::Turn(turn) => {
                    let so_far = std::mem::take(&mut inside.so_far[turn.stage]);
                    return Some((turn, so_far));
                }
                Next::Done => return None,
                Next::Wait => {
                    let waited = self.changed.wait(inside);
                    inside = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn ended(&self, turn: Turn, finished: Finished, result: Result<(), BuildError>) {
        let mut inside = self.inside();
        match result {
            Err(error) => {
                inside.failed.get_or_insert(error);
                self.stop.cancel();
            }
            Ok(()) => {
                if inside.schedule.ended(turn) {
                    self.keep(turn, finished);
                } else {
                    inside.so_far[turn.stage] = finished;
                }
            }
        }
        drop(inside);
        self.changed.notify_all();
    }

    fn keep(&self, turn: Turn, finished: Finished) {
        let index = self.plan.stages[turn.stage].index;
        if let Some(place) = self.stages.get(&index) {
            // A stage is done once.
            let _ = place.set(finished);
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets nobody wait for a worker that panicked.
struct Ends<'b> {
    board: &'b Board<'b>,
    well: bool,
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        if !self.well {
            self.board.inside().abandoned = true;
            self.board.stop.cancel();
            self.board.changed.notify_all();
        }
    }
}
