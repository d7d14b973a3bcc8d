//! Carrying out a layer: nothing outside of its folder changes, and both forms show the same tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{listing, mount_overlay, open, plain};
use crate::layer::Ownership;
use crate::layer::apply::{self, ApplyError, ApplyOptions, Form};
use crate::layer::header::{Fields, encode};
use crate::layer::root::Root;
use crate::layer::root::metadata::{Kind, Timestamp};
use crate::layer::tree::is_opaque;
use crate::progress::{Cancel, Silent};

/// Small, so that nothing takes long; a layer that reaches one of them proves nothing.
const MAX_BYTES: u64 = 4 << 20;
const MAX_ENTRIES: u64 = 500;

type Listing = BTreeMap<String, String>;

/// Folders to work in: two layers that are there already, and files that no layer may reach.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    /// What lower layers and files outside looked like at first.
    before: Vec<Listing>,
    ownership: Ownership,
}

impl Scratch {
    /// `dir` is an empty folder, best on a file system in memory.
    pub fn new(dir: &Path) -> Self {
        let mut scratch = Self {
            dir: dir.to_owned(),
            before: Vec::new(),
            ownership: Ownership::detect(),
        };
        fs::create_dir_all(dir.join("outside/d")).unwrap();
        fs::write(dir.join("outside/secret"), "secret").unwrap();
        fs::write(dir.join("outside/d/x"), "secret").unwrap();
        let mut parents = Vec::new();
        for (number, tar) in lowers(&dir.join("outside")).iter().enumerate() {
            let folder = scratch.path(&number.to_string());
            fs::create_dir(&folder).unwrap();
            let form = Form::Overlay { parents: &parents };
            scratch.carry_out(tar, &open(&folder), form).unwrap();
            parents.push(open(&folder));
        }
        scratch.before = scratch.surroundings();
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn carry_out(&self, tar: &[u8], root: &Root, form: Form<'_>) -> Result<(), ApplyError> {
        let options = ApplyOptions {
            ownership: self.ownership,
            max_bytes: MAX_BYTES,
            max_entries: MAX_ENTRIES,
        };
        let mut input = tar;
        apply::apply(
            &mut input,
            root,
            form,
            &options,
            &Silent,
            &Cancel::default(),
        )
        .map(|_| ())
    }

    fn surroundings(&self) -> Vec<Listing> {
        let all = ["outside", "0", "1"].map(|name| listing(&open(self.path(name)), true));
        all.into()
    }

    /// An empty folder.
    fn fresh(&self, name: &str) -> PathBuf {
        let root = open(&self.dir);
        root.remove_all(Path::new(name)).unwrap();
        fs::create_dir(self.path(name)).unwrap();
        self.path(name)
    }

    /// All layers in one tree.
    fn flat(&self, bytes: &[u8]) -> Result<Listing, ApplyError> {
        let root = open(self.fresh("flat"));
        root.set_mtime(Path::new(""), Timestamp::default()).unwrap();
        for tar in lowers(&self.path("outside")) {
            self.carry_out(&tar, &root, Form::Flat).unwrap();
        }
        self.carry_out(bytes, &root, Form::Flat)?;
        Ok(plain(listing(&root, true)))
    }

    /// The layer in a folder of its own; `None` where overlays cannot be mounted.
    fn layered(&self, bytes: &[u8]) -> Result<Option<Listing>, ApplyError> {
        let upper = self.fresh("upper");
        let mut folders = vec![self.path("0"), self.path("1")];
        let parents: Vec<Root> = folders.iter().map(open).collect();
        let form = Form::Overlay { parents: &parents };
        self.carry_out(bytes, &open(&upper), form)?;
        if is_opaque(&open(&upper), Path::new("")).unwrap() {
            folders.clear();
        }
        folders.push(upper);
        let merged = match folders.as_slice() {
            [one] => Root::open(one),
            folders => mount_overlay(folders),
        };
        match merged {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            merged => Ok(Some(plain(listing(&merged.unwrap(), true)))),
        }
    }
}

/// Carries bytes out as a layer, in both forms.
pub fn apply(bytes: &[u8], scratch: &Scratch) {
    let (flat, layered) = (scratch.flat(bytes), scratch.layered(bytes));
    assert_eq!(
        scratch.before,
        scratch.surroundings(),
        "something outside changed"
    );
    match (flat, layered) {
        (Ok(flat), Ok(Some(layered))) => assert_eq!(flat, layered, "the forms disagree"),
        (Ok(_), Err(error)) | (Err(error), Ok(_)) if !is_bound(&error) => {
            panic!("only one form is refused: {error:?}")
        }
        _ => {}
    }
}

/// The layered form copies parents and the targets of links, which costs.
fn is_bound(error: &ApplyError) -> bool {
    match error {
        ApplyError::TooManyEntries { .. } | ApplyError::CopiesTooLarge { .. } => true,
        ApplyError::Create { source, .. }
        | ApplyError::Data { source, .. }
        | ApplyError::Finish { source, .. } => source.kind() == io::ErrorKind::StorageFull,
        _ => false,
    }
}

fn tar(items: &[(&str, Fields, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, fields, data) in items {
        let size = data.len() as u64;
        let fields = Fields {
            size,
            ..fields.clone()
        };
        out.extend(encode(Path::new(name), &fields));
        out.extend(data.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

/// Two layers with everything in them that another layer can meet.
fn lowers(outside: &Path) -> [Vec<u8>; 2] {
    let file = || Fields {
        mode: 0o644,
        mtime: Timestamp::from_seconds(1000),
        ..Fields::default()
    };
    let folder = |mode| Fields {
        kind: Kind::Directory,
        mode,
        mtime: Timestamp::from_seconds(2000),
        ..Fields::default()
    };
    let link = |target: &Path| Fields {
        kind: Kind::Symlink,
        symlink: Some(target.into()),
        ..Fields::default()
    };
    let hard = |target: &str| Fields {
        hard_link: Some(target.into()),
        ..Fields::default()
    };
    let up = Path::new("../../../../../..").join(outside.strip_prefix("/").unwrap_or(outside));
    let lowest = [
        ("d", folder(0o750), ""),
        ("d/old", file(), "o"),
        ("d/e", folder(0o700), ""),
        ("d/e/x", file(), "x"),
        ("f", file(), "f"),
        ("g", file(), "g"),
        ("l", link(Path::new("d")), ""),
        ("out", link(outside), ""),
        ("up", link(&up), ""),
        ("proc", link(Path::new("/proc/self/root")), ""),
        ("h", hard("f"), ""),
        ("usr/lib/ld", file(), "l"),
        ("lib", link(Path::new("usr/lib")), ""),
        ("loop", link(Path::new("loop")), ""),
        ("o", folder(0o755), ""),
        ("o/hidden", file(), "h"),
    ];
    let above = [
        (".wh.g", file(), ""),
        ("o/.wh..wh..opq", file(), ""),
        ("o/new", file(), "n"),
        ("d/e/y", file(), "y"),
    ];
    [tar(&lowest), tar(&above)]
}
