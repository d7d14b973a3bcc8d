//! RUN as a step: its key and the work.

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Staging;

use crate::cache::key::KeyWriter;
use crate::dockerfile::instruction::Invocation;
use crate::error::StepError;
use crate::plan::{Run, RunMountKind, Source};
use crate::run::{Ground, execute};

use super::Solver;
use super::furnish::furnish;

impl Solver<'_> {
    pub(super) fn run_key(&self, run: &Run, stack: &[SnapshotId]) -> Result<Digest, StepError> {
        let mut key = KeyWriter::of_step("RUN", stack, self.env.ownership);
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
            key.field("mount", &mount.target);
            match &mount.kind {
                RunMountKind::Bind {
                    origin,
                    source,
                    writable,
                } => {
                    let opened = self.open(origin)?;
                    let selected = self.select(&opened, origin, &[plain(source)])?;
                    key.field("bind", selected.content.digest());
                    key.field("writable", writable.to_string());
                }
                RunMountKind::Secret { id, variable, .. } => {
                    key.field("secret", id);
                    key.field("variable", format!("{variable:?}"));
                }
                other => {
                    key.field("options", format!("{other:?}"));
                }
            }
        }
        Ok(key.finish())
    }

    pub(super) fn run(
        &self,
        number: usize,
        run: &Run,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<(), StepError> {
        let furnished = furnish(self, run)?;
        let view = match self.view(stack)? {
            Some(view) => view,
            None => Root::open(&staging.fs()).map_err(StepError::io("open an empty stage"))?,
        };
        let ground = Ground {
            number,
            lower: self.folders(stack)?,
            staging,
            view: &view,
            timeout: self.remaining(),
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
    }
}
