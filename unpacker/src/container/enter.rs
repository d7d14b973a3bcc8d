//! The daemon's own user namespace.
//!
//! An ordinary user becomes root of a namespace in which, where `/etc/subuid` and `/etc/subgid`
//! give a range, further ids exist. Root of somebody else's container, who may not mount, does the
//! same and keeps the ids that it has. Joining needs one thread only, so it happens first in the
//! daemon's main, which is executed again inside. A daemon that finds a sandbox of an earlier one
//! running joins that namespace instead: two namespaces with the same ids are still strangers.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, capabilities};

use super::idmap::{IdMap, IdRange, identity};
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

/// In the place of a program's name: nobody helped.
const DIRECTLY: &str = "uid_map";
const ROOT_REMEDY: &str = "give this container's root the capabilities SETUID, SETGID and SETFCAP \
    (docker run --cap-add, Kubernetes capabilities.add), or run it as another user than root \
    (--user 1000:1000, runAsUser: 1000)";

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
/// in `devpod serve`. As a root who may mount it returns; otherwise it executes this binary again,
/// with the same arguments, as root of the namespace.
pub fn enter(sandboxes: &Path) -> Result<(), EnterError> {
    if geteuid().is_root() && holds(CapabilitySet::SYS_ADMIN)? {
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

fn holds(wanted: CapabilitySet) -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(wanted))
}

fn make() -> Result<(), EnterError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    let Some(maps) = maps()? else {
        sys::unshare(flags).map_err(refused)?;
        return write_single((0, uid), (0, gid));
    };
    // It starts outside, before this process leaves, and writes maps when it is told to.
    let (mut helper, wire) = Launcher::this().spawn(USERNS)?;
    sys::unshare(flags).map_err(refused)?;
    let order = Order {
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        maps,
    };
    wire.send(&order, &[])?;
    let answer = wire.recv::<Result<(), (String, String)>>()?;
    helper.wait()?;
    match answer {
        Some((Ok(()), _)) => Ok(()),
        // Nothing is mapped yet, so one id is still possible: everything works but ownership.
        Some((Err((program, _)), _)) if program == "newuidmap" => write_single((0, uid), (0, gid)),
        Some((Err((program, said)), _)) if program == DIRECTLY => Err(EnterError::Refused {
            why: format!("writing the ids of this container answers {said}"),
            remedy: ROOT_REMEDY.to_owned(),
        }),
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

/// What further ids there are to be had, and how; `None` where there is the own one alone.
fn maps() -> io::Result<Option<Maps>> {
    let uid = geteuid();
    if !uid.is_root() {
        return Ok(
            subid::ranges(uid.as_raw()).map(|(uids, gids)| Maps::Helped {
                uid_map: map(uid.as_raw(), uids),
                gid_map: map(getegid().as_raw(), gids),
            }),
        );
    }
    // Whose root may give ids away may also map them, and needs no helper for it.
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP;
    if !holds(needed)? {
        return Ok(None);
    }
    let ids = IdMap::current()?;
    Ok(Some(Maps::Direct {
        uid_map: identity(&namable(ids.uids)),
        gid_map: identity(&namable(ids.gids)),
    }))
}

/// The ids that an image can name. With all of the host's this namespace would pass for its first.
fn namable(ranges: Vec<IdRange>) -> Vec<IdRange> {
    const COUNT: u32 = 1 << 31;
    let below = ranges.into_iter().filter(|range| range.inside < COUNT);
    let cut = |range: IdRange| IdRange {
        count: range.count.min(COUNT - range.inside),
        ..range
    };
    below.map(cut).collect()
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
            remedy: match uid.1 {
                // The kernel lets nobody without SETFCAP map root.
                0 => ROOT_REMEDY.to_owned(),
                _ => probe::userns_hint(),
            },
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
    maps: Maps,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Maps {
    /// By newuidmap and newgidmap: inside, outside and count, one after the other.
    Helped {
        uid_map: Vec<u32>,
        gid_map: Vec<u32>,
    },
    /// As the files take them.
    Direct { uid_map: String, gid_map: String },
}

/// The hidden subcommand that writes the maps of its parent, or has newuidmap and newgidmap do it.
pub(crate) fn userns_main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    let Ok(Some((order, _))) = wire.recv::<Order>() else {
        return;
    };
    let pid = order.pid;
    let written = match &order.maps {
        Maps::Helped { uid_map, gid_map } => {
            write_map("newuidmap", pid, uid_map).and_then(|()| write_map("newgidmap", pid, gid_map))
        }
        Maps::Direct { uid_map, gid_map } => write_directly(pid, "uid_map", uid_map)
            .and_then(|()| write_directly(pid, "gid_map", gid_map)),
    };
    let _ = wire.send(&written, &[]);
}

fn write_directly(pid: i32, file: &str, map: &str) -> Result<(), (String, String)> {
    let written = std::fs::write(format!("/proc/{pid}/{file}"), map);
    written.map_err(|error| (DIRECTLY.to_owned(), error.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_root_maps_what_images_name() {
        let range = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        let whole = namable(vec![range(0, 0, u32::MAX)]);
        assert_eq!(identity(&whole), "0 0 2147483648\n");
        let podman = namable(vec![range(0, 1000, 1), range(1, 100_000, 65_536)]);
        assert_eq!(identity(&podman), "0 0 1\n1 1 65536\n");
        assert!(namable(vec![range(1 << 31, 5, 5)]).is_empty());
    }
}
