//! What a layer that is carried out without its parents takes for granted about them.
//!
//! Where nothing of this layer answers, a lower one might: the tree then goes on as if lower layers
//! had nothing there, and notes the path. Whoever knows the parents later looks at what was noted:
//! most of it holds or is mended with little, and where it does not the layer is carried out again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::{Level, Tree, TreeError};

/// Canonical paths, as far as this layer says what is canonical.
#[derive(Debug, Default)]
pub(crate) struct Leans {
    /// Directories that were made on the way. True while nothing but that says what they are like.
    pub(crate) implied: BTreeMap<PathBuf, bool>,
    /// What whiteouts and markers were taken to lie in: directories or nothing, but no link.
    pub(crate) passed: BTreeSet<PathBuf>,
    /// Where hard links found nothing.
    pub(crate) absent: BTreeSet<PathBuf>,
    /// Whiteouts of what this layer has not itself, and directories whose content it hides.
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) opaque: Vec<PathBuf>,
}

impl Leans {
    /// Whether the layer is the same above any parents.
    pub(crate) fn is_empty(&self) -> bool {
        self.implied.is_empty()
            && self.passed.is_empty()
            && self.absent.is_empty()
            && self.hidden.is_empty()
            && self.opaque.is_empty()
    }
}

/// What is noted. With known parents none of it happens.
impl Tree<'_> {
    pub(super) fn imply(&mut self, path: &Path) -> Result<(), TreeError> {
        self.note(path, |leans, path| {
            leans.implied.insert(path, true);
        })
    }

    pub(super) fn pass(&mut self, path: &Path) -> Result<(), TreeError> {
        self.note(path, |leans, path| {
            leans.passed.insert(path);
        })
    }

    /// A whiteout that only parents give a meaning.
    pub(crate) fn leave_whiteout(&mut self, path: &Path) -> Result<(), TreeError> {
        self.note(path, |leans, path| leans.hidden.push(path))
    }

    /// An opaque directory that only parents may have.
    pub(crate) fn leave_opaque(&mut self, path: &Path) -> Result<(), TreeError> {
        self.note(path, |leans, path| leans.opaque.push(path))
    }

    /// A hard link's target that is not in this layer.
    pub(crate) fn miss(&mut self, level: &Level, path: &Path) -> Result<(), TreeError> {
        match level.is_open() && !self.is_hidden(path) {
            true => self.note(path, |leans, path| {
                leans.absent.insert(path);
            }),
            false => Ok(()),
        }
    }

    /// Whether a directory is only taken to be there, or not; then that was noted.
    pub(crate) fn is_guessed(&mut self, folder: &Path) -> Result<bool, TreeError> {
        if self.leans.is_none() {
            return Ok(false);
        }
        let guessed = match self.level(folder)? {
            Some(level) => level.upper.is_none(),
            None => false,
        };
        if guessed {
            self.note(folder, |leans, path| {
                leans.absent.insert(path);
            })?;
        }
        Ok(guessed)
    }

    fn note(
        &mut self,
        path: &Path,
        add: impl FnOnce(&mut Leans, PathBuf),
    ) -> Result<(), TreeError> {
        if let Some(leans) = &mut self.leans {
            self.budget.remember(path)?;
            add(leans, path.to_owned());
        }
        Ok(())
    }

    /// An entry says what a directory is like.
    pub(crate) fn describe(&mut self, path: &Path) {
        let leans = self.leans.as_mut();
        if let Some(still) = leans.and_then(|leans| leans.implied.get_mut(path)) {
            *still = false;
        }
    }

    /// What was implied there is gone.
    pub(super) fn forget_implied(&mut self, path: &Path) {
        let Some(leans) = &mut self.leans else {
            return;
        };
        let below = (Bound::Included(path), Bound::Unbounded);
        (leans.implied.range_mut::<Path, _>(below))
            .take_while(|(known, _)| known.starts_with(path))
            .for_each(|(_, still)| *still = false);
    }

    pub(crate) fn take_leans(&mut self) -> Leans {
        self.leans.take().unwrap_or_default()
    }
}
