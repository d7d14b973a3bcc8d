//! One step: its key, its remembered outcome, or the work and its commit.

use std::path::Path;

use unpacker::container::user;
use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;
use unpacker::progress::StepState;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::Staging;

use crate::assemble::Finished;
use crate::cache::key::KeyWriter;
use crate::cache::layers;
use crate::cache::steps::{Outcome, nonce};
use crate::copy::place::make_folders;
use crate::error::{BuildError, StepError};
use crate::plan::{Action, Copy, Run, Step, Workdir};

use super::Solver;
use super::origin::Selected;

/// What a step needs to run, found while its key was computed.
enum Work<'s> {
    Workdir(&'s Workdir),
    Copy(&'s Copy, Option<Selected>),
    Run(&'s Run),
}

impl Solver<'_> {
    /// Answers what a step made; `None` for one that has nothing to do with files.
    pub(super) fn perform(
        &mut self,
        step: &Step,
        below: &Finished,
    ) -> Result<Option<Outcome>, BuildError> {
        let stack = &below.stack[..];
        let at = || BuildError::step(&step.place);
        match &step.action {
            Action::From | Action::Configure => {
                self.say(step, StepState::Began);
                Ok(None)
            }
            Action::Workdir(workdir) => {
                let key = self.workdir_key(workdir, stack);
                self.cached_or(step, &key, stack, Work::Workdir(workdir))
                    .map(Some)
            }
            Action::Run(run) => {
                let key = self.run_key(run, stack).map_err(at())?;
                self.cached_or(step, &key, stack, Work::Run(run)).map(Some)
            }
            Action::Copy(copy) => self.copy_step(step, copy, stack).map(Some),
        }
    }

    /// A copy from a stage is looked up by the stage's identity first, which reads no file.
    fn copy_step(
        &mut self,
        step: &Step,
        copy: &Copy,
        stack: &[SnapshotId],
    ) -> Result<Outcome, BuildError> {
        let at = || BuildError::step(&step.place);
        let quick = self.stack_of(&copy.origin).map(|origin| {
            let mut key = self.copy_key(copy, stack);
            key.list("origin", origin.iter().map(SnapshotId::as_str));
            key.list("sources", copy.sources.iter().map(|s| &s.path));
            key.finish()
        });
        if let Some(outcome) = quick.as_ref().and_then(|key| self.remembered(key)) {
            self.cached += 1;
            self.say(step, StepState::Cached);
            return Ok(outcome);
        }
        let selected = self.selected(copy).map_err(at())?;
        let mut key = self.copy_key(copy, stack);
        if let Some(selected) = &selected {
            key.field("content", selected.content.digest());
        }
        let key = key.finish();
        let outcome = self.cached_or(step, &key, stack, Work::Copy(copy, selected))?;
        if let Some(quick) = quick {
            let linked = self.steps.link(&quick, &key);
            linked.map_err(BuildError::store("remember a step"))?;
        }
        Ok(outcome)
    }

    fn selected(&self, copy: &Copy) -> Result<Option<Selected>, StepError> {
        if copy.sources.is_empty() {
            return Ok(None);
        }
        let opened = self.open(&copy.origin)?;
        self.select(&opened, &copy.origin, &copy.sources).map(Some)
    }

    /// What is known of a key, if its snapshot is still there.
    fn remembered(&self, key: &Digest) -> Option<Outcome> {
        if self.request.no_cache {
            return None;
        }
        let outcome = self.steps.get(key)?;
        match &outcome.snapshot {
            Some(id) => self.env.snapshots.get(id).ok()?.map(|_| outcome),
            None => Some(outcome),
        }
    }

    fn cached_or(
        &mut self,
        step: &Step,
        key: &Digest,
        stack: &[SnapshotId],
        work: Work<'_>,
    ) -> Result<Outcome, BuildError> {
        if let Some(outcome) = self.remembered(key) {
            self.cached += 1;
            self.say(step, StepState::Cached);
            return Ok(outcome);
        }
        self.say(step, StepState::Began);
        // Another build may be at the same step: whoever waited finds its result.
        let lock = self
            .env
            .snapshots
            .lock(&SnapshotId::of_step(key), self.env.cancel)
            .map_err(BuildError::store("wait for another build"))?;
        self.env.cancel.check()?;
        if let Some(outcome) = self.remembered(key) {
            self.cached += 1;
            return Ok(outcome);
        }
        let outcome = self.work(step, key, stack, work)?;
        drop(lock);
        Ok(outcome)
    }

    fn work(
        &self,
        step: &Step,
        key: &Digest,
        stack: &[SnapshotId],
        work: Work<'_>,
    ) -> Result<Outcome, BuildError> {
        let at = || BuildError::step(&step.place);
        let staging = self.env.snapshots.stage();
        let staging = staging.map_err(BuildError::store("start a snapshot"))?;
        self.inherit_root(stack, &staging).map_err(at())?;
        match work {
            Work::Workdir(workdir) => self.workdir(workdir, stack, &staging),
            Work::Copy(copy, selected) => self.copy(copy, selected, stack, &staging),
            Work::Run(run) => self.run(step.number, run, stack, &staging),
        }
        .map_err(at())?;
        self.commit(key, staging)
    }

    fn commit(&self, key: &Digest, staging: Staging) -> Result<Outcome, BuildError> {
        let changed = std::fs::read_dir(staging.fs()).map(|mut entries| entries.next().is_some());
        let mut snapshot = None;
        if changed.map_err(BuildError::store("read a step's result"))? {
            let id = self.free_id(key)?;
            let forgotten = layers::forget(self.env.cache, &id);
            forgotten.map_err(BuildError::store("forget an earlier layer"))?;
            let kept = self.env.snapshots.commit(staging, &id);
            kept.map_err(BuildError::store("keep a step's result"))?;
            snapshot = Some(id);
        }
        let outcome = Outcome {
            snapshot,
            created: self.now(),
        };
        let kept = self.steps.put(key, &outcome);
        kept.map_err(BuildError::store("remember a step"))?;
        Ok(outcome)
    }

    /// The step's own id; another one where an earlier result has it, which others may be using.
    fn free_id(&self, key: &Digest) -> Result<SnapshotId, BuildError> {
        let id = SnapshotId::of_step(key);
        let what = "name a snapshot";
        if self
            .env
            .snapshots
            .get(&id)
            .map_err(BuildError::store(what))?
            .is_none()
        {
            return Ok(id);
        }
        let mut again = KeyWriter::new("again");
        again.field("key", key.digest());
        again.field("nonce", nonce().map_err(BuildError::store(what))?);
        Ok(SnapshotId::of_step(&again.finish()))
    }

    /// An overlay shows its upper folder's attributes at the top, so they are those of the layer
    /// below.
    fn inherit_root(&self, stack: &[SnapshotId], staging: &Staging) -> Result<(), StepError> {
        let Some(top) = self.folders(stack)?.pop() else {
            return Ok(());
        };
        let copied = (|| {
            let (from, to) = (Root::open(&top)?, Root::open(&staging.fs())?);
            let here = Path::new(".");
            let ownership = self.env.ownership;
            let (owner, mode) = ownership.of(&from, here, &from.metadata(here)?)?;
            if (owner, mode) == (Owner::default(), 0o755) {
                return Ok(());
            }
            ownership.give(&to, here, owner, mode)
        })();
        copied.map_err(StepError::io("prepare a snapshot"))
    }

    /// The stage so far, to be written to; changes land in the staging.
    pub(super) fn writable(
        &self,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<Root, StepError> {
        let overlay = Overlay {
            lower: self.folders(stack)?,
            upper: Some((staging.fs(), staging.work())),
            volatile: true,
        };
        let mounted = overlay.mount_detached();
        let mounted = mounted.map_err(StepError::io("stack the snapshots below a step"))?;
        Ok(Root::from_fd(mounted))
    }
}

// WORKDIR.

impl Solver<'_> {
    fn workdir_key(&self, workdir: &Workdir, stack: &[SnapshotId]) -> Digest {
        let mut key = KeyWriter::of_step("WORKDIR", stack, self.env.ownership);
        key.field("path", &workdir.path);
        key.field("user", &workdir.user);
        key.finish()
    }

    fn workdir(
        &self,
        workdir: &Workdir,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<(), StepError> {
        let failed = |source| StepError::Workdir {
            path: workdir.path.clone(),
            source,
        };
        let path = Path::new(&workdir.path);
        let is_dir = |view: Root| {
            view.metadata_followed(path)
                .is_ok_and(|found| found.is_dir())
        };
        if self.view(stack)?.is_some_and(is_dir) {
            return Ok(());
        }
        let root = self.writable(stack, staging)?;
        let user = user::resolve(root.as_fd(), &workdir.user)?.user;
        let owner = Owner {
            uid: user.uid,
            gid: user.gid,
        };
        make_folders(&root, path, owner, self.env.ownership).map_err(failed)
    }
}
