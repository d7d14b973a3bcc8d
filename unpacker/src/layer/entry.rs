//! What a tar entry asks for, as a typed change or a refusal. Pure: looks at no file.
//!
//! | name | change |
//! |---|---|
//! | `dir/.wh..wh..opq` | everything below `dir` in lower layers is hidden |
//! | `dir/.wh.name` | `dir/name` of lower layers is hidden, whatever the entry's type |
//! | `.wh..wh.…` at the top | aufs's own bookkeeping: nothing |
//! | `.wh.`, `.wh..`, `.wh...`, below `.wh.x/` | refused |
//!
//! Names are cleaned and clamped at the root, as after a chroot; link targets are kept as they are.
//! Source: image-spec layer.md, "Whiteouts".

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::archive::RawEntry;
use super::root::metadata::{DeviceNumber, Kind, Owner, Timestamp};
use super::xattrs::{MAX_XATTR, MAX_XATTRS, xattrs};

/// As the kernel (`PATH_MAX`, `NAME_MAX`).
const MAX_PATH: usize = 4095;
const MAX_COMPONENT: usize = 255;
/// Directories in each other, so that no name costs much; the deepest real ones have some thirty.
pub(crate) const MAX_DEPTH: usize = 1000;
/// Bytes of an archive's text that an error repeats.
const MAX_TOLD: usize = 200;

/// Why an entry is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the name contains a zero byte")]
    NulInName,
    #[error("the name is longer than {MAX_PATH} bytes, or a part of it than {MAX_COMPONENT}")]
    NameTooLong,
    #[error("the name has more than {MAX_DEPTH} parts")]
    TooDeep,
    #[error("a whiteout of nothing")]
    EmptyWhiteout,
    #[error("the name lies below a whiteout")]
    BelowWhiteout,
    #[error("the root of the image is not a directory")]
    RootNotDirectory,
    #[error("a link without a target")]
    NoTarget,
    #[error("a character device 0:0 would hide files of lower layers")]
    WhiteoutDevice,
    #[error("device number {major}:{minor} is out of range")]
    DeviceNumber { major: u64, minor: u64 },
    #[error("entry type {:?} is not supported", char::from(*flag))]
    UnknownType { flag: u8 },
    #[error("owner {uid}:{gid} is out of range")]
    OwnerRange { uid: u64, gid: u64 },
    #[error("time {text:?} is not a number of seconds")]
    Time { text: String },
    #[error("extended attribute {name:?} is malformed or larger than {MAX_XATTR} bytes")]
    Xattr { name: String },
    #[error("more than {MAX_XATTRS} extended attributes")]
    TooManyXattrs,
}

/// What to do to the tree. Paths are relative and clean; the empty one is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// Hides what lower layers have at the path.
    Whiteout(PathBuf),
    /// Hides what lower layers have in the directory.
    Opaque(PathBuf),
    /// Gives a file a second name; its attributes are those of the first.
    HardLink {
        path: PathBuf,
        target: PathBuf,
    },
    Put {
        path: PathBuf,
        node: Node,
        attributes: Attributes,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    /// The data follows in the archive.
    File {
        size: u64,
    },
    Symlink {
        target: PathBuf,
    },
    Fifo,
    Device {
        kind: Kind,
        number: DeviceNumber,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
    /// What cannot be kept, for people.
    pub(crate) lost: Vec<String>,
}

/// Reads an entry. `overlay` says that the tree is a lower folder of overlayfs, where attributes of
/// an image that overlayfs would obey are escaped.
pub(crate) fn interpret(raw: &RawEntry, overlay: bool) -> Result<Change, Refusal> {
    if raw.flag == b'g' {
        return Ok(Change::Nothing);
    }
    let path = clean(&raw.name)?;
    match whiteout(&path)? {
        Some(change) => Ok(change),
        None => ordinary(raw, path, overlay),
    }
}

/// Reads an entry of an archive that is no layer: no name hides anything, what is said of the top is
/// passed over, and everything may get one owner.
pub(crate) fn interpret_archived(raw: &RawEntry, owner: Option<Owner>) -> Result<Change, Refusal> {
    if raw.flag == b'g' {
        return Ok(Change::Nothing);
    }
    Ok(match ordinary(raw, clean(&raw.name)?, false)? {
        Change::Put { path, .. } if path.as_os_str().is_empty() => Change::Nothing,
        Change::Put {
            path,
            node,
            mut attributes,
        } => {
            attributes.owner = owner.unwrap_or(attributes.owner);
            Change::Put {
                path,
                node,
                attributes,
            }
        }
        other => other,
    })
}

fn ordinary(raw: &RawEntry, path: PathBuf, overlay: bool) -> Result<Change, Refusal> {
    if raw.flag == b'1' {
        let target = clean(&raw.link)?;
        return match target.as_os_str().is_empty() || path.as_os_str().is_empty() {
            true => Err(Refusal::NoTarget),
            false => Ok(Change::HardLink { path, target }),
        };
    }
    let node = node(raw)?;
    if path.as_os_str().is_empty() && node != Node::Directory {
        return Err(Refusal::RootNotDirectory);
    }
    Ok(Change::Put {
        path,
        node,
        attributes: attributes(raw, overlay)?,
    })
}

/// Text of an archive for people: cut, and printable.
pub(crate) fn told(text: &[u8]) -> String {
    match text.get(..MAX_TOLD) {
        Some(start) if text.len() > MAX_TOLD => String::from_utf8_lossy(start).into_owned() + "…",
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

/// Drops `/`, `.` and empty parts, and goes up for `..` but never above the root.
pub(crate) fn clean(name: &[u8]) -> Result<PathBuf, Refusal> {
    if name.contains(&0) {
        return Err(Refusal::NulInName);
    }
    let mut path = PathBuf::new();
    let mut depth: usize = 0;
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                path.pop();
                depth = depth.saturating_sub(1);
            }
            part if part.len() > MAX_COMPONENT => return Err(Refusal::NameTooLong),
            part => {
                path.push(OsStr::from_bytes(part));
                depth += 1;
            }
        }
    }
    if path.as_os_str().len() > MAX_PATH {
        return Err(Refusal::NameTooLong);
    }
    match depth > MAX_DEPTH {
        true => Err(Refusal::TooDeep),
        false => Ok(path),
    }
}

fn whiteout(path: &Path) -> Result<Option<Change>, Refusal> {
    let mut parts = path.iter().map(OsStr::as_bytes);
    let Some(last) = parts.next_back() else {
        return Ok(None);
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let first = path.iter().next().map_or(&b""[..], OsStr::as_bytes);
    if first.starts_with(b".wh..wh.") && first != b".wh..wh..opq" {
        return Ok(Some(Change::Nothing));
    }
    if parts.any(|part| part.starts_with(b".wh.")) {
        return Err(Refusal::BelowWhiteout);
    }
    match last.strip_prefix(b".wh.") {
        None => Ok(None),
        Some(b".wh..opq") => Ok(Some(Change::Opaque(folder.to_owned()))),
        Some(b"" | b"." | b"..") => Err(Refusal::EmptyWhiteout),
        Some(name) => Ok(Some(Change::Whiteout(folder.join(OsStr::from_bytes(name))))),
    }
}

fn node(raw: &RawEntry) -> Result<Node, Refusal> {
    match raw.flag {
        0 | b'0' | b'7' => Ok(Node::File { size: raw.size }),
        b'2' if raw.link.is_empty() => Err(Refusal::NoTarget),
        b'2' if raw.link.contains(&0) => Err(Refusal::NulInName),
        b'2' if raw.link.len() > MAX_PATH => Err(Refusal::NameTooLong),
        b'2' => Ok(Node::Symlink {
            target: PathBuf::from(OsString::from_vec(raw.link.clone())),
        }),
        b'3' => device(raw, Kind::CharDevice),
        b'4' => device(raw, Kind::BlockDevice),
        b'5' => Ok(Node::Directory),
        b'6' => Ok(Node::Fifo),
        flag => Err(Refusal::UnknownType { flag }),
    }
}

fn device(raw: &RawEntry, kind: Kind) -> Result<Node, Refusal> {
    // The kernel's dev_t: twelve bits and twenty.
    let (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) =
        (u32::try_from(raw.major), u32::try_from(raw.minor))
    else {
        return Err(Refusal::DeviceNumber {
            major: raw.major,
            minor: raw.minor,
        });
    };
    let number = DeviceNumber { major, minor };
    match kind == Kind::CharDevice && number == DeviceNumber::default() {
        true => Err(Refusal::WhiteoutDevice),
        false => Ok(Node::Device { kind, number }),
    }
}

fn attributes(raw: &RawEntry, overlay: bool) -> Result<Attributes, Refusal> {
    // The highest id means "nobody changes it" to the kernel (CVE-2024-40635 is its cousin).
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let (Some(uid), Some(gid)) = (id(raw.uid), id(raw.gid)) else {
        return Err(Refusal::OwnerRange {
            uid: raw.uid,
            gid: raw.gid,
        });
    };
    let mtime = match raw.record("mtime") {
        Some(text) => time(text)?,
        None => Timestamp::from_seconds(raw.mtime),
    };
    let (xattrs, lost) = xattrs(raw, overlay)?;
    Ok(Attributes {
        mode: u32::try_from(raw.mode & 0o7777).unwrap_or(0),
        owner: Owner { uid, gid },
        mtime,
        xattrs,
        lost,
    })
}

/// `[-]seconds[.fraction]`; digits after the ninth are dropped.
fn time(text: &[u8]) -> Result<Timestamp, Refusal> {
    parse_time(text).ok_or_else(|| Refusal::Time { text: told(text) })
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !only_digits(whole) || !only_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let seconds: i64 = match whole {
        "" => 0,
        whole => whole.parse().ok()?,
    };
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp::from_seconds(-seconds),
        (true, nanos) => Timestamp {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}
