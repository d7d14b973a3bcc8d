//! The workspace verbs as the control API calls them: text in, JSON out.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::repository::{Branch, RepoUrl};
use config::settings::{self, Compression};
use config::workspace::WorkspaceName;
use serde_json::{Value, json};
use unpacker::container::idmap::IdMap;
use unpacker::layer::compress;
use unpacker::progress::{Cancel, Silent};

use super::backend::SystemClock;
use super::failure::{Class, Fault};
use super::local::Local;
use super::runner::HostRunner;
use super::store::Store;
use super::up::{Engine, Wanted, Wish};
use super::users::Ids;
use crate::api::types::{ExecRequest, UpRequest, UpSource};
use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::Images;
use crate::options::Options;
use crate::progress::Reporter;
use crate::sandbox::local::Sandboxes;

/// Logs are read whole; they are rotated long before this.
const MAX_LOG: u64 = 64 << 20;

/// Workspaces of one user on this host.
#[derive(Debug)]
pub struct Workspaces {
    local: Local,
    runner: HostRunner,
    user_folder: PathBuf,
    settings: settings::Workspace,
    port: u16,
}

impl Workspaces {
    pub fn new(options: &Options, images: Arc<Images>, sandboxes: Arc<Sandboxes>) -> Self {
        let builder = &options.settings.builder;
        let timeout = Duration::from_secs(builder.timeout.0);
        Self {
            port: images.here.port,
            runner: HostRunner::new(images.launcher.clone()),
            local: Local {
                images,
                sandboxes,
                volumes: DataFolder::new(options.data.clone()).volumes(),
                compression: compression(builder.compression),
                timeout: (!timeout.is_zero()).then_some(timeout),
                early: Mutex::default(),
            },
            user_folder: options.user_folder.clone(),
            settings: options.settings.workspace.clone(),
        }
    }

    /// Opens the user's files and runs a verb.
    fn with<T>(
        &self,
        progress: Reporter,
        cancel: &Cancel,
        verb: impl FnOnce(&Engine<'_>) -> Result<T, Fault>,
    ) -> Outcome<T> {
        let store = Store::open(&self.user_folder).map_err(failure)?;
        let engine = Engine {
            backend: &self.local,
            runner: &self.runner,
            clock: &SystemClock,
            store: &store,
            settings: &self.settings,
            port: self.port,
            ids: ids()?,
            progress,
            cancel: cancel.clone(),
        };
        verb(&engine).map_err(failure)
    }

    fn quietly<T>(&self, verb: impl FnOnce(&Engine<'_>) -> Result<T, Fault>) -> Outcome<T> {
        self.with(Arc::new(Silent), &Cancel::default(), verb)
    }

    pub fn up(&self, request: &UpRequest, progress: Reporter, cancel: &Cancel) -> Outcome<Value> {
        let wish = wish(request)?;
        self.with(progress, cancel, |engine| {
            let meta = engine.up(&wish)?;
            engine.status(&meta.name.parse().map_err(|_| {
                Fault::new(Class::Internal, "the record's name is not a workspace name")
            })?)
        })
        .and_then(|row| encode(&row))
    }

    /// Every workspace; one whose record is broken says so in its place.
    pub fn list(&self) -> Outcome<Vec<Value>> {
        let listed = self.quietly(|engine| engine.list())?;
        listed
            .into_iter()
            .map(|(name, row)| match row {
                Ok(row) => encode(&row),
                Err(fault) => Ok(json!({
                    "name": name.as_str(), "status": "broken", "error": failure(fault).to_string(),
                })),
            })
            .collect()
    }

    pub fn status(&self, name: &str) -> Outcome<Value> {
        let name = parse(name)?;
        self.quietly(|engine| engine.status(&name))
            .and_then(|row| encode(&row))
    }

    /// The id of a workspace's sandbox, when it has one.
    pub fn sandbox_of(&self, name: &str) -> Option<String> {
        let status = self.status(name).ok()?;
        Some(status["devSandboxId"].as_str()?.to_owned())
    }

    pub fn stop(&self, name: &str, progress: Reporter, cancel: &Cancel) -> Outcome<Value> {
        let name = parse(name)?;
        self.with(progress, cancel, |engine| engine.stop(&name))
            .and_then(|row| encode(&row))
    }

    pub fn start(&self, name: &str, progress: Reporter, cancel: &Cancel) -> Outcome<Value> {
        let name = parse(name)?;
        self.with(progress, cancel, |engine| engine.start(&name))
            .and_then(|row| encode(&row))
    }

    pub fn delete(&self, name: &str, force: bool) -> Outcome<Value> {
        let name = parse(name)?;
        self.quietly(|engine| engine.delete(&name, force))?;
        Ok(json!({ "name": name.as_str() }))
    }

    /// The kept logs, oldest first, each below its file's name.
    pub fn logs(&self, name: &str) -> Outcome<Vec<u8>> {
        let name = parse(name)?;
        let mut bytes = Vec::new();
        for (file, log) in self.quietly(|engine| engine.logs(&name))? {
            let mut text = Vec::new();
            log.take(MAX_LOG).read_to_end(&mut text)?;
            if !text.is_empty() {
                bytes.extend_from_slice(format!("==> {file} <==\n").as_bytes());
                bytes.append(&mut text);
            }
        }
        Ok(bytes)
    }

    /// A process in the workspace, as `ssh` starts it.
    pub fn exec(&self, name: &str, request: &ExecRequest) -> Outcome<UnixStream> {
        let name = parse(name)?;
        let command = (!request.command.is_empty()).then(|| request.command.clone());
        let (sandbox, mut process) =
            self.quietly(|engine| engine.enter(&name, command, request.terminal, &request.env))?;
        let record = self.local.sandboxes.find(&sandbox)?;
        if let Some(folder) = &request.cwd {
            process.cwd.clone_from(folder);
        }
        if let Some(user) = &request.user {
            process.user = self.local.sandboxes.resolve(&record, user)?.user;
        }
        self.local.sandboxes.exec_process(&record, &process)
    }
}

fn wish(request: &UpRequest) -> Outcome<Wish> {
    let named = request.name.as_deref().map(parse).transpose()?;
    let branch = request.branch.as_deref().map(branch).transpose()?;
    let (source, name) = match &request.source {
        UpSource::Folder(path) => (Wanted::Folder(path.clone()), named),
        UpSource::Repo(url) => (Wanted::Repository(repository(url, branch.clone())?), named),
        UpSource::Name(name) => (Wanted::Existing, Some(parse(name)?)),
        UpSource::Unset => return Err(Failure::invalid("nothing was named to bring up")),
    };
    if branch.is_some() && !matches!(source, Wanted::Repository(_)) {
        return Err(
            Failure::invalid("--branch belongs to a repository").hint("Give one with --repo URL.")
        );
    }
    Ok(Wish {
        source,
        name,
        config_path: None,
        recreate: request.recreate,
        allowed: request.allowed_mounts.clone(),
        env: request.env.clone(),
    })
}

fn repository(url: &str, branch: Option<Branch>) -> Outcome<RepoUrl> {
    let invalid = |error| Failure::from_error(Kind::Invalid, &error);
    url.parse::<RepoUrl>()
        .and_then(|url| url.with_branch(branch))
        .map_err(invalid)
}

fn branch(text: &str) -> Outcome<Branch> {
    text.parse()
        .map_err(|error: config::repository::RepoUrlError| {
            Failure::from_error(Kind::Invalid, &error)
        })
}

fn parse(name: &str) -> Outcome<WorkspaceName> {
    name.parse()
        .map_err(|error: config::workspace::WorkspaceNameError| {
            Failure::from_error(Kind::Invalid, &error)
        })
}

fn ids() -> Outcome<Ids> {
    let map = IdMap::current()?;
    if map.is_whole() {
        return Ok(Ids::ALL);
    }
    // Ranges lie end to end from 0, as they were written.
    let count = map.uids.iter().map(|range| range.count).sum();
    Ok(Ids { count })
}

fn compression(setting: Compression) -> compress::Compression {
    match setting {
        Compression::None => compress::Compression::None,
        Compression::Gzip => compress::Compression::Gzip,
        Compression::Zstd => compress::Compression::Zstd,
    }
}

fn encode<T: serde::Serialize>(row: &T) -> Outcome<Value> {
    serde_json::to_value(row).map_err(|error| Failure::from_error(Kind::Internal, &error))
}

pub(crate) fn failure(fault: Fault) -> Failure {
    let kind = match fault.class {
        Class::Network => Kind::Unavailable,
        Class::Dockerfile | Class::Push | Class::Internal => Kind::Internal,
        Class::Permission => Kind::Denied,
        Class::Resources => Kind::Exhausted,
        Class::Invalid => Kind::Invalid,
        Class::NotFound => Kind::NotFound,
        Class::Conflict => Kind::Conflict,
        Class::Cancelled => Kind::Cancelled,
    };
    let mut failure = Failure::new(kind, fault.message);
    failure.causes = fault.causes;
    if !fault.logs.is_empty() {
        failure
            .causes
            .push(format!("its last output was:\n{}", fault.logs.join("\n")));
    }
    failure.hints.extend(fault.suggestion);
    failure
}
