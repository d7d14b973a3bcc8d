//! The process that stays with a sandbox: starts its container, keeps its log, tells its end.
//!
//! It is nobody's child that could be killed with a parent, and when it dies its container dies
//! with it, so a sandbox is either watched or ended.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use super::child::{self, Started};
use super::launch::{Refusal, Refuse, Stage};
use super::log::LogWriter;
use super::program::Stdio;
use super::record::{self, EXIT, Ended, MONITOR, ProcessId, Record};
use super::relay::{Endpoint, Relay, Watchers};
use super::signalled::Signalled;
use super::spec::ContainerSpec;
use super::sys::{self, Forked};
use super::wire::{self, Wire};
use crate::crash;

pub(crate) const ATTACH: &str = "attach.sock";

/// What the monitor answers once. Its order comes with the specification and the sandbox folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Refused(Refusal),
    Running(i32),
}

/// The hidden subcommand.
pub(crate) fn main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    // Whoever started us waits for this process; the one that goes on is an orphan.
    let _ = rustix::process::setsid();
    match sys::fork(0) {
        Ok(Forked::Child) => {}
        _ => return,
    }
    let _ = rustix::process::chdir("/");
    if let Err(refusal) = order(&wire).and_then(|order| supervise(&wire, order)) {
        let _ = wire.send(&Answer::Refused(refusal), &[]);
    }
}

/// What a monitor is told to do.
struct Order {
    spec: ContainerSpec,
    folder: OwnedFd,
    /// The stream of whoever starts it, so that nothing of the output is missed.
    starter: Option<OwnedFd>,
}

fn order(wire: &Wire) -> Result<Order, Refusal> {
    let lost = |why: String| Refusal::new(Stage::Namespaces, format!("no order: {why}"));
    let missing = || lost("descriptors are missing".into());
    let got = wire.recv::<String>().map_err(|e| lost(e.to_string()))?;
    let mut fds = got.map(|(_, fds)| fds).unwrap_or_default().into_iter();
    let spec = wire::from_file(fds.next().ok_or_else(missing)?).map_err(|e| lost(e.to_string()))?;
    let folder = fds.next().ok_or_else(missing)?;
    Ok(Order {
        spec,
        folder,
        starter: fds.next(),
    })
}

fn supervise(wire: &Wire, order: Order) -> Result<(), Refusal> {
    let Order {
        spec,
        folder,
        starter,
    } = order;
    let what = || "prepare the sandbox folder".to_owned();
    let listener = listen_in(&folder).refuse(Stage::Namespaces, what)?;
    let log = LogWriter::open(duplicate(&folder)?, spec.log).refuse(Stage::Namespaces, what)?;
    let (started, endpoint) = start(&spec)?;
    crash::point("sandbox-after-process");
    let recorded = write_record(&folder, &started);
    recorded.refuse(Stage::Namespaces, || "record the sandbox".into())?;
    let relay = Relay::new(endpoint, Watchers::Any(listener), Some(log));
    let mut relay = relay.refuse(Stage::Namespaces, || "relay the output".into())?;
    if let Some(stream) = starter {
        relay
            .watch_patiently(stream)
            .refuse(Stage::Namespaces, || "relay to the starter".into())?;
    }
    let running = Answer::Running(started.pid.as_raw_nonzero().get());
    let _ = wire.send(&running, &[]);
    // From here on nobody waits for an answer: what fails ends the container and is recorded.
    if relay.carry().is_err() {
        let _ = sys::send_signal(&started.pidfd, libc::SIGKILL);
    }
    end(&spec, &folder, started, relay);
    Ok(())
}

fn end(spec: &ContainerSpec, folder: &OwnedFd, started: Started, mut relay: Relay) {
    let ending = started.wait(spec);
    let exit = ending.exit;
    // The last words are in the log when the end can be seen.
    let _ = relay.close_log();
    let ended = Ended {
        exit,
        at: record::now(),
        out_of_memory: ending.out_of_memory,
    };
    let _ = record::write(folder, EXIT, &ended);
    let _ = record::remove(folder, ATTACH);
    // From here on the folder is whoever's comes next; a watcher that does not read holds up nobody.
    let _ = flock(folder, FlockOperation::Unlock);
    let _ = relay.finish(exit);
    if !spec.rootfs.volatile {
        // After everybody was told: nobody who waits for a process waits for the disk, too.
        let _ = record::sync(folder, EXIT);
    }
}

fn start(spec: &ContainerSpec) -> Result<(Started, Endpoint), Refusal> {
    let what = || "make pipes".to_owned();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).refuse(Stage::Namespaces, what);
    if spec.process.terminal {
        let stdio = Stdio::null().refuse(Stage::Namespaces, what)?;
        let mut started = child::start(spec, stdio)?;
        let terminal = started
            .terminal
            .take()
            .ok_or_else(|| Refusal::new(Stage::Namespaces, "the container sent no terminal"))?;
        let process = started.pidfd.try_clone().map(Signalled::process);
        let endpoint = process.and_then(|process| Endpoint::terminal(process, terminal));
        return Ok((started, endpoint.refuse(Stage::Namespaces, what)?));
    }
    let (stdin, input) = pipe()?;
    let (output, stdout) = pipe()?;
    let (error, stderr) = pipe()?;
    let started = child::start(spec, Stdio::pipes(stdin, stdout, stderr))?;
    let pidfd = started.pidfd.try_clone().refuse(Stage::Namespaces, what)?;
    let endpoint = Endpoint {
        process: Signalled::process(pidfd),
        input,
        outputs: vec![(false, output), (true, error)],
        is_terminal: false,
    };
    Ok((started, endpoint))
}

fn write_record(folder: &OwnedFd, started: &Started) -> io::Result<()> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let record = Record {
        version: 1,
        boot: record::boot_id()?,
        monitor: ProcessId::of(own)?,
        container: ProcessId::of(started.pid.as_raw_nonzero().get())?,
        started: record::now(),
        held: started.held().clone(),
        ports: started.published(),
        address: started.address(),
    };
    record::remove(folder, EXIT)?;
    // Whoever started it makes it durable: the process waits for no disk.
    record::write(folder, MONITOR, &record)
}

fn duplicate(folder: &OwnedFd) -> Result<OwnedFd, Refusal> {
    let what = || "prepare the sandbox folder".to_owned();
    folder.try_clone().refuse(Stage::Namespaces, what)
}

/// Sandbox folders can lie deeper than a socket's address has room for.
pub(crate) fn address(folder: &OwnedFd) -> io::Result<SocketAddrUnix> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/{ATTACH}", folder.as_raw_fd()));
    Ok(SocketAddrUnix::new(path)?)
}

fn listen_in(folder: &OwnedFd) -> io::Result<OwnedFd> {
    record::remove(folder, ATTACH)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = bind(&socket, &address(folder)?);
    rustix::process::umask(mask);
    bound?;
    listen(&socket, 16)?;
    Ok(socket)
}
