//! Who owns files, where the kernel lets us say it and where it does not.
//!
//! With a range of ids owners are real. With one single id (no `/etc/subuid`) everything belongs to
//! us, and what should have been is kept beside the file in the extended attribute that podman and
//! fuse-overlayfs use, `user.containers.override_stat` (`uid:gid:mode`, the mode octal). Symbolic
//! links and nodes cannot carry it; they count as root's.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, XattrFlags, fchmod, fchown, fsetxattr};

use super::root::attributes::{ids, mode_in, owner_in, set_xattr_in};
use super::root::metadata::{Kind, Metadata, Owner};
use super::root::{Root, stat_in};

/// The attribute of [`Ownership::Recorded`].
pub const OVERRIDE_STAT: &str = "user.containers.override_stat";

/// How owners are kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// `chown` works for the ids of the image.
    Mapped,
    /// Only one id is ours: owner and mode are recorded in [`OVERRIDE_STAT`].
    Recorded,
    /// Everything belongs to whoever writes it, and nothing of its owner is kept: files for a person,
    /// not for a container.
    Mine,
}

impl Ownership {
    /// What this process can do. One single id in `/proc/self/uid_map` means `Recorded`; so does an
    /// ordinary user outside of a user namespace.
    pub fn detect() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        match rustix::process::geteuid().is_root() && ids_of(&map) > 1 {
            true => Self::Mapped,
            false => Self::Recorded,
        }
    }

    /// Gives `path` an owner and a mode in this manner. For a symbolic link the mode is ignored.
    pub fn give(self, root: &Root, path: &Path, owner: Owner, mode: u32) -> io::Result<()> {
        let place = root.place(path)?;
        let (dir, name) = (place.dir.as_fd(), place.name.as_os_str());
        let kind = stat_in(dir, name)?.kind;
        self.own_in(dir, name, kind, owner, mode)?;
        match kind {
            Kind::Symlink => Ok(()),
            kind => mode_in(dir, name, self.real_mode(kind, mode)),
        }
    }

    /// Gives an open regular file an owner and a mode in this manner.
    pub fn give_file(self, file: impl AsFd, owner: Owner, mode: u32) -> io::Result<()> {
        match self {
            Self::Mapped => {
                let (uid, gid) = ids(owner)?;
                fchown(&file, Some(uid), Some(gid))?;
            }
            Self::Recorded => {
                let value = recorded(owner, mode);
                let flags = XattrFlags::empty();
                fsetxattr(&file, OVERRIDE_STAT, value.as_bytes(), flags)?;
            }
            Self::Mine => {}
        }
        let mode = Mode::from_raw_mode(self.real_mode(Kind::File, mode) & 0o7777);
        Ok(fchmod(file, mode)?)
    }

    /// Gives something in an open directory an owner, and records the mode where owners are
    /// recorded; the mode itself is left as it is.
    pub(crate) fn own_in(
        self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        kind: Kind,
        owner: Owner,
        mode: u32,
    ) -> io::Result<()> {
        match (self, kind) {
            (Self::Mapped, _) => owner_in(dir, name, owner),
            (Self::Recorded, Kind::File | Kind::Directory) => {
                let value = recorded(owner, mode);
                set_xattr_in(dir, name, OsStr::new(OVERRIDE_STAT), value.as_bytes())
            }
            (Self::Recorded | Self::Mine, _) => Ok(()),
        }
    }

    /// The permission bits that are set on disk. Where owners are only recorded a file is ours, and
    /// setuid would lend our own id to whoever on the host can run it.
    pub(crate) fn real_mode(self, kind: Kind, mode: u32) -> u32 {
        match (self, kind) {
            (Self::Mapped, _) | (_, Kind::Directory) => mode,
            (Self::Recorded | Self::Mine, _) => mode & 0o1777,
        }
    }

    /// The owner and the mode that `path` has in the image, given what `lstat` said.
    pub fn of(self, root: &Root, path: &Path, metadata: &Metadata) -> io::Result<(Owner, u32)> {
        if self != Self::Recorded {
            return Ok((metadata.owner, metadata.mode));
        }
        let value = match metadata.kind {
            Kind::File | Kind::Directory => root.xattr(path, OsStr::new(OVERRIDE_STAT))?,
            _ => None,
        };
        let known = value.as_deref().and_then(parse);
        Ok(standing(known, metadata.mode, metadata.is_dir()))
    }
}

/// Owner and mode of a file, given what was recorded of it and the mode that it has on disk. That
/// mode counts where somebody changed it since: what is recorded is then no longer what was set.
pub(crate) fn standing(known: Option<(Owner, u32)>, real: u32, is_folder: bool) -> (Owner, u32) {
    let kind = match is_folder {
        true => Kind::Directory,
        false => Kind::File,
    };
    match known {
        None => (Owner::default(), real),
        Some((owner, mode)) if Ownership::Recorded.real_mode(kind, mode) == real => (owner, mode),
        Some((owner, _)) => (owner, real),
    }
}

/// The text that is recorded.
pub(crate) fn recorded(owner: Owner, mode: u32) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{}:{}:0{:o}", owner.uid, owner.gid, mode & 0o7777);
    text
}

/// Reads the text; newer writers append more fields, which are not ours.
pub(crate) fn parse(value: &[u8]) -> Option<(Owner, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut fields = text.split(':');
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
    Some((Owner { uid, gid }, mode & 0o7777))
}

/// How many ids a `uid_map` has.
fn ids_of(map: &str) -> u64 {
    map.lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_podman_writes() {
        let owner = Owner {
            uid: 5,
            gid: 70_000,
        };
        assert_eq!(recorded(owner, 0o4755), "5:70000:04755");
        assert_eq!(parse(b"5:70000:04755"), Some((owner, 0o4755)));
        assert_eq!(parse(b"5:70000:0644:file"), Some((owner, 0o644)));
        for bad in [&b""[..], b"1:2", b"a:2:0644", b"1:2:9", b"\xff"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn one_id_is_told_from_many() {
        assert_eq!(ids_of("         0       1000          1\n"), 1);
        assert_eq!(ids_of("0 0 4294967295\n"), 4_294_967_295);
        assert_eq!(ids_of("0 1000 1\n1 100000 65536\n"), 65_537);
        assert_eq!(ids_of(""), 0);
    }
}
