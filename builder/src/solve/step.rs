//! One step: its key, its remembered outcome, or the work and its commit.

use std::path::Path;
use std::sync::atomic::Ordering;

use unpacker::crash;
use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;
use unpacker::progress::{Cancelled, Event, StepState};
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::{MakeLock, Staging};

use crate::assemble::Finished;
use crate::cache::key::KeyWriter;
use crate::cache::steps::{Outcome, Standing, nonce};
use crate::copy::CopyError;
use crate::copy::changes::Changes;
use crate::error::{BuildError, StepError};
use crate::git::Resolved;
use crate::ignore::Ignore;
use crate::plan::{Action, Copy, Origin, Run, Step, Workdir};

use super::copy::is_free;
use super::download::{Download, download};
use super::origin::Selected;
use super::repository;
use super::run::{Binds, Bound};
use super::{Solver, bind_origin};

/// What a step came to.
pub(super) struct Performed {
    /// Every key that leads to it, in hexadecimal.
    pub(super) keys: Vec<String>,
    pub(super) outcome: Outcome,
}

/// The result of a step of this build.
struct Done {
    outcome: Outcome,
    /// Whether its key stands for it: not where what it read changed meanwhile.
    lasts: bool,
}

impl Done {
    fn lasting(outcome: Outcome) -> Self {
        let lasts = true;
        Self { outcome, lasts }
    }
}

/// A key by the names of what a step reads, and which runs of those results are meant.
struct Definition {
    key: Digest,
    runs: Digest,
    /// Some of them were carried out here.
    own: bool,
}

/// What a step needs to run, found while its key was computed.
enum Work<'s> {
    Workdir(&'s Workdir),
    Copy(&'s Copy, Sources),
    Run(&'s Run, Bound),
}

/// What a copy takes, as far as it is known.
pub(super) struct Sources {
    pub(super) selected: Option<Selected>,
    pub(super) downloads: Vec<Download>,
    pub(super) commits: Vec<Resolved>,
}

/// Of an instruction that is kept with its result: an entry of the cache is small.
const MAX_MADE_BY: usize = 1024;
const NAME: &str = "name a snapshot";

impl Solver<'_> {
    /// Answers what a step made; `None` for one that has nothing to do with files.
    pub(super) fn perform(
        &self,
        step: &Step,
        below: &Finished,
    ) -> Result<Option<Performed>, BuildError> {
        match &step.action {
            Action::From | Action::Configure => {
                self.say(step, StepState::Began);
                Ok(None)
            }
            Action::Workdir(workdir) => {
                let key = self.workdir_key(workdir, &below.all_names());
                let done = self.cached_or(step, &key, below, Work::Workdir(workdir))?;
                Ok(Some(performed(&[&key], done)))
            }
            Action::Run(run) => self.run_step(step, run, below).map(Some),
            Action::Copy(copy) => self.copy_step(step, copy, below).map(Some),
        }
    }

    /// A copy from a stage is looked up by the stage's identity first, which reads no file.
    fn copy_step(
        &self,
        step: &Step,
        copy: &Copy,
        below: &Finished,
    ) -> Result<Performed, BuildError> {
        let at = || BuildError::step(&step.place);
        let names = below.all_names();
        let quick = self.definition(copy, &names);
        if let Some(quick) = &quick {
            if let Some(performed) = self.quick_hit(step, quick, below)? {
                return Ok(performed);
            }
            if quick.own {
                self.runs.read_own()?;
            }
        }
        let downloads = copy.remote.iter().map(|source| download(self.env, source));
        let downloads: Vec<Download> = downloads.collect::<Result<_, _>>().map_err(at())?;
        let commits = self.commits(copy).map_err(at())?;
        let selected = self.selected(copy).map_err(at())?;
        let mut key = self.copy_key(copy, &names);
        if let Some(selected) = &selected {
            key.field("content", selected.content.digest());
        }
        for download in &downloads {
            download.enter(&mut key);
        }
        for commit in &commits {
            repository::enter(commit, &mut key);
        }
        let key = key.finish();
        let sources = Sources {
            selected,
            downloads,
            commits,
        };
        let work = Work::Copy(copy, sources);
        let done = self.cached_or(step, &key, below, work)?;
        self.link(quick.as_ref(), &key)?;
        let quick = quick.as_ref().map(|quick| &quick.key);
        let keys: Vec<&Digest> = quick.into_iter().chain([&key]).collect();
        Ok(performed(&keys, done))
    }

    fn definition(&self, copy: &Copy, below: &[SnapshotId]) -> Option<Definition> {
        let origin = self.names_of(&copy.origin)?;
        let mut key = self.copy_key(copy, below);
        key.list("origin", origin.iter().map(SnapshotId::as_str));
        key.list("sources", copy.sources.iter().map(|s| &s.path));
        Some(Definition {
            key: key.finish(),
            runs: self.runs_of(&[&copy.origin]),
            own: self.is_own(&copy.origin),
        })
    }

    /// A command that sees a stage or an image is looked up by that one's identity first, too.
    fn run_step(&self, step: &Step, run: &Run, below: &Finished) -> Result<Performed, BuildError> {
        let at = || BuildError::step(&step.place);
        let names = below.all_names();
        let origins: Vec<&Origin> = run.mounts.iter().filter_map(bind_origin).collect();
        let own = origins.iter().any(|origin| self.is_own(origin));
        let mut quick = None;
        if self.binds_stacks_alone(run) {
            let key = self.run_key(run, &names, Binds::Definition);
            let (key, _) = key.map_err(at())?;
            let definition = Definition {
                key,
                runs: self.runs_of(&origins),
                own,
            };
            if let Some(performed) = self.quick_hit(step, &definition, below)? {
                return Ok(performed);
            }
            quick = Some(definition);
        }
        if own {
            self.runs.read_own()?;
        }
        let key = self.run_key(run, &names, Binds::Content);
        let (key, bound) = key.map_err(at())?;
        let done = self.cached_or(step, &key, below, Work::Run(run, bound))?;
        self.link(quick.as_ref(), &key)?;
        let quick = quick.as_ref().map(|quick| &quick.key);
        let keys: Vec<&Digest> = quick.into_iter().chain([&key]).collect();
        Ok(performed(&keys, done))
    }

    /// A result by its definition. What another host has for the same definition may come from other
    /// bytes, so only what this host linked to it is another key of its own result.
    fn quick_hit(
        &self,
        step: &Step,
        quick: &Definition,
        below: &Finished,
    ) -> Result<Option<Performed>, BuildError> {
        if self.runs_again(step) {
            return Ok(None);
        }
        let mut keys = vec![quick.key.digest().to_owned()];
        let found = self.steps.defined(&quick.key, &quick.runs);
        let found = found.filter(|(outcome, _)| self.is_good(outcome, below));
        let outcome = match found {
            Some((outcome, Some(same_as))) => {
                if quick.own {
                    self.runs.read_own()?;
                }
                keys.push(same_as);
                Some(outcome)
            }
            found => {
                let find = || match found {
                    Some((outcome, _)) => Some(outcome),
                    None => self.imports.find(self.env, &quick.key, below),
                };
                match quick.own {
                    true => self.runs.take_others(find),
                    false => find(),
                }
            }
        };
        Ok(outcome.map(|outcome| {
            let outcome = self.hit(step, outcome).outcome;
            Performed { keys, outcome }
        }))
    }

    /// Lets a definition key lead to what the content key has.
    fn link(&self, quick: Option<&Definition>, key: &Digest) -> Result<(), BuildError> {
        // A key that leads to itself would be a circle, and so a miss for ever.
        let quick = quick.filter(|quick| quick.key != *key);
        let linked = quick.map_or(Ok(()), |quick| {
            self.steps.link(&quick.key, key, &quick.runs)
        });
        linked.map_err(BuildError::store("remember a step"))
    }

    fn selected(&self, copy: &Copy) -> Result<Option<Selected>, StepError> {
        if copy.sources.is_empty() {
            return Ok(None);
        }
        let opened = self.open(&copy.origin)?;
        let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str));
        let exclude = exclude.map_err(CopyError::Exclude)?;
        let selected = self.select(&opened, &copy.origin, &copy.sources, &exclude)?;
        Ok(Some(selected))
    }

    /// What is known of a key, here or elsewhere.
    fn remembered(&self, step: &Step, key: &Digest, below: &Finished) -> Option<Outcome> {
        if self.runs_again(step) {
            return None;
        }
        self.kept(key, below)
            .or_else(|| self.imports.find(self.env, key, below))
    }

    /// What is known here.
    fn kept(&self, key: &Digest, below: &Finished) -> Option<Outcome> {
        let outcome = self.steps.get(key)?;
        self.is_good(&outcome, below).then_some(outcome)
    }

    /// Whether a result was made on what is below now, and its snapshots are still there. On top of
    /// what another host made only what was made on that counts.
    fn is_good(&self, outcome: &Outcome, below: &Finished) -> bool {
        let plain = || matches!(self.root_attributes(&below.stack), Ok(None));
        let is_there = |id: &SnapshotId| matches!(self.env.snapshots.get(id), Ok(Some(_)));
        let brought = match &outcome.standing {
            Standing::Whole { stack, layers } => [&stack[..], layers].concat(),
            // What is below now is there.
            Standing::Free | Standing::On(_) => Vec::new(),
        };
        outcome.fits(&below.layers(), below.foreign, plain)
            && outcome.snapshot.iter().chain(&brought).all(is_there)
    }

    /// Whether this step is to be carried out whatever is known of it.
    fn runs_again(&self, step: &Step) -> bool {
        self.request.no_cache || self.again.contains(&step.place.stage)
    }

    fn hit(&self, step: &Step, outcome: Outcome) -> Done {
        self.cached.fetch_add(1, Ordering::Relaxed);
        self.say(step, StepState::Cached);
        Done::lasting(outcome)
    }

    fn cached_or(
        &self,
        step: &Step,
        key: &Digest,
        below: &Finished,
        work: Work<'_>,
    ) -> Result<Done, BuildError> {
        if let Some(outcome) = self.remembered(step, key, below) {
            return Ok(self.hit(step, outcome));
        }
        let lock = self.alone(step, key)?;
        // Whoever waited finds the result of the other.
        if let Some(outcome) = self.remembered(step, key, below) {
            return Ok(self.hit(step, outcome));
        }
        self.say(step, StepState::Began);
        let done = self.work(step, key, below, work)?;
        drop(lock);
        Ok(done)
    }

    /// Another build, or another stage of this one, may be at the same step. Should that one be
    /// cancelled, or fail, the step is done here.
    fn alone(&self, step: &Step, key: &Digest) -> Result<MakeLock, BuildError> {
        let failed = || BuildError::store("wait for another build");
        let (snapshots, id) = (self.env.snapshots, SnapshotId::of_step(key));
        if let Some(lock) = snapshots.try_lock(&id).map_err(failed())? {
            return Ok(lock);
        }
        self.say(step, StepState::Waiting);
        let lock = snapshots.lock(&id, self.env.cancel).map_err(failed())?;
        lock.ok_or(BuildError::Cancelled(Cancelled))
    }

    fn work(
        &self,
        step: &Step,
        key: &Digest,
        below: &Finished,
        work: Work<'_>,
    ) -> Result<Done, BuildError> {
        let at = || BuildError::step(&step.place);
        let stack = &below.stack[..];
        let staging = self.env.snapshots.stage();
        let staging = staging.map_err(BuildError::store("start a snapshot"))?;
        let root = self.inherit_root(stack, &staging).map_err(at())?;
        let free = matches!((&work, root), (Work::Copy(copy, _), None) if is_free(copy));
        let changes = Changes::default();
        match work {
            Work::Workdir(workdir) => self.workdir(workdir, stack, &staging),
            Work::Copy(copy, sources) => self.copy(copy, sources, stack, &staging, &changes),
            Work::Run(run, bound) => self.run(step.number, (run, bound), stack, &staging, &changes),
        }
        .map_err(at())?;
        crash::point("build-after-work");
        match changes.told() {
            None => {
                let outcome = self.commit(step, key, (below, free), staging);
                outcome.map(Done::lasting)
            }
            Some(changed) => {
                let place = &step.place;
                let text = format!(
                    "{place}: {changed} changed while the step read the build context; its result is \
                     not remembered"
                );
                self.env.progress.event(Event::Warning { text });
                // By a key that nobody ever computes.
                let key = self.another(key).map_err(BuildError::store(NAME))?;
                let outcome = self.commit(step, &key, (below, free), staging)?;
                let lasts = false;
                Ok(Done { outcome, lasts })
            }
        }
    }

    /// `free` says that the result is the same on anything else.
    fn commit(
        &self,
        step: &Step,
        key: &Digest,
        (below, free): (&Finished, bool),
        staging: Staging,
    ) -> Result<Outcome, BuildError> {
        let changed = std::fs::read_dir(staging.fs()).map(|mut entries| entries.next().is_some());
        let (mut snapshot, mut name) = (None, None);
        if changed.map_err(BuildError::store("read a step's result"))? {
            let run = self.another(key).map_err(BuildError::store(NAME))?;
            let id = SnapshotId::of_step(&run);
            let kept = self.env.snapshots.commit(staging, &id);
            kept.map_err(BuildError::store("keep a step's result"))?;
            // Where a step is to run again, neither this nor another host takes an earlier result of
            // what follows.
            name = Some(match self.runs_again(step) {
                true => id.clone(),
                false => SnapshotId::of_step(key),
            });
            snapshot = Some(id);
            crash::point("build-after-snapshot");
        }
        let standing = self.standing(below, free, snapshot.as_ref());
        let outcome = Outcome {
            snapshot,
            name,
            created: self.now(),
            made_by: shortened(&step.place.instruction),
            standing: standing.map_err(BuildError::step(&step.place))?,
        };
        let kept = self.steps.put(key, &outcome);
        kept.map_err(BuildError::store("remember a step"))?;
        crash::point("build-after-step");
        Ok(outcome)
    }

    /// What a result needs beside itself: everything, where another host made some of it.
    fn standing(
        &self,
        below: &Finished,
        free: bool,
        own: Option<&SnapshotId>,
    ) -> Result<Standing, StepError> {
        if !below.foreign {
            return Ok(match free {
                true => Standing::Free,
                false => Standing::On(below.layers()),
            });
        }
        let with_own = |mut ids: Vec<SnapshotId>| {
            ids.extend(own.cloned());
            ids
        };
        Ok(Standing::Whole {
            stack: with_own(self.imports.expand(self.env, &below.stack)?),
            layers: with_own(below.layers()),
        })
    }

    /// A key that no step has.
    fn another(&self, key: &Digest) -> std::io::Result<Digest> {
        let mut again = KeyWriter::new("again");
        again.field("key", key.digest());
        again.field("nonce", nonce()?);
        Ok(again.finish())
    }

    /// An overlay shows its upper folder's attributes at the top, so they are those of the layer
    /// below; answers them where they are not an ordinary root's.
    fn inherit_root(
        &self,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<Option<(Owner, u32)>, StepError> {
        let found = self.root_attributes(stack)?;
        if let Some((owner, mode)) = found {
            let to = Root::open(&staging.fs());
            let given = to.and_then(|to| self.env.ownership.give(&to, Path::new("."), owner, mode));
            given.map_err(StepError::io("prepare a snapshot"))?;
        }
        Ok(found)
    }

    /// Owner and mode of the root directory of a stage, where they are not those of an ordinary one.
    fn root_attributes(&self, stack: &[SnapshotId]) -> Result<Option<(Owner, u32)>, StepError> {
        let Some(top) = self.folders(stack)?.pop() else {
            return Ok(None);
        };
        let found = Root::open(&top).and_then(|root| {
            let here = Path::new(".");
            self.env.ownership.of(&root, here, &root.metadata(here)?)
        });
        let found = found.map_err(StepError::io("read the root directory of a stage"))?;
        Ok((found != (Owner::default(), 0o755)).then_some(found))
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

/// With the keys that were made of what it read.
fn performed(keys: &[&Digest], done: Done) -> Performed {
    let keys = if done.lasts { keys } else { &[] };
    Performed {
        keys: keys.iter().map(|key| key.digest().to_owned()).collect(),
        outcome: done.outcome,
    }
}

fn shortened(instruction: &str) -> String {
    let end = instruction.floor_char_boundary(MAX_MADE_BY);
    instruction[..end].to_owned()
}
