//! One more process in a running container: the helper that joins it.
//!
//! The helper enters the container's namespaces, so that its own child is a process of the
//! container, confined as its first one is, and carries the child's input and output until one
//! side ends.

use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::DumpableBehavior;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};

use super::confine;
use super::devices;
use super::exit::Exit;
use super::held::Held;
use super::idmap::IdMap;
use super::init;
use super::launch::{Refusal, Refuse, Stage};
use super::program::Stdio;
use super::record::ProcessId;
use super::relay::{Endpoint, Relay, Watchers};
use super::rootfs;
use super::signalled::Signalled;
use super::spec::Process;
use super::sys;
use super::wire::{self, Wire};

/// What the helper answers once; the frames then travel over the stream that came with the order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Refused(Refusal),
    Running,
}

struct Order {
    container: ProcessId,
    held: Held,
    process: Process,
    stream: OwnedFd,
}

/// The hidden subcommand.
pub(crate) fn main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    let _ = rustix::process::setsid();
    if let Err(refusal) = order(&wire).and_then(|order| join_and_carry(&wire, order)) {
        let _ = wire.send(&Answer::Refused(refusal), &[]);
    }
}

fn order(wire: &Wire) -> Result<Order, Refusal> {
    let lost = |why: String| Refusal::new(Stage::Namespaces, format!("no order: {why}"));
    let got = wire.recv::<ProcessId>().map_err(|e| lost(e.to_string()))?;
    let (container, fds) = got.ok_or_else(|| lost("nobody gave one".into()))?;
    let [held, process, stream] =
        <[OwnedFd; 3]>::try_from(fds).map_err(|_| lost("descriptors are missing".into()))?;
    Ok(Order {
        container,
        held: wire::from_file(held).map_err(|e| lost(e.to_string()))?,
        process: wire::from_file(process).map_err(|e| lost(e.to_string()))?,
        stream,
    })
}

fn join_and_carry(wire: &Wire, mut order: Order) -> Result<(), Refusal> {
    // The container has exactly the ids that are here; inside, its /proc does not know us.
    let ids = IdMap::current().refuse(Stage::Namespaces, || "read the id map".into())?;
    confine::check_user(&ids, &order.process.user)?;
    order
        .process
        .confinement
        .clone_from(&order.held.confinement);
    let what = || "enter the container's control groups".to_owned();
    let visit = order.held.visit().refuse(Stage::Limits, what)?;
    join(order.container)?;
    rootfs::enter_folder(&order.process.cwd, false)?;
    let (pid, endpoint) = start(&order.process, &ids)?;
    drop(visit);
    let what = || "relay input and output".to_owned();
    let mut relay = Relay::new(endpoint, Watchers::One, None).refuse(Stage::Namespaces, what)?;
    relay.watch(order.stream).refuse(Stage::Namespaces, what)?;
    let _ = wire.send(&Answer::Running, &[]);
    let carried = relay.carry();
    relay.end_hung_up();
    let exit = match sys::wait(pid, libc::WNOHANG) {
        Ok(Some((_, status))) => Exit::of_status(status),
        // Hung up: killed a moment ago, or reaped while its group was waited for.
        _ => Exit::Signal(libc::SIGKILL),
    };
    let _ = carried.and_then(|()| relay.finish(exit));
    Ok(())
}

fn join(container: ProcessId) -> Result<(), Refusal> {
    let gone = || Refusal::new(Stage::Namespaces, "the container has ended");
    let pidfd = container.open().ok_or_else(gone)?;
    let what = || "join the container".to_owned();
    // The host's binary and descriptors must be out of the container's reach before we are in it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .refuse(Stage::Namespaces, what)?;
    let mut all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    // The host's network is not the container's to join: we are in it.
    let network = has_own_network(container.pid).refuse(Stage::Namespaces, what)?;
    all.set(ThreadNameSpaceType::NETWORK, network);
    move_into_thread_name_spaces(pidfd.as_fd(), all).refuse(Stage::Namespaces, what)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

fn has_own_network(pid: i32) -> std::io::Result<bool> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    Ok(namespace(&pid.to_string())? != namespace("self")?)
}

fn start(process: &Process, ids: &IdMap) -> Result<(i32, Endpoint), Refusal> {
    let what = || "set up input and output".to_owned();
    if process.terminal {
        let dev = std::fs::File::open("/dev").refuse(Stage::Mount, what)?;
        let (relay, program) = devices::open_terminal(&dev).refuse(Stage::Mount, what)?;
        let stdio = Stdio::terminal(program).refuse(Stage::Mount, what)?;
        let (pid, pidfd) = init::start(process, ids, stdio, None, || Ok(()))?;
        let process = leader(pid, pidfd)?;
        let endpoint = Endpoint::terminal(process, relay).refuse(Stage::Mount, what)?;
        return Ok((pid, endpoint));
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC).refuse(Stage::Mount, what);
    let (stdin, input) = pipe()?;
    let (output, stdout) = pipe()?;
    let (error, stderr) = pipe()?;
    let stdio = Stdio::pipes(stdin, stdout, stderr);
    let (pid, pidfd) = init::start(process, ids, stdio, None, || Ok(()))?;
    let endpoint = Endpoint {
        process: leader(pid, pidfd)?,
        input,
        outputs: vec![(false, output), (true, error)],
        is_terminal: false,
    };
    Ok((pid, endpoint))
}

/// A program that runs has made a session, and with it a process group, of its own.
fn leader(pid: i32, pidfd: OwnedFd) -> Result<Signalled, Refusal> {
    let gone = || Refusal::new(Stage::Namespaces, "the process has no id");
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(gone)?;
    Ok(Signalled::group(pidfd, pid))
}
