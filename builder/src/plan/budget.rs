//! What a plan may come to.
//!
//! A few lines can ask for terabytes: a variable is in the environment of every command behind it and
//! in what the history says of it, and a stage begins with all that an earlier one has. Whatever the
//! plan keeps is counted, and what goes beyond is refused at the instruction that asks for it.

use std::cell::Cell;

use crate::dockerfile::expand::Env;

use super::PlanError;

/// Of all texts together. Dockerfiles of people come to some hundred KiB.
const MAX_BYTES: usize = 64 << 20;
/// ENVs and ARGs of one stage. They are looked up one after the other, and no program takes as many.
pub(super) const MAX_VARIABLES: usize = 10_000;
/// Of a working folder and of a user. Each goes with every step behind it; Linux takes no longer paths.
const MAX_SETTING: usize = 4096;
/// What a step takes beside its texts, and what a mount of it does.
const STEP: usize = 256;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<usize>,
    is_spent: Cell<bool>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: Cell::new(MAX_BYTES),
            is_spent: Cell::new(false),
        }
    }
}

impl Budget {
    pub(super) fn take(&self, bytes: usize) {
        match self.left.get().checked_sub(bytes) {
            Some(left) => self.left.set(left),
            None => self.is_spent.set(true),
        }
    }

    pub(super) fn take_step(&self, texts: usize) {
        self.take(STEP.saturating_add(texts));
    }

    /// Whether all that was taken was there.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        match self.is_spent.get() {
            true => Err(PlanError::TooLarge { limit: MAX_BYTES }),
            false => Ok(()),
        }
    }

    pub(super) fn spend(&self, bytes: usize) -> Result<(), PlanError> {
        self.take(bytes);
        self.check()
    }
}

/// A working folder or a user, as they are set.
pub(super) fn setting(what: &'static str, text: String) -> Result<String, PlanError> {
    let limit = MAX_SETTING;
    match text.len() > limit {
        true => Err(PlanError::TooLong { what, limit }),
        false => Ok(text),
    }
}

/// Variables whose values are counted as they are read: what an expansion adds to a file comes from them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charged<'a, E> {
    pub(super) env: E,
    pub(super) budget: &'a Budget,
}

impl<E: Env> Env for Charged<'_, E> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.env.get(name)?;
        self.budget.take(value.len());
        // What is expanded is thrown away.
        Some(if self.budget.is_spent.get() {
            ""
        } else {
            value
        })
    }
}
