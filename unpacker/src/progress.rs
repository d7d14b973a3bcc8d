//! How long work tells what it does and learns that it must stop.
//!
//! Libraries never print: they report [`Event`]s to whoever started the work. A [`Cancel`] is
//! checked between entries, blocks and steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What happens to one thing of known or unknown size (a layer, a manifest, a context).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Download,
    Upload,
    Unpack,
    Pack,
    /// Out of an archive, into the store.
    Load,
    /// Out of the store, into an archive.
    Save,
    /// Read to see whether it is what it should be.
    Check,
}

/// One piece of news. Sent over the control API as JSON, so variants are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// `id` is short and stable (a digest's first 12 hexadecimal digits); sizes are bytes.
    Transfer {
        id: String,
        phase: Phase,
        done: u64,
        total: Option<u64>,
    },
    /// The transfer `id` ended; `note` says how when it was not by doing the work ("exists").
    Finished {
        id: String,
        phase: Phase,
        note: Option<String>,
    },
    /// A whole line for people, without a trailing newline.
    Line { text: String },
    /// Output of a command, as it came, possibly in the middle of a line.
    Output {
        stderr: bool,
        text: String,
        /// The build's step that it is of: several may run at once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<usize>,
    },
    /// Something to be told that does not stop the work.
    Warning { text: String },
    /// A step of a build began or ended.
    Step(Step),
}

/// News of one step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number in the build, from 1; no two steps of a build share one.
    pub step: usize,
    /// How many there are.
    pub total: usize,
    /// The stage's name, or its number.
    pub stage: String,
    /// The instruction's first line.
    pub text: String,
    pub state: StepState,
    /// How long it took, when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// How far a step is. It begins, waits or is found in the cache, and then it is done or has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Began,
    /// Another one does the same at this moment, and its result will do.
    Waiting,
    /// Nothing had to be done.
    Cached,
    Done,
    Failed,
}

/// Takes events. Cheap, never blocks for long, never fails.
pub trait Progress: Send + Sync {
    fn event(&self, event: Event);
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event) {}
}

impl<F: Fn(Event) + Send + Sync> Progress for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// Set once, by whoever started the work; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    /// Whose part this one cancels.
    whole: Option<Arc<Cancel>>,
    /// When it is set by itself.
    moment: Option<Instant>,
}

/// The work was stopped by its [`Cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Cancel {
    pub fn cancel(&self) {
        self.own.store(true, Ordering::SeqCst);
    }

    pub fn is_cancelled(&self) -> bool {
        self.own.load(Ordering::SeqCst)
            || self.is_late()
            || (self.whole.as_ref()).is_some_and(|whole| whole.is_cancelled())
    }

    /// Whether its own moment has come: see [`Cancel::until`].
    pub fn is_late(&self) -> bool {
        (self.moment).is_some_and(|moment| Instant::now() >= moment)
    }

    /// For a part of the work: set with this one, or on its own.
    pub fn part(&self) -> Self {
        Self {
            own: Arc::default(),
            whole: Some(Arc::new(self.clone())),
            moment: None,
        }
    }

    /// As [`Cancel::part`], and set when `moment` has come, too.
    pub fn until(&self, moment: Instant) -> Self {
        Self {
            moment: Some(moment),
            ..self.part()
        }
    }

    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }
}
