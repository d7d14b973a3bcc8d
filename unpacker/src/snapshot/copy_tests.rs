//! The copy is what overlayfs shows, and stands in for it where there is none.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::layer::tests::{
    Item, Stack, cases, dir, file, hard, item, listing, node, open, plain, privileged, symlink, wh,
};
use crate::snapshot::overlay::Overlay;

fn flat(folders: &[PathBuf]) -> (TempDir, Root) {
    let dir = TempDir::new().unwrap();
    let root = open(dir.path());
    let layers: Vec<Root> = folders.iter().map(open).collect();
    flatten(&layers, &root).unwrap();
    (dir, root)
}

/// What overlayfs shows, and the copy.
fn both(layers: &[Vec<Item>]) -> [BTreeMap<String, String>; 2] {
    let stack = Stack::overlay(layers).unwrap();
    let (_dir, copy) = flat(&stack.folders);
    [stack.merged().unwrap(), copy].map(|root| listing(&root, true))
}

#[test]
fn a_copy_has_what_overlayfs_shows() {
    if !privileged() {
        return;
    }
    let layers = [
        vec![
            dir("d").mode(0o2750).owner(3, 4).mtime(5, 6),
            file("d/old", "x"),
            file("h1", "x"),
            hard("h2", "h1"),
            file("f", ""),
            symlink("l", "d"),
            dir("gone/deep"),
        ],
        vec![
            wh(".wh.gone"),
            dir("d").xattr("user.k", "v"),
            wh("d/.wh..wh..opq"),
            file("d/new", "y").xattr("user.overlay.redirect", "/d"),
            file("f/x", ""),
            node("fifo", Kind::Fifo, 0, 0),
            node("null", Kind::CharDevice, 1, 3),
            file("su", "x").mode(0o6755).owner(1, 1),
            file("l", "no link any more"),
        ],
    ];
    let [shown, copied] = both(&layers);
    assert_eq!(shown, copied);
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_copy_has_what_overlayfs_shows(
        layers in proptest::collection::vec(proptest::collection::vec(item(), 0..8), 2..5)
    ) {
        if privileged() && Stack::overlay(&layers).is_ok() {
            // A file whose other name is hidden has one there and two here.
            let [shown, copied] = both(&layers).map(plain);
            prop_assert_eq!(shown, copied);
        }
    }
}

#[test]
fn data_is_copied_and_holes_stay() {
    let (from, dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = File::create_new(from.path().join("f")).unwrap();
    source.write_all_at(b"in the middle", 3 << 20).unwrap();
    source.set_len(9 << 20).unwrap();
    let go_on: &dyn Fn() -> io::Result<()> = &|| Ok(());
    for number in 0..3 {
        let source = File::open(from.path().join("f")).unwrap();
        let copy = File::create_new(dir.path().join(number.to_string())).unwrap();
        match number {
            0 => copy_data(&source, &copy, 9 << 20, go_on).unwrap(),
            1 => copy_range(&source, &copy, 3 << 20..4 << 20, go_on).unwrap(),
            _ => copy_by_hand(&source, &copy, 3 << 20, 4 << 20, go_on).unwrap(),
        }
        let mut text = [0; 13];
        copy.read_exact_at(&mut text, 3 << 20).unwrap();
        assert_eq!(&text, b"in the middle");
    }
    let copy = std::fs::metadata(dir.path().join("0")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(copy.len(), 9 << 20);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
}

/// Overlayfs takes no upper folder on another overlay, so there everything is copied.
#[test]
fn where_overlayfs_refuses_a_copy_is_mounted_and_kept() {
    if !privileged() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let folder = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let outer = Overlay {
        lower: vec![folder("lower")],
        upper: Some((folder("upper"), folder("work"))),
        volatile: true,
    };
    let outer = Root::from_fd(outer.mount_detached().unwrap());
    let top = std::os::fd::AsRawFd::as_raw_fd(&outer.as_fd());
    let top = PathBuf::from(format!("/proc/self/fd/{top}"));
    for name in ["one", "two", "changes", "beside"] {
        std::fs::create_dir(top.join(name)).unwrap();
    }
    std::fs::write(top.join("one/f"), "low").unwrap();
    std::fs::write(top.join("two/f"), "high").unwrap();
    std::fs::write(top.join("changes/g"), "of before").unwrap();
    let inner = Overlay {
        lower: vec![top.join("one"), top.join("two")],
        upper: Some((top.join("changes"), top.join("beside"))),
        volatile: false,
    };
    assert!(inner.mount_detached().is_err());
    let read = |root: &Root, name: &str| root.read_small(Path::new(name), 100).unwrap();
    let first = Root::from_fd(inner.mount_or_copy().unwrap());
    assert_eq!(read(&first, "f"), b"high");
    assert_eq!(read(&first, "g"), b"of before");
    // What is changed there is there the next time, and the layers know nothing of it.
    first.remove(Path::new("f")).unwrap();
    first.create_file(Path::new("new"), 0o600).unwrap();
    drop(first);
    let second = Root::from_fd(inner.mount_or_copy().unwrap());
    assert!(second.lookup(Path::new("f")).unwrap().is_none());
    assert!(second.lookup(Path::new("new")).unwrap().is_some());
    assert_eq!(std::fs::read(top.join("two/f")).unwrap(), b"high");
}
