//! Following a name through the merged view, links and all, to the directory that it is.
//!
//! What a name may come to is bounded: links, components, and directories in each other.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Level, Seen, Tree, TreeError};
use crate::layer::entry::MAX_DEPTH;

const MAX_LINKS: usize = 255;
/// Components that one name may come to when links are followed.
const MAX_STEPS: usize = 10_000;

/// How far a name was followed.
struct Walk {
    /// Canonical.
    at: PathBuf,
    depth: usize,
    /// The directory at `at`; after a step up it is opened again when it is needed.
    level: Option<Level>,
    todo: VecDeque<OsString>,
    links: usize,
    steps: usize,
}

impl Walk {
    fn new(at: PathBuf, level: Level, path: &Path) -> Self {
        let rest = path.strip_prefix(&at).unwrap_or(Path::new(""));
        Self {
            depth: at.iter().count(),
            level: Some(level),
            todo: rest.iter().map(OsStr::to_owned).collect(),
            links: 0,
            steps: 0,
            at,
        }
    }

    /// The next component that has to be looked up.
    fn next(&mut self) -> Option<OsString> {
        while let Some(part) = self.todo.pop_front() {
            self.steps += 1;
            match part.as_encoded_bytes() {
                b"" | b"." => {}
                b"/" => (self.at, self.level, self.depth) = (PathBuf::new(), None, 0),
                b".." => {
                    self.at.pop();
                    (self.level, self.depth) = (None, self.depth.saturating_sub(1));
                }
                _ => return Some(part),
            }
        }
        None
    }

    /// The directory that was come to.
    fn here(&mut self, tree: &mut Tree<'_>) -> Result<Level, TreeError> {
        if let Some(level) = self.level.take() {
            return Ok(level);
        }
        self.steps += self.depth;
        Ok(tree.level(&self.at)?.ok_or(Errno::NOENT)?)
    }

    fn follow(&mut self, target: &Path) {
        self.links += 1;
        for part in target.iter().rev() {
            self.todo.push_front(part.to_owned());
        }
    }

    fn check(&self) -> Result<(), TreeError> {
        if self.depth > MAX_DEPTH {
            return Err(TreeError::TooDeep);
        }
        match self.links > MAX_LINKS || self.steps > MAX_STEPS {
            true => Err(Errno::LOOP.into()),
            false => Ok(()),
        }
    }
}

impl Tree<'_> {
    /// Follows a name, making directories on the way where they are wanted and missing. `None`
    /// where it leads to no directory.
    pub(super) fn walk(
        &mut self,
        path: &Path,
        create: bool,
    ) -> Result<Option<(PathBuf, Level)>, TreeError> {
        let (at, level) = self.nearest(path)?;
        let mut walk = Walk::new(at, level, path);
        while let Some(part) = walk.next() {
            self.budget.check()?;
            let here = walk.here(self)?;
            walk.check()?;
            let next = walk.at.join(&part);
            let seen = self.see(&here, &next, &part)?;
            if let Some(target) = here.target(&part, &seen)? {
                walk.follow(&target);
                walk.level = Some(here);
                continue;
            }
            if create {
                self.make_real(&here, &seen, &next, &part)?;
            } else if matches!(seen, Seen::Unknown) {
                self.pass(&next)?;
            } else if !seen.is_dir() {
                return Ok(None);
            }
            walk.level = Some(self.enter(&here, &next, &part)?);
            (walk.at, walk.depth) = (next, walk.depth + 1);
            walk.check()?;
        }
        let level = walk.here(self)?;
        Ok(Some((walk.at, level)))
    }
}
