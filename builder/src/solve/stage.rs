//! A turn of a worker: what a stage starts from, or its next step.

use std::time::Instant;

use unpacker::progress::StepState;
use unpacker::snapshot::id::SnapshotId;

use crate::assemble::{Finished, Made};
use crate::cache::steps::{Outcome, Standing};
use crate::error::BuildError;
use crate::plan::{Base, Plan, Stage, Step};
use crate::report::Teller;

use super::schedule::Turn;
use super::{Solver, image_key};

impl Solver<'_> {
    /// `finished` is the stage so far.
    pub(super) fn turn(
        &self,
        plan: &Plan,
        turn: Turn,
        finished: &mut Finished,
    ) -> Result<(), BuildError> {
        let stage = &plan.stages[turn.stage];
        let Some(step) = turn.step.and_then(|number| stage.steps.get(number)) else {
            *finished = self.start(stage)?;
            return Ok(());
        };
        self.env.cancel.check()?;
        let began = Instant::now();
        let performed = self.perform(step, finished);
        self.teller().end(step, began, performed.is_ok());
        let performed = performed?;
        let outcome = performed
            .as_ref()
            .map(|performed| performed.outcome.clone());
        self.record(stage, step, outcome, finished);
        if let Some(performed) = performed.filter(|_| self.request.keeps_caches()) {
            self.results.note(step, &performed, finished);
        }
        Ok(())
    }

    fn start(&self, stage: &Stage) -> Result<Finished, BuildError> {
        let found = match &stage.base {
            Base::Scratch | Base::Folder(_) => Some(Finished::default()),
            Base::Stage(earlier) => self.done.get(earlier).and_then(|done| done.get().cloned()),
            Base::Image(reference, platform) => {
                let base = self.images.get(&image_key(reference, platform));
                base.map(|base| Finished {
                    base: base.image.layers.clone(),
                    stack: base.stack.clone(),
                    created: base.image.config.created.clone(),
                    ..Finished::default()
                })
            }
        };
        found.ok_or_else(|| {
            let source = std::io::ErrorKind::NotFound.into();
            BuildError::store("find the base of a stage")(source)
        })
    }

    fn record(
        &self,
        stage: &Stage,
        step: &Step,
        outcome: Option<Outcome>,
        finished: &mut Finished,
    ) {
        let mut snapshot = None;
        if let Some(outcome) = outcome {
            finished.names.extend(outcome.name);
            finished.created = Some(outcome.created);
            snapshot = outcome.snapshot;
            match outcome.standing {
                Standing::Free | Standing::On(_) => {
                    finished.stack.extend(snapshot.clone());
                    if let Some(snapshot) = &snapshot {
                        self.ahead.add(stage.index, snapshot);
                    }
                }
                Standing::Whole { stack, layers } => stand_on(stack, layers, finished),
            }
        }
        if let Some(created_by) = &step.created_by {
            finished.made.push(Made {
                created_by: created_by.clone(),
                created: self.epoch().or_else(|| finished.created.clone()),
                snapshot,
            });
        }
    }

    fn teller(&self) -> Teller<'_> {
        Teller {
            progress: self.env.progress,
            total: self.total,
        }
    }

    pub(super) fn say(&self, step: &Step, state: StepState) {
        self.teller().tell(step, state);
    }
}

/// A result that was made elsewhere brings what it stands on: the layers of earlier steps are those
/// that it was made on, not other runs of the same commands.
fn stand_on(stack: Vec<SnapshotId>, layers: Vec<SnapshotId>, finished: &mut Finished) {
    let made = finished.made.iter_mut();
    let made = made.filter(|made| made.snapshot.is_some());
    for (made, layer) in made.zip(layers) {
        made.snapshot = Some(layer);
    }
    finished.stack = stack;
    finished.foreign = true;
}
