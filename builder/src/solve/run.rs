//! RUN as a step: its key and the work.

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Staging;

use crate::cache::key::KeyWriter;
use crate::copy::CopyError;
use crate::copy::changes::Changes;
use crate::dockerfile::instruction::Invocation;
use crate::error::StepError;
use crate::ignore::Ignore;
use crate::plan::{Handed, Origin, Run, RunMountKind, Source};
use crate::run::{Ground, execute};

use super::Solver;
use super::furnish::furnish;
use super::origin::Selected;

/// How binds of stages and images enter a key; those of the context always enter by content.
#[derive(Debug, Clone, Copy)]
pub(super) enum Binds {
    /// By the results that they show: no file is read.
    Definition,
    /// By what the command sees.
    Content,
}

/// What was selected for a command's mounts, one by one, while its key was computed.
pub(super) type Bound = Vec<Option<Selected>>;

impl Solver<'_> {
    /// Whether a command sees files of other stages or of images, and none of a context: those may change
    /// between the first key and the second, which would then not be of the same files.
    pub(super) fn binds_stacks_alone(&self, run: &Run) -> bool {
        let mut binds = run.mounts.iter().filter_map(|mount| match &mount.kind {
            RunMountKind::Bind { origin, .. } => Some(self.stack_of(origin).is_some()),
            _ => None,
        });
        binds.next() == Some(true) && binds.all(|stack| stack)
    }

    pub(super) fn run_key(
        &self,
        run: &Run,
        below: &[SnapshotId],
        binds: Binds,
    ) -> Result<(Digest, Bound), StepError> {
        let mut bound = Vec::new();
        let mut key = KeyWriter::of_step("RUN", below, self.env.ownership);
        match &run.invocation {
            Invocation::Exec(words) => key.list("exec", words),
            Invocation::Shell(text) => key.field("shell", text),
            Invocation::Script { name, body } => key.field("script", name).field("body", body),
        };
        let mut env = run.env.clone();
        env.sort();
        key.list("env", &env);
        key.field("cwd", &run.cwd).field("user", &run.user);
        key.field("network", format!("{:?}", run.network));
        let hosts = &self.request.surroundings.hosts;
        if !hosts.is_empty() {
            key.list(
                "hosts",
                hosts.iter().map(|h| format!("{} {}", h.address, h.name)),
            );
        }
        for mount in &run.mounts {
            let mut selected = None;
            key.field("mount", &mount.target);
            match &mount.kind {
                RunMountKind::Bind {
                    origin,
                    source,
                    writable,
                } => {
                    selected = self.bind_key(&mut key, origin, source, binds)?;
                    key.field("writable", writable.to_string());
                }
                RunMountKind::Secret {
                    handed,
                    variable,
                    file,
                } => {
                    let Handed { mode, uid, gid, .. } = handed;
                    key.field("secret", &handed.id);
                    key.field("variable", format!("{variable:?}"));
                    key.field("file", file.to_string());
                    key.field("access", format!("{mode:o} {uid}:{gid}"));
                }
                other => {
                    key.field("options", format!("{other:?}"));
                }
            }
            bound.push(selected);
        }
        Ok((key.finish(), bound))
    }

    fn bind_key(
        &self,
        key: &mut KeyWriter,
        origin: &Origin,
        source: &str,
        binds: Binds,
    ) -> Result<Option<Selected>, StepError> {
        if let (Binds::Definition, Some(names)) = (binds, self.names_of(origin)) {
            key.list("bound", names.iter().map(SnapshotId::as_str));
            key.field("source", source);
            return Ok(None);
        }
        let opened = self.open(origin)?;
        let selected = self.select(&opened, origin, &[plain(source)], &Ignore::default())?;
        key.field("bind", selected.content.digest());
        // Of a folder that is bound the command sees its own attributes, too; a copy has its contents only.
        for found in selected.matches.iter().filter(|found| found.is_dir()) {
            let (path, metadata) = (&found.path, &found.metadata);
            let known = self.env.ownership.of(opened.root(), path, metadata);
            let (owner, mode) = known.map_err(CopyError::read(path))?;
            key.field("mode", format!("{mode:o}"));
            if !opened.is_context() {
                key.field("owner", format!("{}:{}", owner.uid, owner.gid));
            }
        }
        Ok(Some(selected))
    }

    pub(super) fn run(
        &self,
        number: usize,
        (run, bound): (&Run, Bound),
        stack: &[SnapshotId],
        staging: &Staging,
        changes: &Changes,
    ) -> Result<(), StepError> {
        let furnished = furnish(self, run, bound, changes)?;
        let view = match self.view(stack)? {
            Some(view) => view,
            None => Root::open(&staging.fs()).map_err(StepError::io("open an empty stage"))?,
        };
        let ground = Ground {
            number,
            lower: self.folders(stack)?,
            staging,
            view: &view,
            resources: &self.request.resources,
            surroundings: &self.request.surroundings,
        };
        execute(self.env, run, &ground, furnished)
    }
}

/// A mount's source is one path: it is no pattern.
pub(super) fn plain(path: &str) -> Source {
    Source {
        path: path.to_owned(),
        pattern: false,
        below: None,
    }
}
