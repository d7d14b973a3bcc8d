//! One tar header as bytes: ustar, with a PAX record for everything that does not fit.
//!
//! Pure. Source: POSIX pax "ustar Interchange Format" and "pax Extended Header"; `SCHILY.xattr.` is
//! star's, and what every container tool reads and writes.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::root::metadata::{DeviceNumber, Kind, Owner, Timestamp};

/// Octal fields of eight bytes hold seven digits.
const MAX_ID: u64 = 0o777_7777;
/// Octal fields of twelve bytes hold eleven digits.
const MAX_LONG: u64 = 0o777_7777_7777;
const MAX_NAME: usize = 100;

/// Extended attributes: names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a header says besides the name.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    pub(crate) kind: Kind,
    /// Set for a further name of a file that the archive already has.
    pub(crate) hard_link: Option<PathBuf>,
    pub(crate) symlink: Option<PathBuf>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
    pub(crate) mtime: Timestamp,
    pub(crate) node: DeviceNumber,
    pub(crate) xattrs: Xattrs,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            kind: Kind::File,
            hard_link: None,
            symlink: None,
            size: 0,
            mode: 0,
            owner: Owner::default(),
            mtime: Timestamp::default(),
            node: DeviceNumber::default(),
            xattrs: Vec::new(),
        }
    }
}

/// The blocks of an entry up to its data. `path` is relative; the empty one is the root.
pub(crate) fn encode(path: &Path, fields: &Fields) -> Vec<u8> {
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    let name = archive_name(path, fields);
    let name = records.text("path", &name);
    put(&mut header.as_old_mut().name, name);
    let link = fields.hard_link.as_ref().or(fields.symlink.as_ref());
    if let Some(link) = link {
        let link = records.text("linkpath", link.as_os_str().as_bytes());
        put(&mut header.as_old_mut().linkname, link);
    }
    header.set_entry_type(type_flag(fields));
    header.set_mode(fields.mode);
    header.set_uid(records.number("uid", fields.owner.uid.into(), MAX_ID));
    header.set_gid(records.number("gid", fields.owner.gid.into(), MAX_ID));
    let size = match &fields.hard_link {
        Some(_) => 0,
        None => fields.size,
    };
    header.set_size(records.number("size", size, MAX_LONG));
    header.set_mtime(records.time(fields.mtime));
    // A ustar header has both fields, so neither can fail.
    let _ = header.set_device_major(fields.node.major);
    let _ = header.set_device_minor(fields.node.minor);
    for (key, value) in &fields.xattrs {
        records.add(&[b"SCHILY.xattr.", key.as_slice()].concat(), value);
    }
    header.set_cksum();
    let mut out = records.entry();
    out.extend_from_slice(header.as_bytes());
    out
}

/// Directories end in a slash, as every tar writes them.
fn archive_name(path: &Path, fields: &Fields) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    match (fields.kind, bytes.is_empty()) {
        (_, true) => b"./".to_vec(),
        (Kind::Directory, false) => [bytes, b"/"].concat(),
        _ => bytes.to_vec(),
    }
}

fn type_flag(fields: &Fields) -> EntryType {
    if fields.hard_link.is_some() {
        return EntryType::Link;
    }
    match fields.kind {
        Kind::File | Kind::Socket => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::Fifo => EntryType::Fifo,
        Kind::CharDevice => EntryType::Char,
        Kind::BlockDevice => EntryType::Block,
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// PAX records of one entry, `length key=value\n` each.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.bytes.extend_from_slice(length.to_string().as_bytes());
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(key);
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    /// Answers what the ustar field gets.
    fn text<'a>(&mut self, key: &str, value: &'a [u8]) -> &'a [u8] {
        if value.len() <= MAX_NAME && value.is_ascii() {
            return value;
        }
        self.add(key.as_bytes(), value);
        &value[..value.len().min(MAX_NAME)]
    }

    fn number(&mut self, key: &str, value: u64, limit: u64) -> u64 {
        if value <= limit {
            return value;
        }
        self.add(key.as_bytes(), value.to_string().as_bytes());
        0
    }

    fn time(&mut self, time: Timestamp) -> u64 {
        let whole = u64::try_from(time.seconds).ok().filter(|s| *s <= MAX_LONG);
        if let (Some(seconds), 0) = (whole, time.nanos) {
            return seconds;
        }
        self.add(b"mtime", decimal(time).as_bytes());
        whole.unwrap_or(0)
    }

    /// The extended header as an entry of its own; nothing where there is no record.
    fn entry(self) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let mut header = Header::new_ustar();
        put(&mut header.as_old_mut().name, b"PaxHeaders/0");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.bytes.len() as u64);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(&self.bytes);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

/// A time as PAX writes it: the fraction counts away from zero, so -0.5 is half a second before the
/// epoch.
fn decimal(time: Timestamp) -> String {
    let (sign, seconds, nanos) = match (time.seconds < 0, time.nanos) {
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanos) => (
            "-",
            (time.seconds + 1).unsigned_abs(),
            1_000_000_000 - nanos,
        ),
        (false, nanos) => ("", time.seconds.unsigned_abs(), nanos),
    };
    match nanos {
        0 => format!("{sign}{seconds}"),
        nanos => format!("{sign}{seconds}.{nanos:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_count_away_from_it() {
        let time = |seconds, nanos| decimal(Timestamp { seconds, nanos });
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 1), "5.000000001");
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(-2, 0), "-2");
        assert_eq!(time(-2, 750_000_000), "-1.250000000");
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in 0..2000 {
            let mut records = Records::default();
            records.add(b"k", &vec![b'x'; length]);
            let text = String::from_utf8(records.bytes).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, text.len());
        }
    }
}
