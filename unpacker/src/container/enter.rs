//! The daemon's own user namespace.
//!
//! An ordinary user becomes root of a namespace in which, where `/etc/subuid` and `/etc/subgid`
//! give a range, further ids exist. Joining needs one thread only, so it happens first in the
//! daemon's main, which is executed again inside. A daemon that finds a sandbox of an earlier one
//! running joins that namespace instead: two namespaces with the same ids are still strangers.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{getegid, geteuid};
use rustix::thread::ThreadNameSpaceType;

use super::idmap::{IdMap, IdRange};
use super::launch::Launcher;
use super::probe;
use super::record;
use super::subid::{self, Range};
use super::sys;
use super::wire::Wire;

/// The helper that writes maps from outside.
pub(crate) const USERNS: &str = "__userns";
/// What runs a program as the real user again.
pub(crate) const AS_USER: &str = "__as-user";

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("this host refuses user namespaces: {why}; {remedy}")]
    Refused { why: String, remedy: String },
    #[error("{program} refuses the ids of /etc/subuid and /etc/subgid: {said}")]
    Helper { program: String, said: String },
    #[error("cannot enter a user namespace")]
    Io(#[from] io::Error),
}

/// Makes an ordinary user root of a user namespace; `sandboxes` is the folder of sandbox folders,
/// in one of which a live monitor may already hold such a namespace. Called single-threaded, first
/// in `devpod serve`. As root it returns; otherwise it executes this binary again, with the same
/// arguments, as root of the namespace.
pub fn enter(sandboxes: &Path) -> Result<(), EnterError> {
    if geteuid().is_root() {
        return Ok(());
    }
    let folder = std::env::current_dir();
    match record::live_monitor(sandboxes) {
        Some(pidfd) => join(&pidfd)?,
        None => make()?,
    }
    // A joined mount namespace has put us at its root.
    if let Ok(folder) = folder {
        let _ = rustix::process::chdir(&folder);
    }
    let mut again = Command::new("/proc/self/exe");
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    Err(again.args(words).exec().into())
}

/// Who made a namespace owns it, and may enter it whenever it exists.
fn join(pidfd: &OwnedFd) -> Result<(), EnterError> {
    let both = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    let joined = rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), both);
    Ok(joined.map_err(io::Error::from)?)
}

fn make() -> Result<(), EnterError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    let Some((uids, gids)) = subid::ranges(uid) else {
        sys::unshare(flags).map_err(refused)?;
        return write_single((0, uid), (0, gid));
    };
    // It starts outside, before this process leaves, and writes maps when it is told to.
    let (mut helper, wire) = Launcher::this().spawn(USERNS)?;
    sys::unshare(flags).map_err(refused)?;
    let order = Order {
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        uid_map: map(uid, uids),
        gid_map: map(gid, gids),
    };
    wire.send(&order, &[])?;
    let answer = wire.recv::<Result<(), (String, String)>>()?;
    helper.wait()?;
    match answer {
        Some((Ok(()), _)) => Ok(()),
        // Nothing is mapped yet, so one id is still possible: everything works but ownership.
        Some((Err((program, _)), _)) if program == "newuidmap" => write_single((0, uid), (0, gid)),
        Some((Err((program, said)), _)) => Err(EnterError::Helper { program, said }),
        None => Err(io::Error::other("the helper for newuidmap ended without an answer").into()),
    }
}

fn refused(error: io::Error) -> EnterError {
    EnterError::Refused {
        why: format!("unshare(CLONE_NEWUSER) answers {error}"),
        remedy: probe::userns_hint(),
    }
}

/// Root is the user, the further ids follow one after the other.
fn map(own: u32, range: Range) -> Vec<u32> {
    vec![0, own, 1, 1, range.first, range.count]
}

/// A map of one id, which a process may write for itself.
fn write_single(uid: (u32, u32), gid: (u32, u32)) -> Result<(), EnterError> {
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|error| EnterError::Refused {
            why: format!("writing {file} answers {error}"),
            remedy: probe::userns_hint(),
        })
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("{} {} 1", uid.0, uid.1))?;
    write("gid_map", format!("{} {} 1", gid.0, gid.1))
}

/// A command that runs a program of the host as the user who started us, with the ids and the
/// home that ssh and git expect to see. In the initial namespace that is the program itself.
pub fn as_user(launcher: &Launcher, program: impl AsRef<OsStr>) -> io::Result<Command> {
    if IdMap::current()?.is_whole() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(&launcher.exe);
    command.arg(AS_USER).arg(program);
    Ok(command)
}

/// The hidden subcommand of [`as_user`]: a nested namespace in which root's one id is the user's
/// again, and the program in it. Answers only when it failed.
pub(crate) fn as_user_main() -> ! {
    use std::io::Write;
    let mut words = std::env::args_os().skip(2);
    let program = words.next().unwrap_or_default();
    let error = match leave_root() {
        Ok(()) => Command::new(&program).args(words).exec().to_string(),
        Err(error) => error.to_string(),
    };
    let text = format!("cannot run {}: {error}\n", program.display());
    let _ = io::stderr().write_all(text.as_bytes());
    sys::exit_now(127)
}

fn leave_root() -> Result<(), EnterError> {
    let ids = IdMap::current()?;
    let real = |ranges: &[IdRange]| {
        let root = ranges.iter().find(|range| range.inside == 0);
        root.map(|range| range.outside)
            .ok_or_else(|| io::Error::other("this namespace has no root"))
    };
    let (uid, gid) = (real(&ids.uids)?, real(&ids.gids)?);
    sys::unshare(libc::CLONE_NEWUSER).map_err(refused)?;
    write_single((uid, 0), (gid, 0))
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Order {
    pid: i32,
    uid_map: Vec<u32>,
    gid_map: Vec<u32>,
}

/// The hidden subcommand that has newuidmap and newgidmap write the maps of its parent.
pub(crate) fn userns_main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    let Ok(Some((order, _))) = wire.recv::<Order>() else {
        return;
    };
    let maps = [("newuidmap", &order.uid_map), ("newgidmap", &order.gid_map)];
    let written = (maps.iter()).try_for_each(|(program, map)| write_map(program, order.pid, map));
    let _ = wire.send(&written, &[]);
}

fn write_map(program: &str, pid: i32, map: &[u32]) -> Result<(), (String, String)> {
    let failed = |said: String| (program.to_owned(), said);
    let path = subid::find_program(program).ok_or_else(|| failed("it is not installed".into()))?;
    let numbers = map.iter().map(u32::to_string);
    let output = Command::new(path)
        .arg(pid.to_string())
        .args(numbers)
        .output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ))
    }
}
