//! What one layer may cost: inodes, bytes copied out of lower layers, and names kept in memory. Also
//! where work on the tree notices that it was cancelled.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::progress::{Cancel, Cancelled};

/// Bytes of names that are kept until the layer ends. Two million names of an ordinary length.
pub(crate) const MAX_REMEMBERED: u64 = 256 << 20;
/// What a name costs besides its bytes.
const OVERHEAD: u64 = 64;

/// The tree was not changed, or not found out about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("more than {limit} entries")]
    Entries { limit: u64 },
    #[error("more than {limit} bytes copied")]
    Copied { limit: u64 },
    #[error("too many names to remember")]
    Remembered,
    #[error("too many parts")]
    TooDeep,
}

impl From<Errno> for TreeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Counts down; what is charged is given back only for names that are forgotten.
pub(crate) struct Budget<'a> {
    cancel: &'a Cancel,
    max_entries: u64,
    max_copied: u64,
    entries: u64,
    copied: u64,
    remembered: u64,
}

impl<'a> Budget<'a> {
    /// `max_copied` is for bytes copied out of lower layers, beside those of the archive.
    pub(crate) fn new(max_entries: u64, max_copied: u64, cancel: &'a Cancel) -> Self {
        Self {
            cancel,
            max_entries,
            max_copied,
            entries: 0,
            copied: 0,
            remembered: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Cancelled> {
        self.cancel.check()
    }

    /// An entry of the archive, or something that is made because an entry needs it.
    pub(crate) fn entry(&mut self) -> Result<(), TreeError> {
        self.cancel.check()?;
        self.entries += 1;
        match self.entries > self.max_entries {
            true => Err(TreeError::Entries {
                limit: self.max_entries,
            }),
            false => Ok(()),
        }
    }

    pub(crate) fn copy(&mut self, bytes: u64) -> Result<(), TreeError> {
        self.cancel.check()?;
        self.copied = self.copied.saturating_add(bytes);
        match self.copied > self.max_copied {
            true => Err(TreeError::Copied {
                limit: self.max_copied,
            }),
            false => Ok(()),
        }
    }

    pub(crate) fn remember(&mut self, path: &Path) -> Result<(), TreeError> {
        self.remember_bytes(path.as_os_str().len() as u64 + OVERHEAD)
    }

    /// A name that was remembered is not any more.
    pub(crate) fn forget(&mut self, path: &Path) {
        let bytes = path.as_os_str().len() as u64 + OVERHEAD;
        self.remembered = self.remembered.saturating_sub(bytes);
    }

    pub(crate) fn remember_bytes(&mut self, bytes: u64) -> Result<(), TreeError> {
        self.remembered += bytes;
        match self.remembered > MAX_REMEMBERED {
            true => Err(TreeError::Remembered),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_use_up_their_budget() {
        let cancel = Cancel::default();
        let mut budget = Budget::new(1, 1, &cancel);
        let long = "x/".repeat(2000);
        let kept = (0..100_000).take_while(|_| budget.remember(Path::new(&long)).is_ok());
        assert_eq!(kept.count() as u64, MAX_REMEMBERED / (4000 + OVERHEAD));
        budget.forget(Path::new(&long));
        budget.forget(Path::new(&long));
        assert!(budget.remember(Path::new(&long)).is_ok());
        assert!(budget.remember(Path::new(&long)).is_err());
        cancel.cancel();
        assert!(matches!(budget.entry(), Err(TreeError::Cancelled(_))));
    }
}
