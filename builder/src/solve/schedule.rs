//! Which step may run next: the plan's stages as a graph, worked on by several at once.
//!
//! A stage's steps run one after the other. A step waits for the stages that it reads from, not its
//! whole stage: what stands before a `COPY --from` runs while that stage is still being built. What is
//! ready is taken in the order of the file, so a single worker does what a reader expects. References
//! only lead to earlier stages, so there is always something ready, running, or nothing left. Pure.

use std::collections::BTreeSet;

use crate::plan::{Base, Origin, Plan, Stage};

use super::origins;

/// What a worker is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Turn(Turn),
    /// Others have to come to an end first.
    Wait,
    /// Nothing is left that has not begun.
    Done,
}

/// A piece of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// The stage's place in the plan.
    pub(super) stage: usize,
    /// The step in that stage; `None` for what the stage starts from.
    pub(super) step: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Schedule {
    stages: Vec<Queued>,
}

#[derive(Debug)]
struct Queued {
    /// The places in the plan of the stages that each turn waits for.
    needs: Vec<BTreeSet<usize>>,
    /// Turns that have ended.
    ended: usize,
    running: bool,
}

impl Queued {
    fn is_done(&self) -> bool {
        self.ended == self.needs.len()
    }
}

impl Schedule {
    pub(super) fn of(plan: &Plan) -> Self {
        let place = |index: &usize| plan.stages.iter().position(|stage| stage.index == *index);
        let places = |indexes: Vec<usize>| indexes.iter().filter_map(place).collect();
        let stages = plan.stages.iter().map(|stage| Queued {
            needs: needs(stage).into_iter().map(places).collect(),
            ended: 0,
            running: false,
        });
        Self {
            stages: stages.collect(),
        }
    }

    /// Takes a piece of work; it is running until [`Schedule::ended`].
    pub(super) fn take(&mut self) -> Next {
        if self.stages.iter().all(Queued::is_done) {
            return Next::Done;
        }
        let ready = |stage: &Queued| {
            let needs = stage.needs.get(stage.ended);
            let met = |needs: &BTreeSet<usize>| {
                let done = |place: &usize| self.stages.get(*place).is_some_and(Queued::is_done);
                needs.iter().all(done)
            };
            !stage.running && needs.is_some_and(met)
        };
        let Some(place) = self.stages.iter().position(ready) else {
            return Next::Wait;
        };
        let stage = &mut self.stages[place];
        stage.running = true;
        Next::Turn(Turn {
            stage: place,
            step: stage.ended.checked_sub(1),
        })
    }

    /// Answers whether the turn was the stage's last.
    pub(super) fn ended(&mut self, turn: Turn) -> bool {
        let stage = &mut self.stages[turn.stage];
        stage.running = false;
        stage.ended += 1;
        stage.is_done()
    }
}

/// The stages, by their numbers in the Dockerfile, that each turn of a stage reads.
fn needs(stage: &Stage) -> Vec<Vec<usize>> {
    let base = match &stage.base {
        Base::Stage(index) => vec![*index],
        Base::Scratch | Base::Image(..) | Base::Folder(_) => Vec::new(),
    };
    let of_step = |step| {
        let stages = origins(step).into_iter().filter_map(|origin| match origin {
            Origin::Stage(index) => Some(*index),
            _ => None,
        });
        stages.collect()
    };
    std::iter::once(base)
        .chain(stage.steps.iter().map(of_step))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stages by what each of their turns waits for.
    fn schedule(stages: &[&[&[usize]]]) -> Schedule {
        let stages = stages.iter().map(|turns| Queued {
            needs: turns.iter().map(|t| t.iter().copied().collect()).collect(),
            ended: 0,
            running: false,
        });
        Schedule {
            stages: stages.collect(),
        }
    }

    fn turn(schedule: &mut Schedule) -> (usize, usize, Turn) {
        match schedule.take() {
            Next::Turn(turn) => (turn.stage, turn.step.map_or(0, |step| step + 1), turn),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_worker_goes_by_the_file() {
        let mut plan = schedule(&[&[&[], &[]], &[&[], &[]], &[&[0], &[1]]]);
        let mut order = Vec::new();
        loop {
            match plan.take() {
                Next::Turn(turn) => {
                    order.push((turn.stage, turn.step));
                    plan.ended(turn);
                }
                Next::Done => break,
                Next::Wait => panic!("one worker never waits"),
            }
        }
        let expected = [
            (0, None),
            (0, Some(0)),
            (1, None),
            (1, Some(0)),
            (2, None),
            (2, Some(0)),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_step_waits_for_what_it_reads_and_not_its_stage() {
        // The second stage copies from the first in its last step only.
        let mut plan = schedule(&[&[&[], &[]], &[&[], &[], &[0]]]);
        let (stage, at, first) = turn(&mut plan);
        assert_eq!((stage, at), (0, 0));
        for expected in 0..2 {
            let (stage, at, other) = turn(&mut plan);
            assert_eq!((stage, at), (1, expected));
            assert!(!plan.ended(other));
        }
        assert_eq!(plan.take(), Next::Wait, "the first stage is not done");
        plan.ended(first);
        let (stage, at, last) = turn(&mut plan);
        assert_eq!((stage, at), (0, 1));
        assert_eq!(plan.take(), Next::Wait);
        assert!(plan.ended(last), "the stage is done");
        let (stage, at, copy) = turn(&mut plan);
        assert_eq!((stage, at), (1, 2));
        assert_eq!(plan.take(), Next::Wait, "what runs may yet fail");
        assert!(plan.ended(copy));
        assert_eq!(plan.take(), Next::Done);
    }
}
