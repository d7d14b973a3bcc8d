//! Layers as lists of entries, unpacked in both forms, and what the tree must look like then.
//!
//! The overlay form is looked at through the kernel's own overlayfs, mounted detached.

mod archives;
mod bounds;
mod cases;
mod corpus;
mod formats;
mod hostile;
mod model;
mod properties;
pub(crate) mod raw;
mod recorded;
mod round_trip;

pub(crate) use round_trip::item;

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Ownership;
use super::apply::{Applied, ApplyError, ApplyOptions, Form, apply};
use super::header::{Fields, encode};
pub(crate) use super::oracle::{listing, mount_overlay, open, plain};
use super::root::Root;
use super::root::metadata::{DeviceNumber, Kind, Owner, Timestamp};
use super::tree::is_opaque;
use crate::progress::{Cancel, Silent};
pub(crate) use raw::*;

/// An entry of a layer: name, header, data.
#[derive(Debug, Clone)]
pub(crate) struct Item(pub(crate) String, pub(crate) Fields, pub(crate) Vec<u8>);

pub(crate) fn file(name: &str, data: &str) -> Item {
    let fields = Fields {
        mode: 0o644,
        size: data.len() as u64,
        mtime: Timestamp::from_seconds(1000),
        ..Fields::default()
    };
    Item(name.into(), fields, data.as_bytes().to_vec())
}

pub(crate) fn dir(name: &str) -> Item {
    let fields = Fields {
        kind: Kind::Directory,
        mode: 0o755,
        mtime: Timestamp::from_seconds(2000),
        ..Fields::default()
    };
    Item(name.into(), fields, vec![])
}

pub(crate) fn symlink(name: &str, target: &str) -> Item {
    let fields = Fields {
        kind: Kind::Symlink,
        symlink: Some(target.into()),
        mode: 0o777,
        ..Fields::default()
    };
    Item(name.into(), fields, vec![])
}

pub(crate) fn hard(name: &str, target: &str) -> Item {
    let fields = Fields {
        hard_link: Some(target.into()),
        ..Fields::default()
    };
    Item(name.into(), fields, vec![])
}

/// A whiteout or an opaque marker, or any other empty file.
pub(crate) fn wh(name: &str) -> Item {
    file(name, "")
}

pub(crate) fn node(name: &str, kind: Kind, major: u32, minor: u32) -> Item {
    let fields = Fields {
        kind,
        mode: 0o600,
        node: DeviceNumber { major, minor },
        ..Fields::default()
    };
    Item(name.into(), fields, vec![])
}

impl Item {
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.1.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.1.owner = Owner { uid, gid };
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &str) -> Self {
        self.1.xattrs.push((name.into(), value.into()));
        self
    }

    pub(crate) fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.1.mtime = Timestamp { seconds, nanos };
        self
    }
}

pub(crate) fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for Item(name, fields, data) in items {
        out.extend(encode(Path::new(name), fields));
        out.extend(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(crate) fn options(ownership: Ownership) -> ApplyOptions {
    ApplyOptions {
        ownership,
        ..ApplyOptions::default()
    }
}

pub(crate) fn apply_bytes(
    bytes: &[u8],
    root: &Root,
    form: Form<'_>,
    options: &ApplyOptions,
) -> Result<Applied, ApplyError> {
    let mut input = bytes;
    apply(&mut input, root, form, options, &Silent, &Cancel::default())
}

/// Layers as folders, lowest first.
pub(crate) struct Stack {
    _dir: TempDir,
    pub(crate) folders: Vec<PathBuf>,
}

impl Stack {
    /// Unpacks every layer into a folder of its own.
    pub(crate) fn overlay(layers: &[Vec<Item>]) -> Result<Self, ApplyError> {
        let dir = TempDir::new().unwrap();
        let mut folders = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let folder = dir.path().join(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            let parents: Vec<Root> = folders.iter().map(open).collect();
            let form = Form::Overlay { parents: &parents };
            let ownership = options(Ownership::Mapped);
            apply_bytes(&tar_of(layer), &open(&folder), form, &ownership)?;
            if is_opaque(&open(&folder), Path::new("")).unwrap() {
                folders.clear();
            }
            folders.push(folder);
        }
        Ok(Self { _dir: dir, folders })
    }

    /// Unpacks every layer into the same folder.
    pub(crate) fn flat(layers: &[Vec<Item>]) -> Result<Self, ApplyError> {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("flat");
        std::fs::create_dir(&folder).unwrap();
        let root = open(&folder);
        root.set_mtime(Path::new(""), Timestamp::default()).unwrap();
        for layer in layers {
            let ownership = options(Ownership::Mapped);
            apply_bytes(&tar_of(layer), &root, Form::Flat, &ownership)?;
        }
        Ok(Self {
            _dir: dir,
            folders: vec![folder],
        })
    }

    /// What a process would see.
    pub(crate) fn merged(&self) -> io::Result<Root> {
        match self.folders.as_slice() {
            [one] => Root::open(one),
            folders => mount_overlay(folders),
        }
    }
}

/// So many random cases; more where the environment asks for them (`PROPTEST_CASES`).
pub(crate) fn cases() -> proptest::test_runner::Config {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let count = asked.and_then(|text| text.parse().ok()).unwrap_or(300);
    proptest::test_runner::Config::with_cases(count)
}

/// Whether this process may own files as it likes and mount.
pub(crate) fn privileged() -> bool {
    let able = rustix::process::geteuid().is_root() && Ownership::detect() == Ownership::Mapped;
    if !able {
        println!("skipped: chown and overlay mounts need root (or a user namespace with a range)");
    }
    able
}
