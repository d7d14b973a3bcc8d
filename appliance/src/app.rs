//! One process composed of its parts, in order of dependence.

use std::collections::{HashMap, HashSet};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use builder::cache::inventory;
use registry::service::Registry;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use unpacker::container::idmap::IdMap;
use unpacker::container::launch::Launcher;
use unpacker::container::network::spec::{Bridging, Wiring};
use unpacker::container::resources::Resources;
use unpacker::snapshot::store::Snapshots;

use crate::api::types::DaemonStatus;
use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};
use crate::images::caller::Caller;
use crate::images::external::Accounts;
use crate::images::locate::Here;
use crate::images::service::{Images, Processes};
use crate::options::Options;
use crate::sandbox::keeper;
use crate::sandbox::local::{Defaults, Sandboxes};
use crate::sandbox::record::Record;
use crate::sandbox::removal::Removal;
use crate::sandbox::surroundings::Surroundings;
use crate::sandbox::volumes::Volumes;
use crate::workspace::service::Workspaces;

/// How often the end of a `--rm` sandbox is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// A caller attaches to the sandbox that it started within a moment, or never.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a request may need.
#[derive(Debug)]
pub struct App {
    pub status: DaemonStatus,
    pub registry: Registry,
    pub images: Arc<Images>,
    pub sandboxes: Arc<Sandboxes>,
    pub waiting: Waiting,
    pub shutdown: CancellationToken,
    /// Ids of sandboxes that are looked after.
    kept: Arc<Mutex<HashSet<String>>>,
    options: Options,
    runtime: Handle,
}

impl App {
    /// Opens every store of the data folder. `port` is the registry's as bound.
    pub fn build(
        options: Options,
        registry: Registry,
        status: DaemonStatus,
        port: u16,
        runtime: Handle,
    ) -> Outcome<Self> {
        let folder = DataFolder::new(options.data.clone());
        let snapshots = Snapshots::open(&folder.snapshots()).map_err(|error| {
            Failure::because(Kind::Internal, "cannot open the snapshots", &error)
        })?;
        let snapshots = Arc::new(snapshots);
        if let Err(error) = inventory::sweep(&folder.cache()) {
            // It takes room, and nothing else.
            tracing::warn!(%error, "cannot remove what killed builds left in the build cache");
        }
        let launcher = Launcher::this();
        let surroundings = surroundings(&status, &options, &folder);
        let sandboxes = Sandboxes::open(
            folder.sandboxes(),
            Arc::clone(&snapshots),
            launcher.clone(),
            surroundings.clone(),
            Volumes::open(&folder.volumes())?,
            defaults(&options),
        )?;
        let sandboxes = Arc::new(sandboxes);
        let mut wiring = Wiring::default();
        surroundings.wire(&mut wiring);
        let images = Images::new(
            Here { port },
            registry.clone(),
            snapshots,
            Processes { launcher, wiring },
            folder,
            &options,
            runtime.clone(),
        )?;
        let app = Self {
            status,
            registry,
            images: Arc::new(images),
            sandboxes,
            waiting: Waiting::default(),
            shutdown: CancellationToken::new(),
            kept: Arc::default(),
            options,
            runtime,
        };
        // Whoever watched these has ended with an earlier daemon.
        for record in app.sandboxes.list()?.iter().filter(|record| record.remove) {
            app.sweep_when_done(record);
        }
        for record in app.sandboxes.list()? {
            app.look_after(&record, true);
        }
        Ok(app)
    }

    /// Begins the end, once: first nobody finds this daemon any more, so that a command which comes
    /// now starts the next one; then all work is told.
    pub fn stop(&self) {
        if self.shutdown.is_cancelled() {
            return;
        }
        tracing::info!("stopping");
        match std::fs::remove_file(&self.status.socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(?error, "the control socket cannot be removed");
            }
            _ => {}
        }
        self.shutdown.cancel();
    }

    /// Where this daemon keeps what it knows of workspaces.
    pub fn user_folder(&self) -> &Path {
        &self.options.user_folder
    }

    /// Our accounts at other registries.
    pub fn accounts(&self) -> Accounts {
        Accounts::new(&self.options)
    }

    pub fn workspaces(&self) -> Workspaces {
        self.workspaces_with(Arc::clone(&self.images))
    }

    /// As [`App::workspaces`], with other registries asked on behalf of a command.
    pub fn workspaces_for(&self, caller: Option<Caller>) -> Workspaces {
        self.workspaces_with(Arc::new(self.images.for_caller(caller)))
    }

    fn workspaces_with(&self, images: Arc<Images>) -> Workspaces {
        Workspaces::new(&self.options, images, Arc::clone(&self.sandboxes))
    }

    /// Keeps a stream for the caller who started the sandbox; one who does not come for it loses it,
    /// so that the sandbox never waits for a reader.
    pub fn await_caller(self: &Arc<Self>, id: &str, stream: UnixStream) {
        self.waiting.put(id, stream);
        let (app, id) = (Arc::clone(self), id.to_owned());
        self.runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            drop(app.waiting.take(&id));
        });
    }

    /// Looks after a sandbox that was just started, where it asked for that.
    pub fn keep(&self, record: &Record) {
        self.look_after(record, false);
    }

    fn look_after(&self, record: &Record, is_first: bool) {
        if !keeper::needs_keeping(record) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.insert(record.id.clone()) {
            return;
        }
        let (sandboxes, all, id) = (
            Arc::clone(&self.sandboxes),
            Arc::clone(&self.kept),
            record.id.clone(),
        );
        let (stop, mut is_first) = (self.shutdown.clone(), is_first);
        self.runtime.spawn(async move {
            let lock = || all.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                keeper::keep(Arc::clone(&sandboxes), id.clone(), stop.clone(), is_first).await;
                is_first = false;
                lock().remove(&id);
                // Somebody may have started it while it was being given up.
                let again = !stop.is_cancelled() && keeper::runs(&sandboxes, &id).await;
                if !again || !lock().insert(id.clone()) {
                    return;
                }
            }
        });
    }

    /// Looks after the sandbox that a workspace's row names.
    pub fn keep_sandbox_of(&self, workspace: &serde_json::Value) {
        let id = workspace["devSandboxId"].as_str();
        if let Some(record) = id.and_then(|id| self.sandboxes.find(id).ok()) {
            self.keep(&record);
        }
    }

    /// Removes a `--rm` sandbox once it has ended. A daemon that is restarted meanwhile looks after
    /// it again; one that ended while no daemon ran is swept when the folder is opened.
    pub fn sweep_when_done(&self, record: &Record) {
        let (sandboxes, record) = (Arc::clone(&self.sandboxes), record.clone());
        self.runtime.spawn(async move {
            while sandboxes.is_running(&record).unwrap_or(false) {
                tokio::time::sleep(SWEEP_INTERVAL).await;
            }
            let swept = tokio::task::spawn_blocking(move || sandboxes.remove(&record, Removal::WHOLE)).await;
            if let Ok(Err(failure)) = swept {
                tracing::warn!(failure = ?failure.to_string(), "a finished sandbox could not be removed");
            }
        });
    }
}

/// What the settings say of every sandbox.
fn defaults(options: &Options) -> Defaults {
    let settings = &options.settings.sandbox;
    Defaults {
        resources: Resources {
            cpus: settings.cpu.map(|cpu| cpu.0),
            memory: settings.memory.map(|memory| memory.0),
            ..Resources::default()
        },
        idle_timeout: settings.timeout.0,
    }
}

fn surroundings(status: &DaemonStatus, options: &Options, folder: &DataFolder) -> Surroundings {
    let settings = &options.settings.sandbox;
    let surroundings = Surroundings {
        registry: status.registry.parse().ok(),
        access: settings.registry,
        allow: settings.allow.clone(),
        deny: settings.deny.clone(),
        bridge: Bridging {
            folder: Some(folder.bridge()),
            subnet: settings.subnet,
            address: None,
        },
    };
    if let Some(why) = surroundings.unreached() {
        tracing::warn!("{why}");
    }
    surroundings
}

/// An ordinary user is called root only in the namespace of its daemon.
fn in_a_container(map: &IdMap) -> bool {
    (map.uids.iter()).any(|range| range.inside == 0 && range.outside == 0)
}

/// How an identity map is called in `daemon status`.
pub fn identity() -> Outcome<String> {
    let map = IdMap::current()?;
    let name = match (map.is_whole(), map.is_single()) {
        (true, _) => "root (all ids)",
        (_, true) => "single (one id: no range in /etc/subuid)",
        _ if in_a_container(&map) => "range (ids of this container's root)",
        _ => "range (ids of /etc/subuid)",
    };
    Ok(name.to_owned())
}

/// Streams of sandboxes that were started for a caller who will attach in a moment.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<String, UnixStream>>);

impl Waiting {
    pub fn put(&self, id: &str, stream: UnixStream) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.insert(id.to_owned(), stream);
    }

    pub fn take(&self, id: &str) -> Option<UnixStream> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id)
    }
}
