//! `devpod up`: which workspace is meant, and then one run of `run`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use config::repository::RepoUrl;
use config::settings;
use config::workspace::WorkspaceName;
use time::format_description::well_known::Rfc3339;
use unpacker::progress::Cancel;

use super::backend::{Backend, Clock};
use super::configure;
use super::failure::{Class, Fault};
use super::logs::Tee;
use super::meta::{Meta, Source};
use super::run::{Run, open};
use super::runner::Runner;
use super::store::Store;
use super::users::Ids;
use super::verbs::source_text;
use crate::progress::Reporter;

/// Everything that the verbs work with.
#[derive(Clone)]
pub struct Engine<'a> {
    pub backend: &'a dyn Backend,
    pub runner: &'a dyn Runner,
    pub clock: &'a dyn Clock,
    pub store: &'a Store,
    pub settings: &'a settings::Workspace,
    /// The embedded registry's port.
    pub port: u16,
    pub ids: Ids,
    pub progress: Reporter,
    pub cancel: Cancel,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// What somebody wants to be up.
#[derive(Debug, Clone)]
pub struct Wish {
    pub source: Wanted,
    pub name: Option<WorkspaceName>,
    /// A `devcontainer.json`, relative to the source's root.
    pub config_path: Option<String>,
    pub recreate: bool,
    /// What a cloned repository may mount of this host, beside what the settings allow.
    pub allowed: Vec<PathBuf>,
    /// The person's environment; never stored as a whole.
    pub env: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub enum Wanted {
    /// Absolute and canonical.
    Folder(PathBuf),
    Repository(RepoUrl),
    /// The workspace of `Wish::name`.
    Existing,
}

impl Engine<'_> {
    /// Brings the workspace up, from wherever it is. Answers its record.
    pub fn up(&self, wish: &Wish) -> Result<Meta, Fault> {
        let name = self.identify(wish)?;
        let _lock = self.store.lock(&name)?;
        let known = self.store.load(&name)?;
        let is_new = known.is_none();
        let meta = match known {
            Some(meta) => renewed(meta, &wish.source),
            None => self.new_meta(&name, wish)?,
        };
        self.with_log(&name, |engine| {
            Run::new(engine, wish, &name, meta).up(is_new)
        })
    }

    /// Runs `work` with progress that is also written to a new log.
    pub(super) fn with_log<T>(
        &self,
        name: &WorkspaceName,
        work: impl FnOnce(&Engine<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let logs = self.store.logs();
        let no_log = |error| Fault::io("cannot make a log", &error);
        let (log, file) = logs.create(name, self.clock.now()).map_err(no_log)?;
        let mut end = file.try_clone().map_err(no_log)?;
        // A log too many does no harm.
        let _ = logs.prune(name);
        let engine = Engine {
            progress: Arc::new(Tee::new(Arc::clone(&self.progress), file)),
            ..self.clone()
        };
        let result = work(&engine);
        let failure = result.as_ref().err().map(Fault::to_string);
        if let Err(error) = logs.finish(&log, &mut end, failure.as_deref()) {
            tracing::warn!(log, %error, "the log could not be ended");
        }
        result
    }

    /// Which workspace is meant.
    fn identify(&self, wish: &Wish) -> Result<WorkspaceName, Fault> {
        let Some(source) = source_of(&wish.source) else {
            let name = wish.name.clone().ok_or_else(|| {
                Fault::new(Class::Invalid, "neither a source nor a workspace is named")
            })?;
            return self.store.require(&name).map(|_| name);
        };
        if let Some(name) = &wish.name {
            return self.check_same(name, &source).map(|()| name.clone());
        }
        if let Some(name) = self.store.find(&source)? {
            return Ok(name);
        }
        let name = self.derive(&wish.source)?;
        self.check_same(&name, &source)?;
        Ok(name)
    }

    /// A name is taken when a workspace of another source has it.
    fn check_same(&self, name: &WorkspaceName, source: &Source) -> Result<(), Fault> {
        match self.store.load(name)? {
            Some(meta) if !meta.source.is_same(source) => {
                let free = (2..100)
                    .filter_map(|n| format!("{name}-{n}").parse::<WorkspaceName>().ok())
                    .find(|name| matches!(self.store.load(name), Ok(None)));
                let free = free.map_or_else(|| "NAME".to_owned(), |name| name.to_string());
                let message = format!(
                    "workspace {:?} exists already, for {}",
                    name.as_str(),
                    source_text(&meta.source)
                );
                Err(Fault::new(Class::Conflict, message)
                    .suggest(format!("Give this one another name: --name {free}")))
            }
            _ => Ok(()),
        }
    }

    fn derive(&self, wanted: &Wanted) -> Result<WorkspaceName, Fault> {
        let text = match wanted {
            Wanted::Folder(path) => {
                if let Some(name) = configure::project(&open(path)?)?.name {
                    return Ok(name);
                }
                path.to_string_lossy().into_owned()
            }
            Wanted::Repository(url) => url.address().to_owned(),
            Wanted::Existing => String::new(),
        };
        WorkspaceName::derive(&text).ok_or_else(|| {
            Fault::new(
                Class::Invalid,
                format!("no workspace name can be made from {text:?}"),
            )
            .suggest("Give it one: --name NAME")
        })
    }

    fn new_meta(&self, name: &WorkspaceName, wish: &Wish) -> Result<Meta, Fault> {
        let source = source_of(&wish.source)
            .ok_or_else(|| Fault::new(Class::NotFound, format!("there is no workspace {name}")))?;
        let id = format!("{:08x}", self.clock.random() as u32);
        let now = self.clock.now();
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let now = now
            .format(&Rfc3339)
            .map_err(|error| Fault::new(Class::Internal, format!("the clock is off: {error}")))?;
        Ok(Meta::new(name.as_str(), id, now, source))
    }
}

/// A record of an earlier version may have a user in its address, whose name may be a token.
fn renewed(mut meta: Meta, wanted: &Wanted) -> Meta {
    if let Some(source) = source_of(wanted).filter(|source| meta.source.is_same(source)) {
        meta.source = source;
    }
    meta
}

fn source_of(wanted: &Wanted) -> Option<Source> {
    match wanted {
        Wanted::Folder(path) => Some(Source::Folder { path: path.clone() }),
        Wanted::Repository(url) => Some(Source::Repository {
            url: url.address().to_owned(),
            branch: url.branch().map(ToString::to_string),
        }),
        Wanted::Existing => None,
    }
}
