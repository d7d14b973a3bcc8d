//! Owners that a container of one single id gives to files, kept for the layer.
//!
//! The kernel cannot carry such a `chown` out. The filter hands it to a process of ours outside of
//! the container, which finds the file as the kernel would have, notes the owner beside it
//! ([`OVERRIDE_STAT`]), and answers. Inside, the file goes on belonging to the one id.
//!
//! What the container says is hostile: names are resolved beneath its own root, and only what lies
//! on the very mount that its root is gets a note, so nothing that was bound into it does. A name
//! that changes while we read it leads to another file of the same container, no more.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, XattrFlags, chmodat, fstat,
    getxattr, open, openat2, setxattr, statx,
};
use rustix::io::Errno;
use rustix::process::Pid;

use super::launch::{Refusal, Refuse, Stage};
use super::seccomp::{self, Chown};
use super::sys::{self, Forked};
use super::wire::Wire;
use crate::layer::ownership::{self, OVERRIDE_STAT};
use crate::layer::root::metadata::Owner;

const SET_ID: u32 = 0o6000;
const GROUP_EXECUTES: u32 = 0o0010;
/// `PATH_MAX`, its end included.
const LONGEST_NAME: usize = 4096;

/// The recording process, as its parent holds it.
#[derive(Debug)]
pub(crate) struct Recorder {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Recorder {
    /// Starts recording for the container whose first process this is. The listener comes over the
    /// wire, once there is a filter. The caller has one thread.
    pub(crate) fn start(container: Pid, user: Owner, wire: OwnedFd) -> Result<Self, Refusal> {
        let what = || "start recording owners".to_owned();
        match sys::fork(0).refuse(Stage::Confine, what)? {
            Forked::Child => {
                let _ = record(container, user, &Wire::from_fd(wire));
                sys::exit_now(0)
            }
            Forked::Parent(pid, pidfd) => Ok(Self { pid, pidfd }),
        }
    }
}

/// By then nobody is left who could ask.
impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = sys::send_signal(&self.pidfd, libc::SIGKILL);
        let _ = sys::wait(self.pid.as_raw_nonzero().get(), 0);
    }
}

fn record(container: Pid, user: Owner, wire: &Wire) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    sys::close_all_but(&[wire.as_fd()])?;
    let Some((_, fds)) = wire.recv::<String>()? else {
        return Ok(());
    };
    let Some(listener) = fds.into_iter().next() else {
        return Ok(());
    };
    let top = open_path(&format!("/proc/{container}/root"))?;
    let ground = Ground {
        mount: mount_of(top.as_fd())?,
        user,
    };
    while heard(listener.as_fd())? {
        let Some(asked) = sys::next_notification(listener.as_fd())? else {
            continue;
        };
        let answer = match seccomp::chown_of(&asked.data) {
            Some(chown) => carry_out(asked.pid, &chown, &ground),
            None => Ok(()),
        };
        // Whoever asked may be gone by now.
        let _ = sys::answer_notification(listener.as_fd(), asked.id, answer);
    }
    Ok(())
}

/// What a container's files are judged by.
struct Ground {
    /// The mount of its root.
    mount: u64,
    /// Whose new files are.
    user: Owner,
}

/// Waits for a question; false when nobody is left who could ask one.
fn heard(listener: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(!fds[0].revents().contains(PollFlags::HUP)),
        Err(error) => Err(error.into()),
    }
}

/// Answers what the process is to hear. Where we cannot see what it means, it is told that all is
/// well, as without anybody who records.
fn carry_out(pid: u32, chown: &Chown, ground: &Ground) -> Result<(), Errno> {
    let found = match find(pid, chown) {
        Ok(found) => found,
        Err(Seen::Absent(error)) => return Err(error),
        Err(Seen::Unclear) => return Ok(()),
    };
    let _ = note(&found, chown, ground);
    Ok(())
}

enum Seen {
    /// The kernel would say so, too.
    Absent(Errno),
    Unclear,
}

impl From<Errno> for Seen {
    fn from(_: Errno) -> Self {
        Self::Unclear
    }
}

impl From<io::Error> for Seen {
    fn from(_: io::Error) -> Self {
        Self::Unclear
    }
}

fn find(pid: u32, chown: &Chown) -> Result<OwnedFd, Seen> {
    let name = match chown.name {
        Some(address) => read_name(pid, address)?,
        None => PathBuf::new(),
    };
    if name.as_os_str().is_empty() {
        return match (chown.empty_name, chown.folder) {
            (false, _) => Err(Seen::Absent(Errno::NOENT)),
            (true, libc::AT_FDCWD) => Ok(open_path(&format!("/proc/{pid}/cwd"))?),
            (true, fd) => {
                open_path(&format!("/proc/{pid}/fd/{fd}")).map_err(|_| Seen::Absent(Errno::BADF))
            }
        };
    }
    let root = open_path(&format!("/proc/{pid}/root"))?;
    let path = match (name.is_absolute(), chown.folder) {
        (true, _) => name,
        (false, libc::AT_FDCWD) => beneath(pid, "cwd")?.join(name),
        (false, fd) => beneath(pid, &format!("fd/{fd}"))?.join(name),
    };
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !chown.follows);
    let inside = path.strip_prefix("/").unwrap_or(&path);
    let inside = match inside.as_os_str().is_empty() {
        true => Path::new("."),
        false => inside,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, inside, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(found),
        // Names there mean something else to each process.
        Err(_)
            if ["proc", "dev"]
                .iter()
                .any(|kernels| inside.starts_with(kernels)) =>
        {
            Err(Seen::Unclear)
        }
        Err(error @ (Errno::NOENT | Errno::NOTDIR)) => {
            // A link may lead to where names mean something else, such as /dev/stdout.
            let here = resolve | ResolveFlags::NO_XDEV;
            match openat2(&root, inside, flags, Mode::empty(), here) {
                Err(Errno::XDEV) => Err(Seen::Unclear),
                _ => Err(Seen::Absent(error)),
            }
        }
        Err(_) => Err(Seen::Unclear),
    }
}

/// The name of a folder that the process has, seen from its own root.
fn beneath(pid: u32, what: &str) -> io::Result<PathBuf> {
    let folder = std::fs::read_link(format!("/proc/{pid}/{what}"))?;
    let root = std::fs::read_link(format!("/proc/{pid}/root"))?;
    Ok(folder.strip_prefix(&root).unwrap_or(&folder).to_owned())
}

fn read_name(pid: u32, address: u64) -> io::Result<PathBuf> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut name = Vec::new();
    // A read must not reach into a page that may not be there.
    while name.len() < LONGEST_NAME {
        let at = address + name.len() as u64;
        let mut piece = [0; LONGEST_NAME];
        let room = LONGEST_NAME - (at % LONGEST_NAME as u64) as usize;
        let read = memory.read_at(&mut piece[..room], at)?;
        let piece = &piece[..read];
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            name.extend_from_slice(&piece[..end]);
            return Ok(PathBuf::from(OsStr::from_bytes(&name)));
        }
        if piece.is_empty() {
            break;
        }
        name.extend_from_slice(piece);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Symbolic links and nodes can carry no note.
fn note(found: &OwnedFd, chown: &Chown, ground: &Ground) -> io::Result<()> {
    let stat = fstat(found)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let carries = matches!(kind, FileType::RegularFile | FileType::Directory);
    if !carries || mount_of(found.as_fd())? != ground.mount {
        return Ok(());
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    let mut value = [0_u8; 256];
    let known = match getxattr(&link, OVERRIDE_STAT, &mut value[..]) {
        Ok(length) => ownership::parse(&value[..length]),
        Err(_) => None,
    };
    let real = stat.st_mode & 0o7777;
    let is_folder = kind == FileType::Directory;
    // What came with the image, or of earlier steps, has a note.
    let known = known.or(Some((ground.user, real)));
    let (owner, mut mode) = ownership::standing(known, real, is_folder);
    let owner = Owner {
        uid: chown.uid.unwrap_or(owner.uid),
        gid: chown.gid.unwrap_or(owner.gid),
    };
    if !is_folder {
        mode = without_set_ids(mode);
        if without_set_ids(real) != real {
            let kept = Mode::from_raw_mode(without_set_ids(real));
            chmodat(CWD, &link, kept, AtFlags::empty())?;
        }
    }
    let text = ownership::recorded(owner, mode);
    Ok(setxattr(
        &link,
        OVERRIDE_STAT,
        text.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// As the kernel leaves a file's mode when its owner changes: a set-group-id bit of a file that its
/// group does not execute means something else.
fn without_set_ids(mode: u32) -> u32 {
    match mode & GROUP_EXECUTES {
        0 => mode & !0o4000,
        _ => mode & !SET_ID,
    }
}

fn open_path(path: &str) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

fn mount_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    match found.stx_mask & StatxFlags::MNT_ID.bits() {
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Ok(found.stx_mnt_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_owner_takes_set_id_bits() {
        for (before, after) in [
            (0o4755, 0o755),
            (0o6755, 0o755),
            (0o2745, 0o2745),
            (0o6744, 0o2744),
            (0o644, 0o644),
        ] {
            assert_eq!(without_set_ids(before), after, "{before:o}");
        }
    }

    #[test]
    fn names_are_read_over_the_end_of_a_page() {
        let mut pages = vec![b'n'; 2 * LONGEST_NAME];
        let start = pages.as_ptr() as u64;
        // The name lies on both sides of a page's border, wherever the pages are.
        let border = (LONGEST_NAME as u64 - start % LONGEST_NAME as u64) as usize;
        pages[border + 3] = 0;
        let begin = border.saturating_sub(4);
        let name = read_name(std::process::id(), start + begin as u64).unwrap();
        assert_eq!(name.as_os_str().len(), border + 3 - begin);
    }
}
