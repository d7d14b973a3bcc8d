//! Failures of single items that must not end the work on all the others.

use std::fmt::Debug;

use super::StoreError;

/// After so many it is not the items: the index or the disk fails, and the rest of the work would
/// only fill the log.
const MANY: usize = 64;

/// Passes over what fails; the first error is answered at the end.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    first: Option<StoreError>,
    count: usize,
}

impl Failures {
    /// What was done, or nothing where it failed: then the log says with what.
    pub(crate) fn pass<T>(
        &mut self,
        what: &dyn Debug,
        outcome: Result<T, impl Into<StoreError>>,
    ) -> Option<T> {
        match outcome {
            Ok(done) => Some(done),
            Err(error) => {
                let error = error.into();
                tracing::warn!(?what, ?error, "passed over while tidying up");
                self.count += 1;
                self.first.get_or_insert(error);
                None
            }
        }
    }

    pub(crate) fn are_many(&self) -> bool {
        self.count >= MANY
    }

    /// What failed first, of this and of `earlier` work.
    pub(crate) fn after(self, earlier: Option<StoreError>) -> Option<StoreError> {
        earlier.or(self.first)
    }

    /// The end of the work.
    pub(crate) fn end<T>(self, done: T) -> Result<T, StoreError> {
        match self.first {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }
}
