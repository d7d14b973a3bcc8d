//! `/dev` of a container: a small tmpfs with the host's harmless devices and a devpts of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, symlinkat};
use rustix::mount::MountAttrFlags;

use super::idmap::IdMap;
use super::inside::{Inside, Kind};
use super::launch::{Refusal, Refuse, Stage};
use super::rootfs::{attach, attach_at, attach_beside_proc, clone_tree, file_system};

const NODES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Bytes of /dev/shm, as docker has it.
const SHM: u64 = 64 << 20;
/// Debian's group `tty`, which owns terminals.
const TTY_GROUP: u32 = 5;

/// Where apt is told, where only one id exists, not to change to its user `_apt`.
pub(crate) const APT_CONFIG: &str = "/dev/.apt-single-id.conf";

/// Mounts /dev and fills it.
pub(crate) fn furnish(
    inside: &mut Inside<'_>,
    console: bool,
    single_id: bool,
    shm_size: Option<u64>,
) -> Result<(), Refusal> {
    let what = || "make /dev".to_owned();
    let options = [("mode", "755"), ("size", "65536k")];
    let dev = file_system("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID);
    let dev = dev.refuse(Stage::Mount, what)?;
    attach_beside_proc(inside, &dev, Path::new("/dev"), Kind::Folder)?;
    fill(&dev, console).refuse(Stage::Mount, what)?;
    if single_id {
        write_apt_config(&dev).refuse(Stage::Mount, what)?;
    }
    mount_below(inside, shm_size.unwrap_or(SHM))
}

fn fill(dev: &OwnedFd, console: bool) -> io::Result<()> {
    for name in NODES {
        let tree = clone_tree(CWD, &Path::new("/dev").join(name))?;
        attach_at(&tree, &make_file(dev, name)?)?;
    }
    for (name, to) in LINKS {
        symlinkat(*to, dev, *name)?;
    }
    if console {
        make_file(dev, "console")?;
    }
    for folder in ["pts", "shm", "mqueue"] {
        rustix::fs::mkdirat(dev, folder, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

fn make_file(dev: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::from_raw_mode(0o666))?;
    Ok(openat(
        dev,
        name,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn write_apt_config(dev: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let name = Path::new(APT_CONFIG).file_name().unwrap_or_default();
    let fd = openat(dev, name, flags, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(
        &mut std::fs::File::from(fd),
        b"APT::Sandbox::User \"root\";\n",
    )
}

fn mount_below(inside: &mut Inside<'_>, shm_size: u64) -> Result<(), Refusal> {
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let what = |path| move || format!("mount {path}");
    let terminals = terminals(quiet).refuse(Stage::Mount, what("/dev/pts"))?;
    attach(inside, &terminals, Path::new("dev/pts"), Kind::Folder)?;
    let shm_size = shm_size.to_string();
    let shm_options = [("mode", "1777"), ("size", shm_size.as_str())];
    let shm_flags = quiet | MountAttrFlags::MOUNT_ATTR_NODEV;
    let shm = file_system("tmpfs", &shm_options, shm_flags);
    let shm = shm.refuse(Stage::Mount, what("/dev/shm"))?;
    attach(inside, &shm, Path::new("dev/shm"), Kind::Folder)?;
    // Kernels can be built without message queues.
    if let Ok(queues) = file_system("mqueue", &[], shm_flags) {
        attach(inside, &queues, Path::new("dev/mqueue"), Kind::Folder)?;
    }
    Ok(())
}

fn terminals(flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let group = TTY_GROUP.to_string();
    let mut options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    if IdMap::current()?.has_gid(TTY_GROUP) {
        options.push(("gid", &group));
    }
    file_system("devpts", &options, flags)
}

/// The host's `/dev/null`, to be bound over what is masked. It must be the device: a plain file
/// that somebody put in its place would become readable and writable there.
pub(crate) fn null() -> io::Result<OwnedFd> {
    let tree = clone_tree(CWD, Path::new("/dev/null"))?;
    let stat = fstat(&tree)?;
    let device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if device && stat.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(tree)
    } else {
        Err(io::Error::other(
            "/dev/null of the host is not the null device",
        ))
    }
}

/// A new terminal of the devpts below `dev`: the side of the relay and the side of the program.
pub(crate) fn open_terminal(dev: impl AsFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let relay = openat(dev, "pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&relay)?;
    let open = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let program = rustix::pty::ioctl_tiocgptpeer(&relay, open)?;
    Ok((relay, program))
}
