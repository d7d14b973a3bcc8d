//! Collecting garbage on demand, as the daemon's own rounds and the management API ask for it.

use std::fmt;
use std::sync::OnceLock;

use super::Registry;
use crate::store::{Collection, Grace, StoreError, Swept, Turn};

type Ask = dyn Fn() -> Option<Turn> + Send + Sync;

/// Who is asked before files are unlinked.
#[derive(Default)]
pub(super) struct Turns(OnceLock<Box<Ask>>);

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Turns")
            .field(&self.0.get().is_some())
            .finish()
    }
}

impl Turns {
    /// Without anybody to ask it is always our turn.
    fn ask(&self) -> Option<Turn> {
        match self.0.get() {
            Some(ask) => ask(),
            None => Some(Box::new(())),
        }
    }
}

impl Registry {
    /// From now on [`Registry::collect`] asks `turn` before each few files that it unlinks: whoever
    /// shares the content folder in-process may rely on files that no row names yet. Said once; what
    /// is said later does not count.
    pub fn files_wait_for(&self, turn: impl Fn() -> Option<Turn> + Send + Sync + 'static) {
        // A second one would only be another way to ask the same.
        let _ = self.0.turns.0.set(Box::new(turn));
    }

    /// Removes what nobody needs while everybody goes on; refused while another collection runs.
    pub fn collect(&self) -> Result<Swept, StoreError> {
        let swept = self.store().collect_by(&Collection {
            grace: Grace::default(),
            keep: &|_| false,
            turn: &|| self.0.turns.ask(),
        });
        // Also where the collection failed: abandoned uploads fill the disk as well.
        let sessions = self.expire_uploads();
        let now = (self.store().options().clock)();
        let downloads = self.store().blobs().expire_partials(now);
        let mut swept = swept?;
        swept.sessions = sessions? + downloads.map_err(StoreError::from)?;
        Ok(swept)
    }

    /// What [`Registry::collect`] would remove now, besides abandoned uploads. Changes nothing.
    pub fn collectable(&self) -> Result<Swept, StoreError> {
        self.store().collectable(Grace::default())
    }
}
