//! What a sandbox folder remembers of its monitor, and whether that is still true.
//!
//! A process id alone proves nothing: numbers are reused. Its start time and the boot that it
//! belongs to go with it, and it is used only through a process descriptor that was verified.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::held::Held;
use super::network::Published;

pub(crate) const MONITOR: &str = "monitor.json";
pub(crate) const EXIT: &str = "exit.json";
/// A monitor's record holds a confinement, with a profile of the user's perhaps.
const LIMIT: u64 = 1024 * 1024;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start: u64,
}

/// `monitor.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Of this format.
    pub(crate) version: u32,
    pub(crate) boot: String,
    pub(crate) monitor: ProcessId,
    /// The container's PID 1.
    pub(crate) container: ProcessId,
    /// RFC 3339.
    pub(crate) started: String,
    /// What later processes are held to, too.
    #[serde(default)]
    pub(crate) held: Held,
    /// The host's ports that lead inside.
    #[serde(default)]
    pub(crate) ports: Vec<Published>,
    /// Where it is on a bridge.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Addr>,
}

/// `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// RFC 3339.
    pub(crate) at: String,
    /// Processes that were killed because the container had no memory left.
    #[serde(default)]
    pub(crate) out_of_memory: u64,
}

impl ProcessId {
    /// Of the calling process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Of a running process.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start: start_time(pid)?,
        })
    }

    /// A descriptor of exactly this process; `None` when it is gone or a zombie.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after the descriptor was opened: that process can no more be exchanged.
        (start_time(self.pid).ok()? == self.start && !has_ended(&pidfd)).then_some(pidfd)
    }
}

impl Record {
    /// Whether it was written since the host was started.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot)
    }
}

/// Whether the process behind a descriptor has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain anything; after it comes field 3.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = rest.split_ascii_whitespace().nth(19);
    let start = field.and_then(|text| text.parse().ok());
    start.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time"))
}

pub(crate) fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// The current time as RFC 3339.
pub(crate) fn now() -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let now = time::OffsetDateTime::now_utc();
    now.format(format).unwrap_or_default()
}

/// Opens a sandbox folder.
pub(crate) fn open_folder(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

/// What a sandbox folder has under a record's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Nothing,
    /// It was written, and the host went down before its bytes were durable: the file is empty, or
    /// has zeros in it. Nobody else sees a record that is not whole.
    Lost,
    Whole(T),
}

/// Looks for a record.
pub(crate) fn find<T: DeserializeOwned>(folder: impl AsFd, name: &str) -> io::Result<Found<T>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(Found::Nothing),
        fd => fd?,
    };
    let mut bytes = Vec::new();
    File::from(fd).take(LIMIT).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes).map_or(Found::Lost, Found::Whole))
}

/// Reads a record; `None` where there is none, or none that is whole.
pub(crate) fn read<T: DeserializeOwned>(folder: impl AsFd, name: &str) -> io::Result<Option<T>> {
    match find(folder, name)? {
        Found::Whole(record) => Ok(Some(record)),
        Found::Nothing | Found::Lost => Ok(None),
    }
}

/// Writes a record so that readers see the old one or the new one, whole. Durable only after
/// [`sync`]: a start and an end need not wait for a disk.
pub(crate) fn write<T: Serialize>(folder: impl AsFd, name: &str, value: &T) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    let mut file = File::from(rustix::fs::openat(&folder, &temporary, flags, mode)?);
    file.write_all(&serde_json::to_vec(value)?)?;
    Ok(rustix::fs::renameat(&folder, &temporary, &folder, name)?)
}

/// Makes a record durable, and its name.
pub(crate) fn sync(folder: impl AsFd, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
    rustix::fs::fsync(file)?;
    Ok(rustix::fs::fsync(folder)?)
}

/// Removes a record, if there is one.
pub(crate) fn remove(folder: impl AsFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

/// Any running monitor of the sandboxes below a folder.
pub(crate) fn live_monitor(sandboxes: &Path) -> Option<OwnedFd> {
    let entries = fs::read_dir(sandboxes).ok()?;
    entries.flatten().find_map(|entry| {
        let folder = open_folder(&entry.path()).ok()?;
        let record: Record = read(&folder, MONITOR).ok()??;
        record.is_of_this_boot().then(|| record.monitor.open())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let own = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(own.open().is_some());
        let reused = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(reused.open().is_none());
    }

    #[test]
    fn an_ended_process_is_gone_even_as_a_zombie() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        let gone = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            id.open().is_none()
        });
        assert!(gone);
        child.wait().unwrap();
    }

    #[test]
    fn records_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open_folder(dir.path()).unwrap();
        assert_eq!(read::<Ended>(&folder, EXIT).unwrap(), None);
        for code in [1, 2] {
            let ended = Ended {
                exit: Exit::Code(code),
                at: now(),
                out_of_memory: 0,
            };
            write(&folder, EXIT, &ended).unwrap();
            assert_eq!(read(&folder, EXIT).unwrap(), Some(ended));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
