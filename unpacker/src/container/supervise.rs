//! Containers that outlive whoever started them: the caller's side.
//!
//! ```text
//! <dir>/monitor.json   who watches and what runs (pid, start time and boot id tell it for sure)
//! <dir>/attach.sock    frames of `stream`, to and from the first process
//! <dir>/log, log.1 …   output, one JSON object a line: {"time":RFC 3339,"stream":…,"log":…}
//! <dir>/exit.json      how it ended; its presence says that it did
//! ```
//!
//! The folder itself is locked (flock) by whoever starts, ends or removes: from before the monitor
//! exists until it is gone. So a start that outlives its daemon is not swept away under its feet.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use serde::{Deserialize, Serialize};

use crate::progress::Cancel;

use super::exit::Exit;
use super::launch::{Launcher, Refusal};
use super::log::LogReader;
use super::network::Published;
use super::record::{self, EXIT, Ended, Found, MONITOR, Record};
use super::resources::Standing;
use super::spec::{ContainerSpec, Process};
use super::{exec as exec_helper, monitor, sys, wire};

/// What a sandbox folder tells about its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// `pid` is the container's first process as the host sees it.
    Running {
        pid: i32,
    },
    Exited(Exit),
    /// It ran when the host went down, or what was written down of it went with the host.
    Stopped,
    /// It ran, and ended without a record: its monitor was killed.
    Lost,
    /// Nothing was ever started from this folder.
    Never,
}

/// Why a sandbox does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error("cannot start a helper process")]
    Spawn(#[source] io::Error),
    /// In the words of the process that tried.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the sandbox is already running as process {pid}")]
    Running { pid: i32 },
    #[error("the sandbox is not running")]
    NotRunning,
    #[error("the sandbox is still there after SIGKILL")]
    Unkillable,
    #[error("the monitor ended without an answer")]
    Lost,
    #[error("the sandbox is still being started or ended")]
    Busy,
    #[error("cannot use the sandbox folder")]
    Io(#[from] io::Error),
}

/// One line of a sandbox's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, UTC.
    pub time: String,
    /// `stdout` or `stderr`; a terminal has `stdout` only.
    pub stream: String,
    /// The text, with its newline when it had one.
    pub log: String,
}

/// Until a monitor has written down that its container was killed.
const AFTER_KILL: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// A start under way takes some of these.
const MOMENT: Duration = Duration::from_millis(5);
const FOLLOW: Duration = Duration::from_millis(100);

/// Starts a container in its own session below a monitor of ours, and returns when its program
/// runs. `dir` exists; records of an earlier run in it are replaced, the log is continued.
pub fn start(
    launcher: &Launcher,
    dir: &Path,
    spec: &ContainerSpec,
) -> Result<State, SuperviseError> {
    launch(launcher, hold(dir)?, spec, None)
}

/// As [`start`], in a folder that is held already: what was decided under the hold is still true
/// when the container runs.
pub fn start_held(
    launcher: &Launcher,
    held: Held,
    spec: &ContainerSpec,
) -> Result<State, SuperviseError> {
    launch(launcher, held, spec, None)
}

/// As [`start`], with a stream of frames that has all output from the first byte and always the end.
/// The process waits for whoever holds it, for as long as somebody does.
pub fn start_attached(
    launcher: &Launcher,
    dir: &Path,
    spec: &ContainerSpec,
) -> Result<UnixStream, SuperviseError> {
    let (ours, theirs) = UnixStream::pair()?;
    launch(launcher, hold(dir)?, spec, Some(theirs.as_fd())).map(|_| ours)
}

fn launch(
    launcher: &Launcher,
    Held(folder): Held,
    spec: &ContainerSpec,
    starter: Option<BorrowedFd<'_>>,
) -> Result<State, SuperviseError> {
    let file = wire::to_file(spec)?;
    let spawned = launcher.spawn(super::MONITOR);
    let (mut child, wire) = spawned.map_err(SuperviseError::Spawn)?;
    let mut fds = vec![file.as_fd(), folder.as_fd()];
    fds.extend(starter);
    wire.send(&"start", &fds)?;
    // It leaves at once; what goes on is no child of ours.
    child.wait()?;
    match wire.recv::<monitor::Answer>()? {
        Some((monitor::Answer::Running(pid), _)) => {
            if !spec.rootfs.volatile {
                // The process runs meanwhile. Whoever is answered may rely on it that the sandbox
                // counts as one that ran, also after a crash of the host.
                record::sync(&folder, MONITOR)?;
            }
            Ok(State::Running { pid })
        }
        Some((monitor::Answer::Refused(refusal), _)) => Err(refusal.into()),
        None => Err(SuperviseError::Lost),
    }
}

/// A sandbox folder in which nothing runs, starts or ends while this lives.
#[derive(Debug)]
pub struct Held(OwnedFd);

/// Waits for a start or an end that is under way, and then keeps others from starting.
pub fn hold(dir: &Path) -> Result<Held, SuperviseError> {
    let folder = record::open_folder(dir)?;
    let deadline = Instant::now() + AFTER_KILL;
    loop {
        // A monitor of an older version has no lock, so the lock alone proves nothing.
        if let State::Running { pid } = state(dir)? {
            return Err(SuperviseError::Running { pid });
        }
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                release(&folder)?;
                return Ok(Held(folder));
            }
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(MOMENT),
            Err(Errno::WOULDBLOCK) => return Err(SuperviseError::Busy),
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// Takes away what a monitor that was killed could not: the control groups of its container, which
/// died with it.
fn release(folder: &OwnedFd) -> io::Result<()> {
    let Some(record) = record::read::<Record>(folder, MONITOR)? else {
        return Ok(());
    };
    if record.is_of_this_boot() && record::read::<Ended>(folder, EXIT)?.is_none() {
        record.held.end();
    }
    Ok(())
}

/// What is known of the container in `dir`; asks the kernel, never only a file.
pub fn state(dir: &Path) -> io::Result<State> {
    let folder = record::open_folder(dir)?;
    let otherwise = match running(&folder)? {
        Known::Running(record, _) => {
            let pid = record.container.pid;
            return Ok(State::Running { pid });
        }
        Known::Never => return Ok(State::Never),
        Known::Gone => State::Lost,
        Known::OfAnotherBoot => State::Stopped,
    };
    // The monitor ends after it has written this, so it is looked for last.
    let ended: Option<Ended> = record::read(&folder, EXIT)?;
    Ok(ended.map_or(otherwise, |ended| State::Exited(ended.exit)))
}

enum Known {
    Running(Box<Record>, OwnedFd),
    Gone,
    OfAnotherBoot,
    Never,
}

/// A container that ended counts as running until its monitor has told the end.
fn running(folder: &OwnedFd) -> io::Result<Known> {
    let record = match record::find::<Record>(folder, MONITOR)? {
        Found::Whole(record) => record,
        Found::Lost => return Ok(Known::OfAnotherBoot),
        Found::Nothing => return Ok(Known::Never),
    };
    if !record.is_of_this_boot() {
        return Ok(Known::OfAnotherBoot);
    }
    if record::read::<Ended>(folder, EXIT)?.is_some() {
        return Ok(Known::Gone);
    }
    match record.monitor.open() {
        Some(monitor) => Ok(Known::Running(Box::new(record), monitor)),
        None => Ok(Known::Gone),
    }
}

fn running_record(dir: &Path) -> Result<(OwnedFd, Record, OwnedFd), SuperviseError> {
    let folder = record::open_folder(dir)?;
    match running(&folder)? {
        Known::Running(record, monitor) => Ok((folder, *record, monitor)),
        Known::Gone | Known::OfAnotherBoot | Known::Never => Err(SuperviseError::NotRunning),
    }
}

/// The host's ports that lead into the container, while it runs.
pub fn ports(dir: &Path) -> io::Result<Vec<Published>> {
    match running(&record::open_folder(dir)?)? {
        Known::Running(record, _) => Ok(record.ports),
        Known::Gone | Known::OfAnotherBoot | Known::Never => Ok(Vec::new()),
    }
}

/// The container's address on its bridge, while it runs.
pub fn address(dir: &Path) -> io::Result<Option<Ipv4Addr>> {
    match running(&record::open_folder(dir)?)? {
        Known::Running(record, _) => Ok(record.address),
        Known::Gone | Known::OfAnotherBoot | Known::Never => Ok(None),
    }
}

/// Sends `signal` to the first process and, when it still runs after `grace`, kills everything.
pub fn stop(dir: &Path, signal: i32, grace: Duration) -> Result<State, SuperviseError> {
    let (_, record, monitor) = running_record(dir)?;
    if let Some(container) = record.container.open() {
        let _ = sys::send_signal(&container, signal);
        if !wait_end(&container, grace)? {
            let _ = sys::send_signal(&container, libc::SIGKILL);
        }
    }
    let deadline = Instant::now() + AFTER_KILL;
    loop {
        let state = state(dir)?;
        if !matches!(state, State::Running { .. }) {
            return Ok(state);
        }
        if Instant::now() >= deadline {
            return Err(SuperviseError::Unkillable);
        }
        wait_end(&monitor, LOOK)?;
    }
}

/// What a sandbox folder tells of its container's last run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// RFC 3339.
    pub started: Option<String>,
    /// RFC 3339; not of one that was lost.
    pub ended: Option<String>,
    /// Processes that were killed because the container had no memory left.
    pub out_of_memory: u64,
    /// What became of each limit that was asked for.
    pub standings: Vec<Standing>,
}

/// The last run of the container in `dir`, as far as it was written down.
pub fn run(dir: &Path) -> io::Result<Run> {
    let folder = record::open_folder(dir)?;
    let Some(record) = record::read::<Record>(&folder, MONITOR)? else {
        return Ok(Run::default());
    };
    let ended: Option<Ended> = record::read(&folder, EXIT)?;
    Ok(Run {
        started: Some(record.started),
        out_of_memory: ended.as_ref().map_or(0, |ended| ended.out_of_memory),
        ended: ended.map(|ended| ended.at),
        standings: record.held.standings,
    })
}

/// Sends a signal to the first process, whatever it does with it.
pub fn signal(dir: &Path, signal: i32) -> Result<(), SuperviseError> {
    let (_, record, _) = running_record(dir)?;
    let container = record.container.open().ok_or(SuperviseError::NotRunning)?;
    Ok(sys::send_signal(&container, signal)?)
}

/// Waits for the end, but no longer than `patience`.
pub fn wait_a_while(dir: &Path, patience: Duration) -> io::Result<()> {
    match running_record(dir) {
        Ok((.., monitor)) => wait_end(&monitor, patience).map(drop),
        Err(_) => Ok(()),
    }
}

/// Kills everything in the container.
pub fn kill(dir: &Path) -> Result<State, SuperviseError> {
    stop(dir, libc::SIGKILL, AFTER_KILL)
}

/// Whether the process ended in time.
fn wait_end(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&patience)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A stream of frames to and from the first process. Output from before is in the log.
pub fn attach(dir: &Path) -> Result<UnixStream, SuperviseError> {
    let (folder, ..) = running_record(dir)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.map_err(io::Error::from)?;
    connect(&socket, &monitor::address(&folder)?).map_err(io::Error::from)?;
    Ok(UnixStream::from(socket))
}

/// Runs one more process in the container and answers, once it runs, the stream of its frames.
/// It lives as long as that stream: when the caller closes it, the process and its whole group get
/// SIGHUP, and SIGKILL five seconds later. What has made a session of its own stays.
pub fn exec(
    launcher: &Launcher,
    dir: &Path,
    process: &Process,
) -> Result<UnixStream, SuperviseError> {
    let (_, record, _) = running_record(dir)?;
    let (ours, theirs) = UnixStream::pair()?;
    let file = wire::to_file(process)?;
    let held = wire::to_file(&record.held)?;
    let spawned = launcher.spawn(super::EXEC);
    let (mut child, wire) = spawned.map_err(SuperviseError::Spawn)?;
    let fds = [held.as_fd(), file.as_fd(), theirs.as_fd()];
    wire.send(&record.container, &fds)?;
    drop(theirs);
    let answer = wire.recv::<exec_helper::Answer>()?;
    if let Some((exec_helper::Answer::Running, _)) = answer {
        // Nobody else would reap it. Without a thread it stays a zombie until we end.
        let _ = std::thread::Builder::new().spawn(move || child.wait());
        return Ok(ours);
    }
    child.wait()?;
    match answer {
        Some((exec_helper::Answer::Refused(refusal), _)) => Err(refusal.into()),
        _ => Err(SuperviseError::Lost),
    }
}

/// Which lines [`logs`] tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Only so many of the last lines; `None` for all that are kept.
    pub tail: Option<usize>,
    /// Goes on until the container ends.
    pub follow: bool,
}

/// Calls `each` with the lines of the log, oldest first.
pub fn logs(
    dir: &Path,
    options: LogOptions,
    cancel: &Cancel,
    each: &mut dyn FnMut(LogLine),
) -> io::Result<()> {
    let mut reader = LogReader::open(record::open_folder(dir)?);
    let mut last = std::collections::VecDeque::new();
    while let Some(line) = reader.next_line()? {
        match options.tail {
            None => each(line),
            Some(most) => {
                last.push_back(line);
                if last.len() > most {
                    last.pop_front();
                }
            }
        }
    }
    last.into_iter().for_each(&mut *each);
    while options.follow && !cancel.is_cancelled() {
        // Asked before the last reading, so that nothing of the end is missed.
        let running = matches!(state(dir)?, State::Running { .. });
        while let Some(line) = reader.next_line()? {
            each(line);
        }
        if !running {
            break;
        }
        std::thread::sleep(FOLLOW);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_a_crash_of_the_host_took_is_of_one_that_ran() {
        let dir = tempfile::tempdir().unwrap();
        let folder = record::open_folder(dir.path()).unwrap();
        assert_eq!(state(dir.path()).unwrap(), State::Never);
        // What file systems leave of a file that was renamed and never synced.
        for left in [&b""[..], &[0; 300], b"{\"version\":1,\"boot\":\"x"] {
            std::fs::write(dir.path().join(MONITOR), left).unwrap();
            assert_eq!(state(dir.path()).unwrap(), State::Stopped);
            assert_eq!(run(dir.path()).unwrap(), Run::default());
            assert!(matches!(
                signal(dir.path(), libc::SIGTERM),
                Err(SuperviseError::NotRunning)
            ));
            // Nothing keeps it from being started again.
            drop(hold(dir.path()).unwrap());
        }
        // Its end is told where that was durable, and passed over where it was not.
        std::fs::write(dir.path().join(EXIT), [0; 100]).unwrap();
        assert_eq!(state(dir.path()).unwrap(), State::Stopped);
        let ended = Ended {
            exit: Exit::Code(3),
            at: record::now(),
            out_of_memory: 0,
        };
        record::write(&folder, EXIT, &ended).unwrap();
        assert_eq!(state(dir.path()).unwrap(), State::Exited(Exit::Code(3)));
    }
}
