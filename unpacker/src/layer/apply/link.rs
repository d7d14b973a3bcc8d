//! Hard links: to files of this layer, to files of lower layers, and to files that come later.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::{ApplyError, Layer, MAX_PENDING, creating};
use crate::layer::tree::TreeError;

/// Rounds over links whose target is reached through another such link; real layers need one.
const MAX_ROUNDS: usize = 16;

impl Layer<'_> {
    /// Whether the target was there.
    pub(super) fn link(&mut self, path: &Path, target: &Path) -> Result<bool, ApplyError> {
        let fail = |error: TreeError| creating(path, error);
        let Some(source) = self.target_of(target).map_err(fail)? else {
            return Ok(false);
        };
        let (folder, name) = self.tree.place(path).map_err(fail)?;
        let canonical = folder.path.join(&name);
        match self.make_upper(&source).map_err(fail)? {
            Some(true) => {}
            Some(false) => return Err(link_to_directory(path, target)),
            None => return Ok(false),
        }
        self.touch(&canonical).map_err(fail)?;
        if canonical == source {
            return Ok(true);
        }
        self.clear(&folder, &name).map_err(fail)?;
        // Only now, because making room may have removed a directory above the target.
        let from = self.tree.above(&source).map_err(fail)?;
        let from = from.ok_or(io::Error::from(io::ErrorKind::NotFound));
        let linked = from.and_then(|from| {
            let existing = source.file_name().unwrap_or_default();
            let flags = rustix::fs::AtFlags::empty();
            let (from, to) = (from.upper_fd()?, folder.as_fd());
            Ok(rustix::fs::linkat(from, existing, to, &name, flags)?)
        });
        linked.map_err(|error| creating(path, error))?;
        Ok(true)
    }

    /// Sees to it that a link's target is in this layer. `None` where it is nowhere, false where it
    /// is a directory.
    fn make_upper(&mut self, source: &Path) -> Result<Option<bool>, TreeError> {
        let name = source.file_name().unwrap_or_default();
        let Some(level) = self.tree.above(source)? else {
            return Ok(None);
        };
        if let Some(found) = level.upper(name)? {
            return Ok(Some(!found.is_dir()));
        }
        let below = match self.tree.is_hidden(source) {
            true => None,
            false => level.below(name)?,
        };
        match below {
            None => {
                self.tree.miss(&level, source)?;
                Ok(None)
            }
            Some((_, found)) if found.is_dir() => Ok(Some(false)),
            Some(_) => Ok(self.tree.copy_up(source)?.then_some(true)),
        }
    }

    fn target_of(&mut self, target: &Path) -> Result<Option<PathBuf>, TreeError> {
        let folder = target.parent().unwrap_or(Path::new(""));
        let name = target.file_name().unwrap_or_default();
        let Some(folder) = self.tree.find_folder(folder)? else {
            return Ok(None);
        };
        match self.tree.is_guessed(&folder)? {
            true => Ok(None),
            false => Ok(Some(folder.join(name))),
        }
    }

    /// Keeps a link until its target is there.
    pub(super) fn postpone(&mut self, path: PathBuf, target: PathBuf) -> Result<(), ApplyError> {
        if self.pending.len() >= MAX_PENDING {
            return Err(ApplyError::TooManyPending);
        }
        let budget = &mut self.tree.budget;
        let kept = budget.remember(&path);
        kept.and_then(|()| budget.remember(&target))
            .map_err(|error| creating(&path, error))?;
        self.pending.push((path, target));
        Ok(())
    }

    /// Links whose target came later; a target may be such a link itself.
    pub(super) fn link_pending(&mut self) -> Result<(), ApplyError> {
        for _ in 0..MAX_ROUNDS {
            let before = self.pending.len();
            self.link_round()?;
            if self.pending.len() == before {
                break;
            }
        }
        match self.pending.is_empty() {
            true => Ok(()),
            false => {
                let (path, target) = self.pending.swap_remove(0);
                Err(ApplyError::NoTarget { path, target })
            }
        }
    }

    /// Tries every link once, and after each that is made those that wait for its name.
    fn link_round(&mut self) -> Result<(), ApplyError> {
        let links = std::mem::take(&mut self.pending);
        let mut waiting: HashMap<&Path, Vec<usize>> = HashMap::new();
        for (index, (_, target)) in links.iter().enumerate() {
            waiting.entry(target).or_default().push(index);
        }
        let mut done = vec![false; links.len()];
        for first in 0..links.len() {
            let mut ready = vec![first];
            while let Some(index) = ready.pop() {
                let Some((path, target)) = links.get(index).filter(|_| !done[index]) else {
                    continue;
                };
                self.tree.budget.check()?;
                if self.link(path, target)? {
                    done[index] = true;
                    ready.extend(waiting.remove(path.as_path()).unwrap_or_default());
                }
            }
        }
        drop(waiting);
        let left = links.into_iter().zip(done).filter(|(_, done)| !done);
        self.pending = left.map(|(link, _)| link).collect();
        Ok(())
    }
}

fn link_to_directory(path: &Path, target: &Path) -> ApplyError {
    ApplyError::LinkToDirectory {
        path: path.to_owned(),
        target: target.to_owned(),
    }
}
