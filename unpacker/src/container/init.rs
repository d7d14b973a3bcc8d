//! PID 1 of a container: starts the program, reaps what is orphaned, forwards signals.
//!
//! It never executes anything itself, is confined like the program and cannot be looked into. It
//! ends when the program ends, and the kernel then ends everything else in the container.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

use super::child::Told;
use super::confine;
use super::exit::Exit;
use super::idmap::IdMap;
use super::launch::{Refusal, Refuse, Stage};
use super::program::{self, Never, Stdio};
use super::seccomp::Changes;
use super::spec::Process;
use super::sys::{self, Forked};
use super::wire::Wire;

/// Starts the program below this process and stays. Returns only when the program did not start.
pub(crate) fn run(
    process: &Process,
    ids: &IdMap,
    wire: &Wire,
    stdio: Stdio,
    recorder: Option<&Wire>,
) -> Result<Never, Refusal> {
    sys::block_signals().refuse(Stage::Confine, || "block signals".into())?;
    let (pid, _) = start(process, ids, stdio, recorder, || {
        // Pretending would make the next line a pretence, too.
        confine::confine(&process.confinement, Changes::Real, None)?;
        confine::keep_few_capabilities(process.confinement.capabilities)
            .refuse(Stage::Confine, || "drop capabilities".into())
    })?;
    wire.send(&Told::Running, &[])
        .refuse(Stage::Namespaces, || "talk to the helper".into())?;
    let exit = watch(pid);
    let _ = wire.send(&Told::Ended(exit), &[]);
    sys::exit_now(exit.code())
}

/// Forks the program and waits until it was executed, which it is not before `meanwhile` is done
/// here. Its descriptors are closed on this side, so that their other ends see the program's end.
pub(crate) fn start(
    process: &Process,
    ids: &IdMap,
    stdio: Stdio,
    recorder: Option<&Wire>,
    meanwhile: impl FnOnce() -> Result<(), Refusal>,
) -> Result<(i32, OwnedFd), Refusal> {
    let what = || "start the program".to_owned();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).refuse(Stage::Confine, what);
    let (read, write) = pipe()?;
    let (gate, key) = pipe()?;
    match sys::fork(0).refuse(Stage::Confine, what)? {
        Forked::Child => {
            drop((read, key));
            // Open when nobody holds the key any more.
            let _ = std::fs::File::from(gate).read(&mut [0]);
            tell_refusal(write, process, ids, stdio, recorder)
        }
        Forked::Parent(pid, pidfd) => {
            drop((write, gate));
            drop(stdio);
            if let Ok(null) = Stdio::null() {
                let _ = null.install();
            }
            meanwhile()?;
            drop(key);
            hear_refusal(read)?;
            Ok((pid.as_raw_nonzero().get(), pidfd))
        }
    }
}

fn tell_refusal(
    write: OwnedFd,
    process: &Process,
    ids: &IdMap,
    stdio: Stdio,
    recorder: Option<&Wire>,
) -> ! {
    let refusal = match program::become_program(process, ids, stdio, recorder) {
        Err(refusal) => refusal,
        Ok(never) => match never {},
    };
    let bytes = serde_json::to_vec(&refusal).unwrap_or_default();
    let _ = std::fs::File::from(write).write_all(&bytes);
    sys::exit_now(1)
}

/// The exec closes the pipe; whatever comes before that is a refusal.
fn hear_refusal(read: OwnedFd) -> Result<(), Refusal> {
    let mut bytes = Vec::new();
    let what = || "hear from the program".to_owned();
    (std::fs::File::from(read).read_to_end(&mut bytes)).refuse(Stage::Confine, what)?;
    if bytes.is_empty() {
        return Ok(());
    }
    Err(serde_json::from_slice(&bytes).refuse(Stage::Confine, what)?)
}

fn watch(program: i32) -> Exit {
    loop {
        match sys::next_signal() {
            libc::SIGCHLD => {
                if let Some(exit) = reap(program) {
                    return exit;
                }
            }
            signal => {
                if let Some(pid) = rustix::process::Pid::from_raw(program) {
                    forward(pid, signal);
                }
            }
        }
    }
}

fn forward(pid: rustix::process::Pid, signal: i32) {
    // SAFETY: `signal` is a number that the kernel itself delivered.
    let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal) };
    let _ = rustix::process::kill_process(pid, signal);
}

fn reap(program: i32) -> Option<Exit> {
    while let Ok(Some((pid, status))) = sys::wait(-1, libc::WNOHANG) {
        if pid == program {
            return Some(Exit::of_status(status));
        }
    }
    None
}
