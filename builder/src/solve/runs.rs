//! Which runs of its stages a build reads from.
//!
//! What another host has for a definition may come from another run of a stage than the one that is here.
//! Each is as good as the other, but an image with files of both may have a program of one and its
//! library of the other. So a build reads either what its own runs made, or what other hosts made of
//! theirs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::BuildError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Nothing,
    /// Of stages that were carried out here.
    Own,
    /// Results that another host made of its runs of such stages.
    Others,
}

#[derive(Debug)]
pub(super) struct Runs(Mutex<Reads>);

impl Runs {
    /// With `own`, nothing is taken that others made of their runs.
    pub(super) fn new(own: bool) -> Self {
        let reads = if own { Reads::Own } else { Reads::Nothing };
        Self(Mutex::new(reads))
    }

    /// Files of a run of this host's are read. An error where those of others were: the build begins
    /// again.
    pub(super) fn read_own(&self) -> Result<(), BuildError> {
        match self.set(Reads::Own) {
            true => Ok(()),
            false => Err(BuildError::TwoRuns),
        }
    }

    /// A result that was made of another host's run, where it may be taken and is found.
    pub(super) fn take_others<T>(&self, find: impl FnOnce() -> Option<T>) -> Option<T> {
        if *self.now() == Reads::Own {
            return None;
        }
        // It may take its time, and somebody else may read meanwhile.
        find().filter(|_| self.set(Reads::Others))
    }

    fn set(&self, reads: Reads) -> bool {
        let mut now = self.now();
        if *now == Reads::Nothing {
            *now = reads;
        }
        *now == reads
    }

    fn now(&self) -> MutexGuard<'_, Reads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let runs = Runs::new(false);
        assert_eq!(runs.take_others(|| None::<u8>), None);
        for _ in 0..2 {
            assert_eq!(runs.take_others(|| Some(1)), Some(1));
        }
        assert!(matches!(runs.read_own(), Err(BuildError::TwoRuns)));
        // Others were not there.
        let nothing = Runs::new(false);
        assert_eq!(nothing.take_others(|| None::<u8>), None);
        for runs in [Runs::new(true), Runs::new(false), nothing] {
            runs.read_own().unwrap();
            assert_eq!(runs.take_others(|| Some(1)), None);
            runs.read_own().unwrap();
        }
        // Somebody reads while it is looked for.
        let runs = Runs::new(false);
        let meanwhile = || runs.read_own().ok();
        assert_eq!(runs.take_others(meanwhile), None);
    }
}
