//! The sandboxes of this host.

use std::collections::HashSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use unpacker::container::idmap::IdMap;
use unpacker::container::launch::Launcher;
use unpacker::container::network::bridge;
use unpacker::container::resources::{Resources, Standing};
use unpacker::container::spec::{
    Confinement, ContainerSpec, Mount, Network, Process, RootFs, Seccomp,
};
use unpacker::container::supervise::{self, LogLine, LogOptions, State};
use unpacker::container::user::Resolved;
use unpacker::crash;
use unpacker::image::config::Execution;
use unpacker::progress::Cancel;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Snapshots;

use crate::api::types::{ExecRequest, SandboxRequest, SandboxRow};
use crate::clock;
use crate::error::{Failure, Kind, Outcome};
use crate::images::gate::Pass;
use crate::sandbox::keeper::Activity;
use crate::sandbox::options::TmpfsMount;
use crate::sandbox::provision::{Given, seen};
use crate::sandbox::record::Record;
use crate::sandbox::refusal::not_usable;
use crate::sandbox::removal::{Removal, end, remove_files, remove_tree, sweep};
use crate::sandbox::surroundings::Surroundings;
use crate::sandbox::users::{further_groups, resolve_user};
use crate::sandbox::volumes::Volumes;
use crate::sandbox::{plan, ports, record};

/// Of a sandbox's id, in hexadecimal digits.
const ID_LENGTH: usize = 12;

/// An image made ready to be run: unpacked, and its configuration read.
#[derive(Debug, Clone)]
pub struct Runnable {
    /// As the user wrote it.
    pub name: String,
    /// `None` while its layers are packed.
    pub digest: Option<String>,
    pub config: Execution,
    /// Lowest first.
    pub stack: Vec<SnapshotId>,
    /// Keeps the stack from being collected before a sandbox's record names it.
    pub pass: Pass,
}

/// What a new sandbox is called.
struct Names {
    id: String,
    name: String,
}

/// All sandboxes of one data folder.
#[derive(Debug)]
pub struct Sandboxes {
    pub(super) root: PathBuf,
    pub(super) snapshots: std::sync::Arc<Snapshots>,
    pub(super) launcher: Launcher,
    surroundings: Surroundings,
    /// Names are given out and taken back one at a time.
    naming: Mutex<()>,
    pub volumes: Volumes,
    defaults: Defaults,
    pub(super) activity: Activity,
    /// Ids of those that somebody stopped since this daemon began.
    pub(super) stopped: Mutex<HashSet<String>>,
}

/// What the settings say of sandboxes that say nothing themselves.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    pub resources: Resources,
    /// Seconds of inactivity; 0 for none.
    pub idle_timeout: u64,
}

impl Sandboxes {
    /// Opens the folder and sweeps what a crash left half-made.
    pub fn open(
        root: PathBuf,
        snapshots: std::sync::Arc<Snapshots>,
        launcher: Launcher,
        surroundings: Surroundings,
        volumes: Volumes,
        defaults: Defaults,
    ) -> Outcome<Self> {
        let sandboxes = Self {
            root,
            snapshots,
            launcher,
            surroundings,
            naming: Mutex::new(()),
            volumes,
            defaults,
            activity: Activity::default(),
            stopped: Mutex::default(),
        };
        unpacker::container::cgroup::sweep();
        if let Some(folder) = &sandboxes.surroundings.bridge.folder
            && let Err(error) = bridge::sweep(folder)
        {
            tracing::warn!(?error, "what a crash left of the bridge cannot be removed");
        }
        for folder in record::folders(&sandboxes.root)? {
            let unwanted = match Record::load(&folder) {
                Ok(None) => Some((Vec::new(), String::new())),
                Ok(Some(record)) => {
                    let survives = sandboxes.survives(&folder, &record);
                    (!survives).then_some((record.volumes, record.id))
                }
                Err(_) => None,
            };
            if let Some((volumes, id)) = unwanted
                && let Err(failure) =
                    sweep(&folder, || sandboxes.delete_volumes(&volumes, Some(&id)))
            {
                // One that cannot be swept must not keep the others from being used.
                let failure = failure.to_string();
                tracing::warn!(?folder, ?failure, "a left-over sandbox cannot be removed");
            }
        }
        if let Err(failure) = sandboxes.sweep_volumes() {
            let failure = failure.to_string();
            tracing::warn!(
                ?failure,
                "what a start that was killed left of its volumes cannot be removed"
            );
        }
        Ok(sandboxes)
    }

    /// While this is held no sandbox is made or removed.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn folder(&self, record: &Record) -> PathBuf {
        self.root.join(&record.id)
    }

    /// Every sandbox whose record can be read, oldest first.
    pub fn list(&self) -> Outcome<Vec<Record>> {
        let mut records = Vec::new();
        for folder in record::folders(&self.root)? {
            match Record::load(&folder) {
                Ok(record) => records.extend(record),
                Err(error) => tracing::warn!(?folder, %error, "a sandbox's record is unreadable"),
            }
        }
        records.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(records)
    }

    /// Sandboxes whose record cannot be read, as rows that say so.
    pub fn broken(&self) -> Outcome<Vec<SandboxRow>> {
        let folders = record::folders(&self.root)?.into_iter();
        let broken = folders.filter(|folder| Record::load(folder).is_err());
        Ok(broken.filter_map(|folder| broken_row(&folder)).collect())
    }

    /// Removes volumes that were made for a sandbox which then did not come to be.
    fn sweep_volumes(&self) -> Outcome<()> {
        let unclaimed = self.volumes.unclaimed()?;
        // An unreadable record may be of one that has them.
        if unclaimed.is_empty() || !self.broken()?.is_empty() {
            return Ok(());
        }
        let records = self.list()?;
        let (had, left): (Vec<_>, Vec<_>) = unclaimed.into_iter().partition(|name| {
            let data = self.volumes.data(name);
            let mut mounts = records.iter().flat_map(|record| &record.spec.mounts);
            mounts.any(|mount| mount.shows(&data))
        });
        had.iter().try_for_each(|name| self.volumes.claim(name))?;
        self.delete_volumes(&left, None)
    }

    /// Removes a sandbox whose record cannot be read, by its id. False where there is none.
    pub fn remove_broken(&self, id: &str) -> Outcome<bool> {
        let _one_at_a_time = self.alone();
        if !self.broken()?.iter().any(|row| row.id == id) {
            return Ok(false);
        }
        let folder = self.root.join(id);
        // Whether it runs is known without the record.
        end(&folder)
            .map_err(|error| Failure::from_error(Kind::Internal, &error))
            .and_then(|held| remove_tree(&folder, &held))
            .map(|()| true)
    }

    /// By name, by id, or by the beginning of an id that only one has.
    pub fn find(&self, name: &str) -> Outcome<Record> {
        // A whole id is a folder's name; no other sandbox can have that name.
        let is_id = name.len() == ID_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id && let Ok(Some(record)) = Record::load(&self.root.join(name)) {
            return Ok(record);
        }
        let records = self.list()?;
        if let Some(exact) = records.iter().find(|r| r.name == name || r.id == name) {
            return Ok(exact.clone());
        }
        let mut close = records
            .into_iter()
            .filter(|r| name.len() >= 3 && r.id.starts_with(name));
        match (close.next(), close.next()) {
            (Some(record), None) => Ok(record),
            (Some(_), Some(_)) => Err(Failure::invalid(format!(
                "several sandboxes' ids begin with {name:?}"
            ))),
            _ => Err(Failure::not_found(format!("there is no sandbox {name:?}"))
                .hint("See `devpod sandbox ps`.")),
        }
    }

    /// Makes a sandbox and starts it by `start`; whoever is answered may rely on it. Its record becomes
    /// durable only then, because no process needs to wait for the disk.
    pub fn run<T>(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        cancel: &Cancel,
        start: impl FnOnce(&Record) -> Outcome<T>,
    ) -> Outcome<(Record, T)> {
        let record = self.make(runnable, request, &[], cancel)?;
        let settle = |started| match record.remove {
            // Removed after a crash of the host in any case.
            true => Ok(started),
            false => self.settle(&record).map(|()| started),
        };
        match start(&record).and_then(settle) {
            Ok(started) => Ok((record, started)),
            Err(failure) => {
                self.remove(&record, Removal::WHOLE)?;
                Err(failure)
            }
        }
    }

    /// Makes durable what of a sandbox is not, and notes its image where that had no digest yet.
    pub fn rely_on(&self, name: &str, image_digest: Option<&str>) -> Outcome<()> {
        let alone = self.alone();
        let mut record = self.find(name)?;
        let folder = self.folder(&record);
        if let (true, Some(digest)) = (record.image_digest.is_empty(), image_digest) {
            digest.clone_into(&mut record.image_digest);
            record.replace(&folder)?;
        }
        drop(alone);
        match record::is_settled(&folder) {
            true => Ok(()),
            false => self.settle(&record),
        }
    }

    /// Makes a new sandbox durable: what its image was unpacked to, then itself.
    fn settle(&self, record: &Record) -> Outcome<()> {
        let folder = self.folder(record);
        self.snapshots.sync_for(&record.stack)?;
        record::set_settled(&folder)?;
        record.sync(&folder).map_err(Failure::from)
    }

    /// Whether a sandbox is to be kept when the daemon starts. One whose image's files a crash took
    /// before they were durable was told to nobody.
    fn survives(&self, folder: &Path, record: &Record) -> bool {
        if record.remove || record::is_settled(folder) {
            return !record.remove;
        }
        let gone = |id| matches!(self.snapshots.get(id), Ok(None));
        if record.stack.iter().any(gone) {
            return false;
        }
        if let Err(failure) = self.settle(record) {
            // It is as good as before, and the next daemon tries again.
            let failure = failure.to_string();
            tracing::warn!(?folder, ?failure, "a sandbox cannot be made durable");
        }
        true
    }

    /// Makes a sandbox without starting it, with mounts of the caller's own after the request's. Nobody may
    /// be told to rely on it before [`Sandboxes::rely_on`]: after a crash of the host it is there whole or
    /// not at all.
    pub fn make(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
        cancel: &Cancel,
    ) -> Outcome<Record> {
        // Looked at before anything is copied, and again when the name is given out.
        {
            let _one_at_a_time = self.alone();
            self.free_name(request.name.as_deref(), "")?;
        }
        // What volumes begin with can take long to copy, so nobody else waits for it.
        let volumes = self.volumes_of(runnable, request, mounts, cancel)?;
        let made = self.make_with(runnable, request, mounts, &volumes);
        if made.is_err() {
            self.give_back(volumes)?;
        }
        made
    }

    fn make_with(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
        volumes: &[Given<'_>],
    ) -> Outcome<Record> {
        let _one_at_a_time = self.alone();
        let id = new_id()?;
        let name = self.free_name(request.name.as_deref(), &id)?;
        let folder = self.root.join(&id);
        fs::create_dir(&folder)?;
        crash::point("sandbox-before-row");
        let names = Names { id, name };
        let made = self.fill(&folder, names, runnable, request, mounts, volumes);
        if made.is_err() {
            remove_files(&folder)?;
        }
        made
    }

    fn fill(
        &self,
        folder: &Path,
        names: Names,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
        volumes: &[Given<'_>],
    ) -> Outcome<Record> {
        let Names { id, name } = names;
        for part in ["upper", "work"] {
            fs::create_dir(folder.join(part))?;
        }
        let rootfs = RootFs {
            lower: self.lower(&runnable.stack)?,
            upper: folder.join("upper"),
            work: folder.join("work"),
            // It is removed when it ends, and so after a crash of the host.
            volatile: request.remove,
            becomes_layer: false,
        };
        let mut spec = spec(&id, rootfs, &runnable.config, request)?;
        spec.mounts.extend(volumes.iter().map(seen));
        spec.mounts
            .extend(request.options.tmpfs.iter().map(TmpfsMount::mount));
        spec.mounts.extend_from_slice(mounts);
        // Whatever lies in another comes after it; docker's order too.
        (spec.mounts).sort_by_key(|mount| mount.target().components().count());
        let limits = &self.defaults.resources;
        spec.resources.cpus = spec.resources.cpus.or(limits.cpus);
        spec.resources.memory = spec.resources.memory.or(limits.memory);
        let mut keeping = request.options.keeping.clone();
        keeping
            .idle_timeout
            .get_or_insert(self.defaults.idle_timeout);
        let record = Record {
            name,
            image: runnable.name.clone(),
            image_digest: runnable.digest.clone().unwrap_or_default(),
            stack: runnable.stack.clone(),
            spec,
            stop_signal: (keeping.stop_signal.clone()).or(runnable.config.stop_signal.clone()),
            remove: request.remove,
            volumes: (volumes.iter())
                .filter(|(_, provided)| provided.anonymous)
                .map(|(_, provided)| provided.name.clone())
                .collect(),
            keeping,
            created_at: clock::now_rfc3339(),
            id,
        };
        if !record.remove {
            record::set_unsettled(folder)?;
        }
        record.save(folder)?;
        crash::point("sandbox-after-row");
        for (_, provided) in volumes {
            self.volumes.claim(&provided.name)?;
        }
        Ok(record)
    }

    pub(super) fn lower(&self, stack: &[SnapshotId]) -> Outcome<Vec<PathBuf>> {
        stack
            .iter()
            .map(|id| match self.snapshots.get(id)? {
                Some(path) => Ok(path),
                None => Err(Failure::internal(format!("snapshot {id} is gone"))),
            })
            .collect()
    }

    fn free_name(&self, wanted: Option<&str>, id: &str) -> Outcome<String> {
        let Some(wanted) = wanted else {
            return Ok(id.to_owned());
        };
        plan::check_name(wanted)?;
        if let Some(other) = self
            .list()?
            .iter()
            .find(|r| r.name == wanted || r.id == wanted)
        {
            return Err(Failure::conflict(format!(
                "the name {wanted:?} is taken by sandbox {}",
                other.id
            ))
            .hint(format!(
                "Remove it with `devpod sandbox rm {wanted}`, or use another name."
            )));
        }
        Ok(wanted.to_owned())
    }

    /// The specification with what this daemon, and no earlier one, says of networks.
    pub(super) fn wired(&self, record: &Record) -> ContainerSpec {
        let mut spec = record.spec.clone();
        self.surroundings.wire(&mut spec.wiring);
        spec
    }

    pub fn state(&self, record: &Record) -> Outcome<State> {
        supervise::state(&self.folder(record)).map_err(Failure::from)
    }

    pub fn is_running(&self, record: &Record) -> Outcome<bool> {
        Ok(matches!(self.state(record)?, State::Running { .. }))
    }

    /// All sandboxes but those that are removed while this looks.
    pub fn rows(&self) -> Outcome<Vec<SandboxRow>> {
        let mut rows = Vec::new();
        for record in self.list()? {
            match self.row(&record) {
                Ok(row) => rows.push(row),
                Err(_) if matches!(Record::load(&self.folder(&record)), Ok(None)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(rows)
    }

    pub fn row(&self, record: &Record) -> Outcome<SandboxRow> {
        let (status, exit_code, pid) = match self.state(record)? {
            State::Running { pid } => ("running", None, u32::try_from(pid).ok()),
            State::Exited(exit) => ("exited", Some(exit.code()), None),
            State::Stopped => ("stopped", None, None),
            State::Lost => ("lost", None, None),
            State::Never => ("created", None, None),
        };
        let run = supervise::run(&self.folder(record))?;
        Ok(SandboxRow {
            out_of_memory: run.out_of_memory > 0,
            warnings: warnings(record, &run.standings),
            limits: run.standings,
            labels: record.keeping.labels.clone(),
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.clone(),
            command: record.spec.process.args.clone(),
            status: status.to_owned(),
            exit_code,
            pid,
            created_at: record.created_at.clone(),
            ports: supervise::ports(&self.folder(record))?
                .iter()
                .map(ports::row)
                .collect(),
        })
    }

    pub fn attach(&self, record: &Record) -> Outcome<UnixStream> {
        supervise::attach(&self.folder(record)).map_err(|error| not_usable(record, &error))
    }

    /// One more process; the image's user, folder and environment unless the request says others.
    pub fn exec(&self, record: &Record, request: &ExecRequest) -> Outcome<UnixStream> {
        if !self.is_running(record)? {
            return Err(Failure::conflict(format!(
                "sandbox {:?} does not run",
                record.name
            )));
        }
        let process = self.process(record, request)?;
        self.exec_process(record, &process)
    }

    /// One more process, exactly as described.
    pub fn exec_process(&self, record: &Record, process: &Process) -> Outcome<UnixStream> {
        supervise::exec(&self.launcher, &self.folder(record), process)
            .map_err(|error| not_usable(record, &error))
    }

    fn process(&self, record: &Record, request: &ExecRequest) -> Outcome<Process> {
        let first = &record.spec.process;
        let image = Execution {
            env: first.env.clone(),
            ..Execution::default()
        };
        let mut env = image.clone();
        let user = match request.user.as_deref() {
            None => first.user.clone(),
            Some(text) => {
                let resolved = self.resolve(record, text)?;
                env.set_variable("HOME", &resolved.home);
                resolved.user
            }
        };
        Ok(Process {
            args: request.command.clone(),
            env: plan::environment(&env, &request.env, "/", request.terminal),
            cwd: request.cwd.clone().unwrap_or_else(|| first.cwd.clone()),
            user,
            terminal: request.terminal,
            // Taken from the sandbox.
            confinement: Confinement::default(),
        })
    }

    /// A user as the sandbox's own /etc/passwd knows it.
    pub fn resolve(&self, record: &Record, text: &str) -> Outcome<Resolved> {
        resolve_user(&record.spec.rootfs, text)
    }

    /// Gives a sandbox another name.
    pub fn rename(&self, record: &Record, name: &str) -> Outcome<Record> {
        let _one_at_a_time = self.alone();
        let renamed = Record {
            name: self.free_name(Some(name), &record.id)?,
            ..record.clone()
        };
        renamed.replace(&self.folder(record))?;
        Ok(renamed)
    }

    /// When a sandbox last printed something; its start where it never did.
    pub fn last_output(&self, record: &Record) -> Option<std::time::SystemTime> {
        let folder = self.folder(record);
        let times = ["log", "monitor.json"].map(|name| fs::metadata(folder.join(name)));
        times
            .into_iter()
            .filter_map(|data| data.ok()?.modified().ok())
            .max()
    }

    pub fn logs(
        &self,
        record: &Record,
        options: LogOptions,
        cancel: &Cancel,
        each: &mut dyn FnMut(LogLine),
    ) -> Outcome<()> {
        supervise::logs(&self.folder(record), options, cancel, each).map_err(Failure::from)
    }
}

/// What does not hold, and what holds less than one may think.
fn warnings(record: &Record, standings: &[Standing]) -> Vec<String> {
    let mut warnings: Vec<_> = standings.iter().filter_map(Standing::warning).collect();
    let confinement = &record.spec.process.confinement;
    let opened = record.spec.surroundings.unmasked
        || confinement.capabilities.has("SYS_ADMIN")
        || confinement.seccomp != Seccomp::Default;
    // Ids are not shifted for root: what belongs to root on the host belongs to this root, and with
    // these privileges nothing covers the kernel's settings any more.
    if opened && IdMap::current().is_ok_and(|ids| ids.is_whole()) {
        warnings.push(
            "the daemon is root, so with these privileges the sandbox can change this host; a \
             daemon of an ordinary user does not let it"
                .to_owned(),
        );
    }
    warnings
}

fn broken_row(folder: &Path) -> Option<SandboxRow> {
    let id = folder.file_name()?.to_str()?.to_owned();
    Some(SandboxRow {
        name: id.clone(),
        id,
        image: String::new(),
        command: Vec::new(),
        status: "broken".to_owned(),
        exit_code: None,
        pid: None,
        created_at: String::new(),
        out_of_memory: false,
        limits: Vec::new(),
        warnings: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        ports: Vec::new(),
    })
}

fn spec(
    id: &str,
    rootfs: RootFs,
    image: &Execution,
    request: &SandboxRequest,
) -> Outcome<ContainerSpec> {
    plan::check_variables(&request.env)?;
    if let Some(hostname) = &request.hostname {
        plan::check_hostname(hostname)?;
    }
    let user = request.user.as_deref().unwrap_or(&image.user);
    let options = &request.options;
    let mut resolved = resolve_user(&rootfs, user)?;
    let further = further_groups(&rootfs, &options.groups)?;
    resolved.user.groups.extend(further);
    let cwd = request
        .cwd
        .clone()
        .unwrap_or_else(|| image.working_dir.clone());
    let network = plan::network(request.network.as_deref())?;
    if network == Network::Bridge {
        bridge::probe::privileged().map_err(no_bridge)?;
    }
    Ok(ContainerSpec {
        rootfs,
        hostname: request.hostname.clone().unwrap_or_else(|| id.to_owned()),
        mounts: plan::mounts(&request.mounts)?,
        network,
        wiring: plan::wiring(request, image, network)?,
        process: Process {
            args: plan::command(request, image)?,
            env: plan::environment(image, &request.env, &resolved.home, request.terminal),
            cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
            user: resolved.user,
            terminal: request.terminal,
            confinement: options.confinement.clone(),
        },
        init: !options.without_init,
        resources: options.resources.clone(),
        surroundings: options.surroundings.clone(),
        log: options.log,
    })
}

fn no_bridge(why: String) -> Failure {
    Failure::new(Kind::Denied, format!("no --network bridge here: {why}"))
        .hint("Leave out --network: the private network needs no privilege.")
}

/// Random hexadecimal digits.
fn new_id() -> Outcome<String> {
    let mut bytes = [0u8; ID_LENGTH / 2];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Failure::internal("the system's random source failed"))?;
    Ok(unpacker::digest::hex(&bytes))
}
