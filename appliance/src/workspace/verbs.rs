//! `stop`, `start`, `delete`, `status`, `list` and what `logs` and `ssh` need.

use std::fs::File;
use std::time::Duration;

use config::workspace::WorkspaceName;
use serde::Serialize;
use unpacker::container::spec::Process;

use super::backend::SandboxState;
use super::failure::{Class, FailureRecord, Fault, Stage};
use super::lifecycle;
use super::meta::{Meta, Source, Status, without_user};
use super::run::run_lifecycle;
use super::store::{Listed, Lock};
use super::up::Engine;

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);

/// A workspace as it is shown: the keys of D4 and what people ask for, without the environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub name: String,
    pub id: String,
    pub created_at: String,
    pub status: Status,
    pub dev_sandbox_id: Option<String>,
    pub builder_sandbox_id: Option<String>,
    pub volume_id: Option<String>,
    pub image_ref: Option<String>,
    pub config_path: Option<String>,
    pub source: String,
    pub branch: Option<String>,
    pub workspace_folder: Option<String>,
    pub remote_user: Option<String>,
    /// A command is at work on it.
    pub busy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,
}

impl Engine<'_> {
    /// Stops the sandbox; everything stays.
    pub fn stop(&self, name: &WorkspaceName) -> Result<Row, Fault> {
        let _lock = self.lock_known(name)?;
        let mut meta = self.store.require(name)?;
        self.backend.stop_sandbox(&meta.sandbox_name(), GRACE)?;
        if self.backend.sandbox(&meta.sandbox_name())? == SandboxState::Stopped {
            meta.status = Status::Stopped;
            self.store.save(name, &meta)?;
        }
        self.row(&meta, false)
    }

    /// Starts a stopped sandbox and runs what is due at a start.
    pub fn start(&self, name: &WorkspaceName) -> Result<Row, Fault> {
        let _lock = self.lock_known(name)?;
        let mut meta = self.store.require(name)?;
        let sandbox = meta.sandbox_name();
        let state = self.backend.sandbox(&sandbox)?;
        if state == SandboxState::Missing || meta.session.is_none() {
            let message = format!("workspace {:?} has no sandbox to start", name.as_str());
            return Err(Fault::new(Class::NotFound, message)
                .suggest(format!("Make it with `devpod up {name}`.")));
        }
        self.with_log(name, |engine| {
            if state == SandboxState::Stopped {
                lifecycle::forget_start(&mut meta.completed);
                meta.status = Status::Starting;
                engine.store.save(name, &meta)?;
                engine
                    .backend
                    .start_sandbox(&sandbox)
                    .map_err(|f| f.at(Stage::Sandbox))?;
            }
            let result = run_lifecycle(engine, name, &mut meta);
            meta.status = Status::Running;
            meta.failure = result.as_ref().err().map(Fault::record);
            engine.store.save(name, &meta)?;
            result?;
            engine.row(&meta, false)
        })
    }

    /// Removes sandbox, volume, images and record; a folder of the person stays. `force` is for
    /// running and for broken ones.
    pub fn delete(&self, name: &WorkspaceName, force: bool) -> Result<(), Fault> {
        let _lock = self.lock_known(name).or_else(|fault| match fault.class {
            // A broken record; whoever holds the lock is respected even by force.
            Class::Invalid if force => self.store.lock(name),
            _ => Err(fault),
        })?;
        let meta = match self.store.require(name) {
            Ok(meta) => meta,
            Err(fault) if fault.class == Class::Invalid && force => return self.store.delete(name),
            Err(fault) => return Err(fault),
        };
        let sandbox = meta.sandbox_name();
        if self.backend.sandbox(&sandbox)? == SandboxState::Running {
            if !force {
                let message = format!("workspace {:?} is running", name.as_str());
                return Err(Fault::new(Class::Conflict, message).suggest(format!(
                    "Stop it with `devpod stop {name}`, or delete it with --force."
                )));
            }
            self.backend.stop_sandbox(&sandbox, GRACE)?;
        }
        erase(self, name, &meta)?;
        self.store
            .logs()
            .clear(name)
            .map_err(|error| Fault::io("cannot remove the logs", &error))
    }

    pub fn status(&self, name: &WorkspaceName) -> Result<Row, Fault> {
        let meta = self.store.require(name)?;
        let busy = self.is_busy(name)?;
        self.row(&meta, busy)
    }

    /// Every workspace by name, a broken record as a fault of its own.
    pub fn list(&self) -> Result<Vec<Listed<Row>>, Fault> {
        let listed = self.store.list()?.into_iter().map(|(name, meta)| {
            let row = meta.and_then(|meta| self.row(&meta, self.is_busy(&name)?));
            (name, row)
        });
        Ok(listed.collect())
    }

    /// Every log that is kept, oldest first, with the file's name: a start or a stop must not hide
    /// what the build said.
    pub fn logs(&self, name: &WorkspaceName) -> Result<Vec<(String, File)>, Fault> {
        self.store.require(name)?;
        let logs = self.store.logs();
        let io = |error: std::io::Error| Fault::io("cannot read the logs", &error);
        let mut files = logs.list(name).map_err(io)?;
        files.reverse();
        let open = |file: String| logs.open(&file).map(|log| (file, log)).map_err(io);
        files.into_iter().map(open).collect()
    }

    /// The sandbox, and a process in it as `ssh` runs it: a command through the person's shell, or
    /// a login shell. `extra` is set over the environment.
    pub fn enter(
        &self,
        name: &WorkspaceName,
        command: Option<Vec<String>>,
        terminal: bool,
        extra: &[String],
    ) -> Result<(String, Process), Fault> {
        let meta = self.store.require(name)?;
        let sandbox = meta.sandbox_name();
        let running = self.backend.sandbox(&sandbox)? == SandboxState::Running;
        match &meta.session {
            Some(session) if running => {
                let argv = command.unwrap_or_else(|| session.login_shell());
                Ok((sandbox, session.process(argv, terminal, extra, None)))
            }
            _ => Err(Fault::new(
                Class::Conflict,
                format!("workspace {:?} is not running", name.as_str()),
            )
            .suggest(format!("Bring it up with `devpod up {name}`."))),
        }
    }

    /// Locks a workspace that exists: a name that does not is no reason to leave a lock file.
    fn lock_known(&self, name: &WorkspaceName) -> Result<Lock, Fault> {
        self.store.require(name)?;
        self.store.lock(name)
    }

    fn is_busy(&self, name: &WorkspaceName) -> Result<bool, Fault> {
        Ok(self.store.try_lock(name)?.is_none())
    }

    fn row(&self, meta: &Meta, busy: bool) -> Result<Row, Fault> {
        let sandbox = self.backend.sandbox(&meta.sandbox_name())?;
        let branch = match &meta.source {
            Source::Repository { branch, .. } => branch.clone(),
            Source::Folder { .. } => None,
        };
        Ok(Row {
            name: meta.name.clone(),
            id: meta.id.clone(),
            created_at: meta.created_at.clone(),
            status: actual(meta, sandbox, busy),
            dev_sandbox_id: meta.dev_sandbox_id.clone(),
            builder_sandbox_id: meta.builder_sandbox_id.clone(),
            volume_id: meta.volume_id.clone(),
            image_ref: meta.image_ref.clone(),
            config_path: meta.config_path.clone(),
            source: source_text(&meta.source),
            branch,
            workspace_folder: meta.workspace_folder.clone(),
            remote_user: meta.remote_user.clone(),
            busy,
            failure: meta.failure.clone(),
        })
    }
}

/// What is so, as opposed to what was last written down. Pure.
fn actual(meta: &Meta, sandbox: SandboxState, busy: bool) -> Status {
    if busy {
        return meta.status;
    }
    match sandbox {
        SandboxState::Running if meta.session.is_some() => Status::Running,
        SandboxState::Stopped if meta.status != Status::Failed => Status::Stopped,
        // Nobody is at work, so whatever it was doing ended without an end.
        _ => Status::Failed,
    }
}

pub(super) fn source_text(source: &Source) -> String {
    match source {
        Source::Folder { path } => path.display().to_string(),
        Source::Repository { url, .. } => without_user(url),
    }
}

/// The record goes last, so that an interrupted deletion can be repeated.
pub(super) fn erase(engine: &Engine<'_>, name: &WorkspaceName, meta: &Meta) -> Result<(), Fault> {
    engine.backend.remove_sandbox(&meta.sandbox_name())?;
    for volume in meta.volume_id.iter().chain(&meta.volumes) {
        engine.backend.remove_volume(volume)?;
    }
    if let Some(built) = super::plan::tags(&meta.id, engine.port, engine.clock.now()).first() {
        engine.backend.remove_images(built)?;
    }
    engine.store.delete(name)
}
