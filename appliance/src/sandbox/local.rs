//! The sandboxes of this host.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use config::range::Range;
use unpacker::container::launch::{Launcher, Stage};
use unpacker::container::network::spec::{Visible, Wiring};
use unpacker::container::spec::{ContainerSpec, Mount, Process, RootFs};
use unpacker::container::supervise::{self, Held, LogLine, LogOptions, State, SuperviseError};
use unpacker::container::user::{self, Resolved};
use unpacker::image::config::Execution;
use unpacker::progress::Cancel;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::Snapshots;

use crate::api::types::{ExecRequest, SandboxRequest, SandboxRow};
use crate::clock;
use crate::error::{Failure, Kind, Outcome};
use crate::images::gate::Pass;
use crate::sandbox::record::Record;
use crate::sandbox::{plan, ports, record};

/// How long a process has between its stop signal and SIGKILL when nobody says.
const GRACE: Duration = Duration::from_secs(10);

/// Of a sandbox's id, in hexadecimal digits.
const ID_LENGTH: usize = 12;

/// An image made ready to be run: unpacked, and its configuration read.
#[derive(Debug, Clone)]
pub struct Runnable {
    /// As the user wrote it.
    pub name: String,
    pub digest: String,
    pub config: Execution,
    /// Lowest first.
    pub stack: Vec<SnapshotId>,
    /// Keeps the stack from being collected before a sandbox's record names it.
    pub pass: Pass,
}

/// What every private network of this daemon has.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the embedded registry listens; at `localhost` inside with the same port.
    pub registry: Option<SocketAddr>,
    pub allow: Vec<Range>,
    pub deny: Vec<Range>,
}

impl Surroundings {
    /// Says it in a wiring.
    pub fn wire(&self, wiring: &mut Wiring) {
        wiring.visible = (self.registry.iter())
            .map(|host| Visible {
                port: host.port(),
                host: *host,
            })
            .collect();
        wiring.allow.clone_from(&self.allow);
        wiring.deny.clone_from(&self.deny);
    }
}

/// What a new sandbox is called.
struct Names {
    id: String,
    name: String,
}

/// All sandboxes of one data folder.
#[derive(Debug)]
pub struct Sandboxes {
    root: PathBuf,
    snapshots: std::sync::Arc<Snapshots>,
    launcher: Launcher,
    surroundings: Surroundings,
    /// Names are given out and taken back one at a time.
    naming: Mutex<()>,
}

impl Sandboxes {
    /// Opens the folder and sweeps what a crash left half-made.
    pub fn open(
        root: PathBuf,
        snapshots: std::sync::Arc<Snapshots>,
        launcher: Launcher,
        surroundings: Surroundings,
    ) -> Outcome<Self> {
        let sandboxes = Self {
            root,
            snapshots,
            launcher,
            surroundings,
            naming: Mutex::new(()),
        };
        for folder in record::folders(&sandboxes.root)? {
            let unwanted = match Record::load(&folder) {
                Ok(None) => true,
                Ok(Some(record)) => record.remove,
                Err(_) => false,
            };
            if unwanted && let Err(failure) = sweep(&folder) {
                // One that cannot be swept must not keep the others from being used.
                let failure = failure.to_string();
                tracing::warn!(?folder, ?failure, "a left-over sandbox cannot be removed");
            }
        }
        Ok(sandboxes)
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

    /// Removes a sandbox whose record cannot be read, by its id. False where there is none.
    pub fn remove_broken(&self, id: &str) -> Outcome<bool> {
        let _one_at_a_time = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
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
        start: impl FnOnce(&Record) -> Outcome<T>,
    ) -> Outcome<(Record, T)> {
        let record = self.make(runnable, request, &[])?;
        let settle = |started| match record.remove {
            // Removed after a crash of the host in any case.
            true => Ok(started),
            false => record
                .sync(&self.folder(&record))
                .map(|()| started)
                .map_err(Failure::from),
        };
        match start(&record).and_then(settle) {
            Ok(started) => Ok((record, started)),
            Err(failure) => {
                self.remove(&record, true)?;
                Err(failure)
            }
        }
    }

    /// Makes a sandbox without starting it, with mounts of the caller's own after the request's.
    pub fn create_with(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
    ) -> Outcome<Record> {
        let record = self.make(runnable, request, mounts)?;
        record.sync(&self.folder(&record))?;
        Ok(record)
    }

    fn make(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
    ) -> Outcome<Record> {
        let _one_at_a_time = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let id = new_id()?;
        let name = self.free_name(request.name.as_deref(), &id)?;
        let folder = self.root.join(&id);
        fs::create_dir(&folder)?;
        let names = Names { id, name };
        let made = self.fill(&folder, names, runnable, request, mounts);
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
        };
        let mut spec = spec(&id, rootfs, &runnable.config, request)?;
        spec.mounts.extend_from_slice(mounts);
        let record = Record {
            name,
            image: runnable.name.clone(),
            image_digest: runnable.digest.clone(),
            stack: runnable.stack.clone(),
            spec,
            stop_signal: runnable.config.stop_signal.clone(),
            remove: request.remove,
            created_at: clock::now_rfc3339(),
            id,
        };
        record.save(folder)?;
        Ok(record)
    }

    fn lower(&self, stack: &[SnapshotId]) -> Outcome<Vec<PathBuf>> {
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

    /// Starts a sandbox that does not run; what it changed before is still there.
    pub fn start(&self, record: &Record) -> Outcome<()> {
        supervise::start(&self.launcher, &self.folder(record), &self.wired(record))
            .map(|_| ())
            .map_err(|error| start_failed(record, &error))
    }

    /// Starts it with a stream to its first process that misses nothing.
    pub fn start_attached(&self, record: &Record) -> Outcome<UnixStream> {
        supervise::start_attached(&self.launcher, &self.folder(record), &self.wired(record))
            .map_err(|error| start_failed(record, &error))
    }

    /// The specification with what this daemon, and no earlier one, says of networks.
    fn wired(&self, record: &Record) -> ContainerSpec {
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

    pub fn row(&self, record: &Record) -> Outcome<SandboxRow> {
        let (status, exit_code, pid) = match self.state(record)? {
            State::Running { pid } => ("running", None, u32::try_from(pid).ok()),
            State::Exited(exit) => ("exited", Some(exit.code()), None),
            State::Stopped => ("stopped", None, None),
            State::Lost => ("lost", None, None),
            State::Never => ("created", None, None),
        };
        Ok(SandboxRow {
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
        })
    }

    /// A user as the sandbox's own /etc/passwd knows it.
    pub fn resolve(&self, record: &Record, text: &str) -> Outcome<Resolved> {
        resolve_user(&record.spec.rootfs, text)
    }

    pub fn stop(&self, record: &Record, grace: Option<Duration>) -> Outcome<()> {
        if !self.is_running(record)? {
            return Ok(());
        }
        let signal = plan::signal(record.stop_signal.as_deref());
        match supervise::stop(&self.folder(record), signal, grace.unwrap_or(GRACE)) {
            // It ended by itself a moment ago.
            Ok(_) | Err(SuperviseError::NotRunning) => Ok(()),
            Err(error) => Err(not_usable(record, &error)),
        }
    }

    /// Removes a sandbox and what it changed. One that is gone already is no failure.
    pub fn remove(&self, record: &Record, force: bool) -> Outcome<()> {
        let _one_at_a_time = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.folder(record).exists() {
            return Ok(());
        }
        if !force && self.is_running(record)? {
            return Err(
                Failure::conflict(format!("sandbox {:?} is running", record.name))
                    .hint("Stop it first, or remove it with --force."),
            );
        }
        let folder = self.folder(record);
        let held = match force {
            true => end(&folder),
            false => supervise::hold(&folder),
        };
        let held = held.map_err(|error| not_usable(record, &error))?;
        remove_tree(&folder, &held)
    }

    /// Whether any sandbox stands on this snapshot.
    pub fn uses(&self, id: &SnapshotId) -> Outcome<bool> {
        Ok(self.list()?.iter().any(|record| record.stack.contains(id)))
    }

    pub fn logs(
        &self,
        record: &Record,
        follow: bool,
        cancel: &Cancel,
        each: &mut dyn FnMut(LogLine),
    ) -> Outcome<()> {
        let options = LogOptions {
            follow,
            ..LogOptions::default()
        };
        supervise::logs(&self.folder(record), options, cancel, each).map_err(Failure::from)
    }
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
    let resolved = resolve_user(&rootfs, user)?;
    let cwd = request
        .cwd
        .clone()
        .unwrap_or_else(|| image.working_dir.clone());
    let network = plan::network(request.network.as_deref())?;
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
        },
        init: true,
    })
}

/// Looks a user up in the stacked root file system, through a mount that nobody else sees.
fn resolve_user(rootfs: &RootFs, text: &str) -> Outcome<Resolved> {
    let mut lower = rootfs.lower.clone();
    // Read-only: the sandbox may be running on this upper folder.
    lower.push(rootfs.upper.clone());
    let overlay = Overlay {
        lower,
        upper: None,
        volatile: false,
    };
    let root = overlay.mount_detached().map_err(|error| {
        Failure::because(Kind::Internal, "cannot stack the image's layers", &error)
    })?;
    user::resolve(root.as_fd(), text).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// Kills what runs in a sandbox's folder, also what has only just begun to.
fn end(folder: &Path) -> Result<Held, SuperviseError> {
    loop {
        match supervise::hold(folder) {
            Err(SuperviseError::Running { .. }) => match supervise::kill(folder) {
                Ok(_) | Err(SuperviseError::NotRunning) => {}
                Err(error) => return Err(error),
            },
            held => return held,
        }
    }
}

/// Removes what a crash left, unless it turns out to live: a start outlives the daemon that began it.
fn sweep(folder: &Path) -> Outcome<()> {
    match supervise::hold(folder) {
        Ok(held) => remove_tree(folder, &held),
        Err(SuperviseError::Running { .. }) => Ok(()),
        Err(error) => Err(Failure::from_error(Kind::Internal, &error)),
    }
}

/// Removes a sandbox in which nothing runs. Its record goes first, so that a crash on the way leaves
/// a folder that is swept, and never half a sandbox.
fn remove_tree(folder: &Path, _held: &Held) -> Outcome<()> {
    record::remove(folder)?;
    remove_files(folder)
}

fn remove_files(folder: &Path) -> Outcome<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}", folder.display());
            Err(Failure::because(Kind::Internal, message, &error))
        }
        _ => Ok(()),
    }
}

fn start_failed(record: &Record, error: &SuperviseError) -> Failure {
    let kind = match error {
        SuperviseError::Running { .. } | SuperviseError::Busy => Kind::Conflict,
        SuperviseError::Refused(refusal) if refusal.stage == Stage::Port => Kind::Conflict,
        SuperviseError::Refused(_) => Kind::Invalid,
        _ => Kind::Internal,
    };
    Failure::because(
        kind,
        format!("cannot start sandbox {:?}", record.name),
        error,
    )
    .exiting(shell_code(error))
}

fn not_usable(record: &Record, error: &SuperviseError) -> Failure {
    let kind = match error {
        SuperviseError::Running { .. } | SuperviseError::NotRunning | SuperviseError::Busy => {
            Kind::Conflict
        }
        SuperviseError::Refused(_) => Kind::Invalid,
        _ => Kind::Internal,
    };
    Failure::because(kind, format!("sandbox {:?}", record.name), error).exiting(shell_code(error))
}

/// The exit codes of a shell, and of docker, for a program that did not start (POSIX.1-2017, XCU
/// 2.8.2): 127 when it is not there, 126 when it cannot be executed.
fn shell_code(error: &SuperviseError) -> Option<u8> {
    let SuperviseError::Refused(refusal) = error else {
        return None;
    };
    match refusal.stage {
        Stage::NotFound => Some(127),
        Stage::NotExecutable => Some(126),
        _ => None,
    }
}

/// Random hexadecimal digits.
fn new_id() -> Outcome<String> {
    let mut bytes = [0u8; ID_LENGTH / 2];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Failure::internal("the system's random source failed"))?;
    Ok(unpacker::digest::hex(&bytes))
}
