//! What a file is, as values: kind, permission bits, owner, times. No I/O.

use rustix::fs::{FileType, Stat};

/// Numeric user and group. Names are never looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// A point in time as file systems keep it: seconds since the epoch and nanoseconds after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    pub seconds: i64,
    /// Below one thousand million.
    pub nanos: u32,
}

impl Timestamp {
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }
}

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    CharDevice,
    BlockDevice,
    Socket,
}

impl Kind {
    pub(crate) fn from_type(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }
}

/// The major and minor number of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

/// What `lstat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `07777`.
    pub mode: u32,
    pub owner: Owner,
    pub size: u64,
    pub mtime: Timestamp,
    /// Of the last change of anything about it; no program can set it.
    pub ctime: Timestamp,
    /// Of a device node.
    pub node: DeviceNumber,
    /// The file system and the inode: two names of one file have the same pair.
    pub identity: (u64, u64),
    pub links: u64,
}

impl Metadata {
    pub(crate) fn from_stat(stat: &Stat) -> Option<Self> {
        Some(Self {
            kind: Kind::from_type(FileType::from_raw_mode(stat.st_mode))?,
            mode: stat.st_mode & 0o7777,
            owner: Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            },
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Timestamp {
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            ctime: Timestamp {
                seconds: stat.st_ctime,
                nanos: u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
            },
            node: DeviceNumber {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            identity: (stat.st_dev, stat.st_ino),
            links: stat.st_nlink,
        })
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    pub fn is_symlink(&self) -> bool {
        self.kind == Kind::Symlink
    }

    /// Overlayfs hides a lower file by a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharDevice && self.node == DeviceNumber::default()
    }
}
