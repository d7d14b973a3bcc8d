//! Layers written by the harness: every kind of entry, in the PAX form that Go and GNU tar write.

use tar::{Builder, EntryType, Header};

/// One entry of a layer; made by the functions below.
#[derive(Debug, Clone)]
pub struct Entry {
    name: String,
    kind: EntryType,
    link: String,
    data: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    /// Seconds and nanoseconds.
    time: (i64, u32),
    xattrs: Vec<(String, Vec<u8>)>,
    device: (u32, u32),
}

fn entry(name: &str, kind: EntryType, mode: u32) -> Entry {
    Entry {
        name: name.to_owned(),
        kind,
        link: String::new(),
        data: Vec::new(),
        mode,
        owner: (0, 0),
        time: (1_700_000_000, 0),
        xattrs: Vec::new(),
        device: (0, 0),
    }
}

pub fn file(name: &str, data: &str) -> Entry {
    let mut made = entry(name, EntryType::Regular, 0o644);
    made.data = data.into();
    made
}

pub fn folder(name: &str) -> Entry {
    entry(name, EntryType::Directory, 0o755)
}

pub fn symlink(name: &str, target: &str) -> Entry {
    let mut made = entry(name, EntryType::Symlink, 0o777);
    made.link = target.to_owned();
    made
}

pub fn hard(name: &str, target: &str) -> Entry {
    let mut made = entry(name, EntryType::Link, 0o644);
    made.link = target.to_owned();
    made
}

pub fn fifo(name: &str) -> Entry {
    entry(name, EntryType::Fifo, 0o600)
}

pub fn char_device(name: &str, major: u32, minor: u32) -> Entry {
    let mut made = entry(name, EntryType::Char, 0o666);
    made.device = (major, minor);
    made
}

/// A marker that hides `name` of lower layers (or, in a folder's `.wh..opq`, everything).
pub fn gone(name: &str) -> Entry {
    let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
    let separator = if folder.is_empty() { "" } else { "/" };
    file(&format!("{folder}{separator}.wh.{last}"), "")
}

impl Entry {
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Nanoseconds count on from the seconds, before the epoch too.
    pub fn time(mut self, seconds: i64, nanos: u32) -> Self {
        self.time = (seconds, nanos);
        self
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }

    /// What does not fit into a ustar header.
    fn records(&self) -> Vec<(String, Vec<u8>)> {
        let mut records = Vec::new();
        let mut add = |key: &str, value: &[u8]| records.push((key.to_owned(), value.to_vec()));
        if self.name.len() > 100 {
            add("path", self.name.as_bytes());
        }
        if self.link.len() > 100 {
            add("linkpath", self.link.as_bytes());
        }
        for (key, id) in [("uid", self.owner.0), ("gid", self.owner.1)] {
            if id > 0o7_777_777 {
                add(key, id.to_string().as_bytes());
            }
        }
        match self.time {
            (0.., 0) => {}
            (seconds @ 0.., nanos) => add("mtime", format!("{seconds}.{nanos:09}").as_bytes()),
            (seconds, 0) => add("mtime", seconds.to_string().as_bytes()),
            // The fraction counts away from zero.
            (seconds, nanos) => {
                let (whole, part) = (-(seconds + 1), 1_000_000_000 - nanos);
                add("mtime", format!("-{whole}.{part:09}").as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            add(&format!("SCHILY.xattr.{name}"), value);
        }
        records
    }

    fn header(&self) -> Header {
        let mut header = Header::new_ustar();
        let small = |id: u64| if id > 0o7_777_777 { 0 } else { id };
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(small(self.owner.0));
        header.set_gid(small(self.owner.1));
        header.set_mtime(u64::try_from(self.time.0).unwrap_or(0));
        header.set_size(self.data.len() as u64);
        header.set_device_major(self.device.0).expect("ustar");
        header.set_device_minor(self.device.1).expect("ustar");
        // As bytes: the crate's own way would refuse names that lead out, which some tests want.
        let fields = header.as_ustar_mut().expect("ustar");
        copy(&mut fields.name, &self.name);
        copy(&mut fields.linkname, &self.link);
        header.set_cksum();
        header
    }
}

fn copy(field: &mut [u8; 100], text: &str) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

/// A layer's uncompressed tar.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for entry in entries {
        let records = entry.records();
        if !records.is_empty() {
            let records = records
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_slice()));
            tar.append_pax_extensions(records).expect("memory");
        }
        tar.append(&entry.header(), &entry.data[..])
            .expect("memory");
    }
    tar.into_inner().expect("memory")
}
