//! `snapshot::overlay`: views without a mount point, and what is left in the upper folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use libtest_mimic::Trial;
use rustix::fs::{Mode, OFlags, openat};
use unpacker::container::memory;
use unpacker::container::probe::Host;
use unpacker::snapshot::overlay::Overlay;

use crate::fixture::{Room, good};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 7] = [
        ("overlay: layers are stacked, lowest first", stacked),
        ("overlay: no layer, and one layer", plain),
        ("overlay: changes are in overlay form", form),
        ("overlay: more layers than one string holds", many),
        ("overlay: folders with long paths", long_paths),
        ("overlay: a container with long paths", long_container),
        ("overlay: the probe finds it", probed),
    ];
    tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .into()
}

struct Layers(tempfile::TempDir);

impl Layers {
    fn new(layers: &[&[(&str, &str)]]) -> (Self, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, files) in layers.iter().enumerate() {
            let path = dir.path().join(number.to_string());
            fs::create_dir(&path).unwrap();
            for (name, text) in *files {
                fs::write(path.join(name), text).unwrap();
            }
            paths.push(path);
        }
        for name in ["upper", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        (Self(dir), paths)
    }

    fn upper(&self) -> Option<(PathBuf, PathBuf)> {
        Some((self.0.path().join("upper"), self.0.path().join("work")))
    }
}

fn text(root: &OwnedFd, name: &str) -> Option<String> {
    let fd = openat(root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    Some(text)
}

fn stacked() {
    let (_layers, lower) = Layers::new(&[&[("a", "low"), ("b", "low")], &[("a", "high")]]);
    let view = Overlay {
        lower,
        upper: None,
        volatile: false,
    };
    let root = view.mount_detached().unwrap();
    assert_eq!(text(&root, "a").as_deref(), Some("high"));
    assert_eq!(text(&root, "b").as_deref(), Some("low"));
    assert!(openat(&root, "c", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).is_err());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&view.lower[0].display().to_string()));
}

fn plain() {
    let (layers, lower) = Layers::new(&[&[("a", "one")]]);
    let one = Overlay {
        lower,
        upper: None,
        volatile: false,
    };
    assert_eq!(
        text(&one.mount_detached().unwrap(), "a").as_deref(),
        Some("one")
    );
    let none = Overlay {
        lower: vec![],
        upper: layers.upper(),
        volatile: false,
    };
    let root = none.mount_detached().unwrap();
    let fd = openat(
        &root,
        "n",
        OFlags::WRONLY | OFlags::CREATE,
        Mode::from_raw_mode(0o600),
    );
    File::from(fd.unwrap()).write_all(b"new").unwrap();
    assert_eq!(fs::read(layers.0.path().join("upper/n")).unwrap(), b"new");
    let missing = Overlay {
        lower: vec!["/no/such".into(), "/layers".into()],
        ..one
    };
    assert!(missing.mount_detached().is_err());
}

fn form() {
    let (layers, lower) = Layers::new(&[&[("gone", "x")], &[("a", "x")]]);
    fs::create_dir(lower[0].join("folder")).unwrap();
    fs::write(lower[0].join("folder/old"), "x").unwrap();
    let overlay = Overlay {
        lower,
        upper: layers.upper(),
        volatile: true,
    };
    // Twice: a volatile mount leaves a marker that must not stop the next one.
    for _ in 0..2 {
        let root = overlay.mount_detached().unwrap();
        let none = rustix::fs::AtFlags::empty();
        let _ = rustix::fs::unlinkat(&root, "gone", none);
        let _ = rustix::fs::unlinkat(&root, "folder/old", none);
        rustix::fs::unlinkat(&root, "folder", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        rustix::fs::mkdirat(&root, "folder", Mode::from_raw_mode(0o755)).unwrap();
    }
    let upper = layers.0.path().join("upper");
    let gone = fs::symlink_metadata(upper.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0_u8; 8];
    let length =
        rustix::fs::getxattr(upper.join("folder"), "user.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
}

/// Longer than a string option of the kernel may be.
fn long_folder(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("a".repeat(160)).join("b:".repeat(80));
    fs::create_dir_all(&path).unwrap();
    path
}

fn long_paths() {
    let dir = tempfile::tempdir().unwrap();
    let long = long_folder(&dir);
    for name in ["one", "two", "upper", "work"] {
        fs::create_dir(long.join(name)).unwrap();
        fs::write(long.join(name).join("a"), name).unwrap();
    }
    fs::remove_file(long.join("upper/a")).unwrap();
    for upper in [None, Some((long.join("upper"), long.join("work")))] {
        let view = Overlay {
            lower: vec![long.join("one"), long.join("two")],
            upper,
            volatile: false,
        };
        let root = view.mount_detached().unwrap();
        assert_eq!(text(&root, "a").as_deref(), Some("two"));
    }
}

fn long_container() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::in_folder(&long_folder(&dir));
    assert_eq!(
        good(&room.spec("echo new >/tmp/new; cat /tmp/new")),
        "new\n"
    );
    assert_eq!(room.changes(), ["tmp", "tmp/new"]);
}

/// One option string of the kernel holds some hundred, one overlay 500.
fn many() {
    for count in [129, 500, 501, 700] {
        let names: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let files: Vec<[(&str, &str); 2]> = (names.iter())
            .map(|name| [(&**name, "x"), ("top", &**name)])
            .collect();
        let layers: Vec<&[(&str, &str)]> = files.iter().map(|files| &files[..]).collect();
        let (layers, lower) = Layers::new(&layers);
        let overlay = Overlay {
            lower,
            upper: layers.upper(),
            volatile: true,
        };
        let root = overlay.mount_detached().unwrap();
        assert!(names.iter().all(|name| text(&root, name).is_some()));
        assert_eq!(text(&root, "top").as_ref(), names.last());
    }
}

fn probed() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::look(dir.path()).unwrap();
    assert!(
        matches!(host.layers, memory::Layers::OnDisk),
        "{:?}",
        host.layers
    );
    assert!(host.sentences().len() >= 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
