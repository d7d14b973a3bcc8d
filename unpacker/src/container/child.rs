//! The inside of a container's start: from fresh namespaces to the program.
//!
//! [`start`] runs in a single-threaded helper. Its child is PID 1 of the container; it waits until
//! its ids are mapped, builds the root, confines itself and becomes the program, or starts it and
//! stays as init. It tells what goes wrong over a wire, in words.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{DumpableBehavior, Pid, Signal};
use serde::{Deserialize, Serialize};

use super::devices;
use super::exit::Exit;
use super::held::Held;
use super::idmap::{IdMap, identity};
use super::init;
use super::launch::{Refusal, Refuse, Stage};
use super::network::{Attached, Prepared, Published};
use super::program::{self, Never, Stdio};
use super::recorder::Recorder;
use super::rootfs;
use super::spec::{ContainerSpec, Network};
use super::sys::{self, Forked};
use super::wire::Wire;
use crate::crash;
use crate::layer::root::metadata::Owner;

/// What the child tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Mount points that were made in the upper folder.
    Created(Vec<PathBuf>),
    /// The relay's side of the terminal comes with it.
    Terminal,
    Refused(Refusal),
    /// The program runs. Without an init the end of the wire says it.
    Running,
    /// An init's word on how the program ended.
    Ended(Exit),
}

/// A running container, as its parent holds it.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) terminal: Option<OwnedFd>,
    created: Vec<PathBuf>,
    held: Held,
    network: Option<Attached>,
    recorder: Option<Recorder>,
    wire: Wire,
}

/// How a container ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) exit: Exit,
    /// Processes that were killed because the container had no memory left.
    pub(crate) out_of_memory: u64,
}

/// Starts a container. `stdio` is for the program; with a terminal it gets that instead.
pub(crate) fn start(spec: &ContainerSpec, stdio: Stdio) -> Result<Started, Refusal> {
    let ids = IdMap::current().refuse(Stage::Namespaces, || "read the id map".into())?;
    super::confine::check_user(&ids, &spec.process.user)?;
    let network = Prepared::of(spec)?;
    let held = Held::prepare(spec)?;
    let mut spec = held.applied_to(spec);
    spec.wiring.bridge.address = network.as_ref().and_then(Prepared::address);
    let spec = &spec;
    let socket = || "make a socket".to_owned();
    let (wire, theirs) = Wire::pair().refuse(Stage::Namespaces, socket)?;
    let recorded = ids.is_single() && spec.rootfs.becomes_layer;
    let recording = match recorded {
        true => Some(Wire::pair().refuse(Stage::Namespaces, socket)?),
        false => None,
    };
    let forked = sys::fork(namespaces(spec)).refuse(Stage::Namespaces, explain_namespaces);
    let forked = forked.inspect_err(|_| {
        held.end();
    })?;
    match forked {
        Forked::Child => {
            drop(wire);
            let recorder = recording.map(|(asks, _)| asks);
            child(spec, &ids, &Wire::from_fd(theirs), stdio, recorder.as_ref())
        }
        Forked::Parent(pid, pidfd) => {
            drop(theirs);
            drop(stdio);
            let user = Owner {
                uid: spec.process.user.uid,
                gid: spec.process.user.gid,
            };
            // The container's end goes with the last line: a recorder that nobody asks ends.
            let recorder = recording
                .map(|(_, hears)| Recorder::start(pid, user, hears))
                .transpose();
            let result = recorder.and_then(|recorder| {
                let admitted =
                    map_ids(pid, &ids).and_then(|()| held.admit(pid.as_raw_nonzero().get()));
                admitted?;
                let (heard, network) = bring_up(&wire, spec.init, network, &held, &pidfd)?;
                Ok((heard, network, recorder))
            });
            match result {
                Ok((Heard { terminal, created }, network, recorder)) => Ok(Started {
                    pid,
                    pidfd,
                    terminal,
                    created,
                    held,
                    network,
                    recorder,
                    wire,
                }),
                Err(refusal) => {
                    let _ = sys::send_signal(&pidfd, libc::SIGKILL);
                    let _ = sys::wait(pid.as_raw_nonzero().get(), 0);
                    held.end();
                    rootfs::clean_work(&spec.rootfs.work);
                    Err(refusal)
                }
            }
        }
    }
}

impl Started {
    /// Waits for the end and takes the traces of the mounts away.
    pub(crate) fn wait(mut self, spec: &ContainerSpec) -> Ending {
        let status = sys::wait(self.pid.as_raw_nonzero().get(), 0);
        drop(self.recorder.take());
        if let Some(network) = self.network.take() {
            // Where it has to stay, its last words are cut short.
            let _ = self.held.release_helper(network.pid());
            network.end();
        }
        let exit = match (self.told_exit(), status) {
            (Some(exit), _) => exit,
            (None, Ok(Some((_, status)))) => Exit::of_status(status),
            (None, _) => Exit::Code(255),
        };
        let out_of_memory = self.held.end();
        super::inside::remove_created(&spec.rootfs.upper, &self.created);
        rootfs::clean_work(&spec.rootfs.work);
        Ending {
            exit: exit.with_kills(out_of_memory),
            out_of_memory,
        }
    }

    /// What holds it to its limits.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// The host's ports that lead inside.
    pub(crate) fn published(&self) -> Vec<Published> {
        let network = self.network.as_ref();
        network.map_or(Vec::new(), |network| network.published.clone())
    }

    /// Where it is on a bridge.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.network.as_ref().and_then(Attached::address)
    }

    fn told_exit(&self) -> Option<Exit> {
        while let Ok(Some((told, _))) = self.wire.recv::<Told>() {
            if let Told::Ended(exit) = told {
                return Some(exit);
            }
        }
        None
    }
}

fn namespaces(spec: &ContainerSpec) -> libc::c_int {
    let network = match spec.network {
        Network::Host => 0,
        Network::None | Network::Private | Network::Bridge => libc::CLONE_NEWNET,
    };
    network
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
}

fn explain_namespaces() -> String {
    format!(
        "make the container's namespaces ({})",
        super::probe::userns_hint()
    )
}

/// Gives the nested namespace exactly the ids of this one, and lets the child go on.
fn map_ids(pid: Pid, ids: &IdMap) -> Result<(), Refusal> {
    for (file, ranges) in [("uid_map", &ids.uids), ("gid_map", &ids.gids)] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, identity(ranges)).refuse(Stage::Namespaces, || {
            format!("write the container's {file}")
        })?;
    }
    Ok(())
}

/// What a child tells until its program runs.
struct Heard {
    terminal: Option<OwnedFd>,
    created: Vec<PathBuf>,
}

/// Lets the child go on, makes its network meanwhile, and hears it until its program runs.
fn bring_up(
    wire: &Wire,
    init: bool,
    network: Option<Prepared>,
    held: &Held,
    container: &OwnedFd,
) -> Result<(Heard, Option<Attached>), Refusal> {
    let lost = || "talk to the container's first process".to_owned();
    wire.send(&"mapped", &[]).refuse(Stage::Namespaces, lost)?;
    let Some(network) = network else {
        return hear(wire, init).map(|heard| (heard, None));
    };
    let attached = network.start(container)?;
    // Before it has taken anything that would count.
    let admitted = held.admit_helper(attached.pid());
    let ready = admitted.and_then(|()| attached.ready()).and_then(|()| {
        let told = wire.send(&"connected", &[]);
        told.refuse(Stage::Namespaces, lost)
    });
    match ready.and_then(|()| hear(wire, init)) {
        Ok(heard) => Ok((heard, Some(attached))),
        Err(refusal) => {
            attached.kill();
            Err(refusal)
        }
    }
}

/// Hears the child until its program runs. An exec closes the wire; an init, which executes nothing,
/// says so, and when it is silent it was killed.
fn hear(wire: &Wire, init: bool) -> Result<Heard, Refusal> {
    let lost = || "talk to the container's first process".to_owned();
    let (mut terminal, mut created, mut running) = (None, Vec::new(), !init);
    while let Some((told, mut fds)) = wire.recv::<Told>().refuse(Stage::Namespaces, lost)? {
        match told {
            Told::Created(paths) => created = paths,
            Told::Terminal => terminal = fds.pop(),
            Told::Refused(refusal) => return Err(refusal),
            Told::Running => {
                running = true;
                break;
            }
            Told::Ended(_) => {}
        }
    }
    if !running {
        let why = "the container's first process was killed before its program ran";
        return Err(Refusal::new(Stage::Namespaces, why));
    }
    Ok(Heard { terminal, created })
}

/// PID 1 of the container. Never returns.
fn child(
    spec: &ContainerSpec,
    ids: &IdMap,
    wire: &Wire,
    stdio: Stdio,
    recorder: Option<&Wire>,
) -> ! {
    let refusal = match become_container(spec, ids, wire, stdio, recorder) {
        Err(refusal) => refusal,
        Ok(never) => match never {},
    };
    let _ = wire.send(&Told::Refused(refusal), &[]);
    sys::exit_now(1)
}

fn become_container(
    spec: &ContainerSpec,
    ids: &IdMap,
    wire: &Wire,
    stdio: Stdio,
    recorder: Option<&Wire>,
) -> Result<Never, Refusal> {
    die_with_parent()?;
    let kept = stdio.fds().into_iter().chain([wire.as_fd()]);
    let kept: Vec<_> = kept.chain(recorder.map(Wire::as_fd)).collect();
    sys::close_all_but(&kept).refuse(Stage::Namespaces, || {
        "close what is not for the container".into()
    })?;
    let mapped = wire.recv::<String>();
    if !matches!(mapped, Ok(Some(_))) {
        sys::exit_now(1);
    }
    settle_in(spec)?;
    // Not with the others: its root is the group that a process is in at that moment.
    sys::unshare(libc::CLONE_NEWCGROUP).refuse(Stage::Namespaces, || {
        "make a namespace of control groups".into()
    })?;
    let root = rootfs::assemble(spec, ids.is_single())?;
    crash::point("sandbox-after-root");
    tell(wire, &Told::Created(root.created.clone()))?;
    rootfs::enter(&root.fd)?;
    drop(root);
    let stdio = match spec.process.terminal {
        true => terminal(wire)?,
        false => stdio,
    };
    rootfs::enter_folder(&spec.process.cwd, true)?;
    if spec.surroundings.read_only {
        rootfs::close().refuse(Stage::Mount, || "make the root read-only".into())?;
    }
    let carried = matches!(spec.network, Network::Private | Network::Bridge);
    if carried && !matches!(wire.recv::<String>(), Ok(Some(_))) {
        sys::exit_now(1);
    }
    if spec.init {
        init::run(&spec.process, ids, wire, stdio, recorder)
    } else {
        program::become_program(&spec.process, ids, stdio, recorder)
    }
}

/// Dies with the helper, and is nobody's to look into: the binary behind `/proc/1/exe` and the
/// descriptors of the host are out of reach for the container.
fn die_with_parent() -> Result<(), Refusal> {
    let what = || "protect the container's first process".to_owned();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .refuse(Stage::Namespaces, what)
}

fn settle_in(spec: &ContainerSpec) -> Result<(), Refusal> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .refuse(Stage::Namespaces, || {
            "protect the container's first process".into()
        })?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        // podman's filter takes this call, and nothing else that we need, from a container around
        // us: ours then has that one's name.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => {
            let text = format!("cannot set the host name {:?}: {error}", spec.hostname);
            return Err(Refusal::new(Stage::Namespaces, text));
        }
    }
    if spec.network == Network::None {
        sys::loopback_up().refuse(Stage::Namespaces, || "set lo up".into())?;
    }
    Ok(())
}

fn tell(wire: &Wire, told: &Told) -> Result<(), Refusal> {
    wire.send(told, &[])
        .refuse(Stage::Namespaces, || "talk to the helper".into())
}

/// A terminal of the container's own devpts; the relay's side goes to the parent.
fn terminal(wire: &Wire) -> Result<Stdio, Refusal> {
    let what = || "open a terminal".to_owned();
    let dev = std::fs::File::open("/dev").refuse(Stage::Mount, what)?;
    let (relay, program) = devices::open_terminal(&dev).refuse(Stage::Mount, what)?;
    wire.send(&Told::Terminal, &[relay.as_fd()])
        .refuse(Stage::Mount, what)?;
    let tree = rootfs::clone_tree(program.as_fd(), Path::new(""));
    let place = rustix::fs::open(
        "/dev/console",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let place = place.refuse(Stage::Mount, what)?;
    let tree = tree.refuse(Stage::Mount, what)?;
    rootfs::attach_at(&tree, &place).refuse(Stage::Mount, || "bind /dev/console".into())?;
    Stdio::terminal(program).refuse(Stage::Mount, what)
}
