//! The kernel, the disk, and what this process may have.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::clock;
use crate::daemon::folder::DataFolder;
use crate::doctor::Finding;

/// Detached mounts with `lowerdir+`: what stacks of many layers need.
const GOOD_KERNEL: (u32, u32) = (6, 7);
/// The first with everything that containers need: mount_setattr.
const LEAST_KERNEL: (u32, u32) = (5, 12);
/// An image of a language's toolchain, unpacked.
const COMFORTABLE: u64 = 5 << 30;
/// Below it the registry takes no pushes.
const LEAST: u64 = 64 << 20;
const COMFORTABLE_FILES: u64 = 100_000;
const LEAST_FILES: u64 = 1000;
/// What a daemon with some sandboxes and clients has open.
const ENOUGH_OPEN: u64 = 4096;

pub(super) fn kernel() -> Finding {
    const WHAT: &str = "kernel";
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let seen = format!("Linux {release}, {}", name.machine().to_string_lossy());
    match version(&release) {
        have if have >= GOOD_KERNEL => Finding::ok(WHAT, seen),
        have if have >= LEAST_KERNEL => Finding::reduced(
            WHAT,
            format!("{seen}: images of very many layers may not stack"),
        )
        .lift("Linux 6.7 or newer"),
        _ => Finding::missing(WHAT, format!("{seen}: containers need newer system calls"))
            .lift("Linux 5.12 or newer"),
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (next(), next())
}

pub(super) fn user() -> Finding {
    let uid = rustix::process::geteuid();
    match uid.is_root() {
        true => Finding::ok(
            "user",
            "root; containers are in user namespaces all the same",
        ),
        false => Finding::ok("user", format!("an ordinary one (id {})", uid.as_raw())),
    }
}

pub(super) fn seccomp() -> Finding {
    const WHAT: &str = "system call filter";
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    match actions {
        Ok(text) if text.split_whitespace().any(|action| action == "errno") => {
            Finding::ok(WHAT, "docker's default profile is in force")
        }
        _ => Finding::missing(
            WHAT,
            "this kernel has no seccomp filters, so no container starts",
        )
        .lift("a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

/// An existing folder on the file system of the data folder in which something can be tried.
pub(super) fn scratch(folder: &DataFolder) -> PathBuf {
    let writable = |path: &&Path| {
        rustix::fs::access(
            *path,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )
        .is_ok()
    };
    let found = folder.root().ancestors().find(|path| path.is_dir());
    found
        .filter(writable)
        .map_or_else(std::env::temp_dir, Path::to_owned)
}

/// The data folder: whose it is, on what it lies, and the room that is left.
pub(super) fn data(folder: &DataFolder) -> Vec<Finding> {
    let root = folder.root();
    let existing = root.ancestors().find(|path| path.is_dir()).unwrap_or(root);
    let mut findings = vec![place(folder, existing), file_system(existing)];
    if let Ok(stat) = rustix::fs::statvfs(existing) {
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        findings.push(room(bytes));
        // Some file systems make inodes as they need them, and count none.
        if stat.f_files > 0 {
            findings.push(files(stat.f_favail));
        }
    }
    findings
}

fn place(folder: &DataFolder, existing: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt;
    const WHAT: &str = "data folder";
    let root = folder.root().display();
    if existing != folder.root() {
        let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
        return match writable {
            true => Finding::ok(WHAT, format!("{root} will be made")),
            false => Finding::missing(WHAT, format!("{root} cannot be made"))
                .lift("name a folder that you may write: --data, DEVPOD_DATA"),
        };
    }
    let owner = std::fs::metadata(existing).map(|data| data.uid());
    match owner {
        Ok(uid) if uid == rustix::process::geteuid().as_raw() => {
            Finding::ok(WHAT, root.to_string())
        }
        Ok(uid) => Finding::missing(WHAT, format!("{root} belongs to the user with id {uid}"))
            .lift("name one of your own: --data, DEVPOD_DATA"),
        Err(error) => Finding::missing(WHAT, format!("{root}: {error}")),
    }
}

/// By their magic numbers, <linux/magic.h>.
fn file_system(existing: &Path) -> Finding {
    const WHAT: &str = "file system";
    const HINT: &str = "put the data folder on ext4, xfs or btrfs: --data, DEVPOD_DATA";
    let magic = match rustix::fs::statfs(existing) {
        Ok(stat) => stat.f_type as u64 & 0xffff_ffff,
        Err(error) => return Finding::missing(WHAT, format!("{}: {error}", existing.display())),
    };
    match magic {
        0xef53 => Finding::ok(WHAT, "ext4"),
        0x5846_5342 => Finding::ok(WHAT, "xfs"),
        0x9123_683e => Finding::ok(WHAT, "btrfs"),
        0xf2f5_2010 => Finding::ok(WHAT, "f2fs"),
        0x0102_1994 => {
            Finding::reduced(WHAT, "tmpfs: images are in memory and gone at a restart").lift(HINT)
        }
        0x794c_7630 => {
            Finding::reduced(WHAT, "overlayfs: layers cannot be stacked on it").lift(HINT)
        }
        0x6969 => Finding::missing(WHAT, "NFS: no layers, and no durable index").lift(HINT),
        0x6573_5546 => {
            Finding::reduced(WHAT, "a file system of a user's program (FUSE)").lift(HINT)
        }
        other => Finding::reduced(WHAT, format!("of an unknown kind ({other:#x})")).lift(HINT),
    }
}

fn room(bytes: u64) -> Finding {
    const WHAT: &str = "disk space";
    let seen = format!("{} MiB free", bytes >> 20);
    let hint = "devpod image prune --all, devpod rmi, devpod sandbox rm, devpod volume prune";
    match bytes {
        COMFORTABLE.. => Finding::ok(WHAT, seen),
        LEAST.. => Finding::reduced(WHAT, seen).lift(hint),
        _ => Finding::missing(WHAT, seen).lift(hint),
    }
}

fn files(free: u64) -> Finding {
    const WHAT: &str = "inodes";
    let seen = format!("{free} more files");
    let hint = "unpacked images are many small files: devpod image prune --all, or another disk";
    match free {
        COMFORTABLE_FILES.. => Finding::ok(WHAT, seen),
        LEAST_FILES.. => Finding::reduced(WHAT, seen).lift(hint),
        _ => Finding::missing(WHAT, seen).lift(hint),
    }
}

pub(super) fn open_files() -> Finding {
    const WHAT: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < ENOUGH_OPEN => Finding::reduced(
            WHAT,
            format!("{most} at most, for the daemon and in containers"),
        )
        .lift("raise the hard limit: LimitNOFILE= of the service, /etc/security/limits.conf"),
        Some(most) => Finding::ok(WHAT, format!("{most} at most")),
        None => Finding::ok(WHAT, "no limit"),
    }
}

/// Certificates and tokens are believed or not by the time.
pub(super) fn clock() -> Finding {
    let now = clock::now_rfc3339();
    match now.as_str() > "2026" {
        true => Finding::ok("clock", now),
        false => Finding::reduced(
            "clock",
            format!("it says {now}: other registries' certificates fail"),
        )
        .lift("set the clock: timedatectl set-time, or an NTP service"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn kernels_are_ordered_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.4"), (5, 4));
        assert!(version("5.15.0-91-generic") < GOOD_KERNEL);
        assert_eq!(version("strange"), (0, 0));
    }

    #[test]
    fn room_and_files_have_three_states() {
        let states =
            |finding: fn(u64) -> Finding, values: [u64; 3]| values.map(|v| finding(v).state);
        let all = [State::Ok, State::Reduced, State::Missing];
        assert_eq!(states(room, [COMFORTABLE, LEAST, LEAST - 1]), all);
        assert_eq!(states(files, [COMFORTABLE_FILES, LEAST_FILES, 0]), all);
    }

    #[test]
    fn what_is_tried_is_tried_where_something_exists() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::new(dir.path().join("not/yet"));
        assert_eq!(scratch(&folder), dir.path());
    }
}
