//! What a build tells of its steps: when each begins and ends, and whose output is whose.

use std::time::Instant;

use unpacker::progress::{Event, Progress, Step as News, StepState};

use crate::plan::Step;

/// The line that people and logs get of a step; `None` for its end.
pub fn line(news: &News) -> Option<String> {
    let note = match news.state {
        StepState::Began => "",
        StepState::Waiting => " (waiting: it runs already)",
        StepState::Cached => " (cached)",
        StepState::Done | StepState::Failed => return None,
    };
    let News {
        step, total, text, ..
    } = news;
    Some(format!("[Builder] Step {step}/{total}: {text}{note}"))
}

/// Tells of one step.
#[derive(Clone, Copy)]
pub(crate) struct Teller<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) total: usize,
}

impl Teller<'_> {
    pub(crate) fn tell(&self, step: &Step, state: StepState) {
        self.event(step, state, None);
    }

    /// Tells how a step that was begun at `began` ended.
    pub(crate) fn end(&self, step: &Step, began: Instant, succeeded: bool) {
        let state = match succeeded {
            true => StepState::Done,
            false => StepState::Failed,
        };
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.event(step, state, Some(milliseconds));
    }

    fn event(&self, step: &Step, state: StepState, milliseconds: Option<u64>) {
        self.progress.event(Event::Step(News {
            step: step.number,
            total: self.total,
            stage: step.place.stage.clone(),
            text: step.place.instruction.clone(),
            state,
            milliseconds,
        }));
    }
}
