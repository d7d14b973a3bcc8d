//! A folder, its layer, and the folder again.

use proptest::prelude::*;

use super::*;
use crate::layer::diff::{DiffOptions, diff};

fn tar_back(root: &Root, ownership: Ownership) -> Vec<u8> {
    let mut out = Vec::new();
    let options = DiffOptions {
        mtime: None,
        ownership,
    };
    diff(root, &mut out, &options).unwrap();
    out
}

/// `apply(diff(x)) == x`, whiteouts and opaque folders included.
fn check_round_trip(layers: &[Vec<Item>]) {
    let stack = Stack::overlay(layers).unwrap();
    let Some((top, below)) = stack.folders.split_last() else {
        return;
    };
    let first = tar_back(&open(top), Ownership::Mapped);
    let again = TempDir::new().unwrap();
    let root = Root::open(again.path()).unwrap();
    let parents: Vec<Root> = below.iter().map(open).collect();
    let form = Form::Overlay { parents: &parents };
    apply_bytes(&first, &root, form, &options(Ownership::Mapped)).unwrap();
    let mut before = listing(&open(top), true);
    let mut after = listing(&root, true);
    // Its time is not told when it has nothing else to tell.
    before.remove("/");
    after.remove("/");
    assert_eq!(before, after);
    let second = tar_back(&root, Ownership::Mapped);
    assert!(first == second, "the same folder gives the same bytes");
}

pub(crate) fn item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("a/b"),
        Just("a/c"),
        Just("b/a/c"),
        Just("l/x"),
        Just("l"),
    ];
    let other = prop_oneof![Just("a"), Just("b"), Just("a/b"), Just("../b/a")];
    (name, other, 0..10_u8, any::<u16>()).prop_map(|(name, other, what, number)| {
        let parent = Path::new(name).parent().unwrap();
        let last = Path::new(name).file_name().unwrap().to_str().unwrap();
        match what {
            0 | 1 => dir(name)
                .mode(u32::from(number) & 0o7777)
                .mtime(i64::from(number), 9),
            2..=4 => file(name, other)
                .mode(u32::from(number) & 0o7777)
                .owner(7, number.into()),
            5 => symlink(name, other).mtime(3, number.into()),
            6 => wh(parent.join(format!(".wh.{last}")).to_str().unwrap()),
            7 => wh(parent.join(".wh..wh..opq").to_str().unwrap()),
            8 => hard(name, other),
            _ => dir(name).xattr("user.n", &number.to_string()),
        }
    })
}

proptest! {
    #![proptest_config(cases())]

    /// Any layers at all: the stack that overlayfs shows is the tree of a serial unpack.
    #[test]
    fn both_forms_agree_and_come_back(
        layers in proptest::collection::vec(proptest::collection::vec(item(), 0..8), 1..4)
    ) {
        if !privileged() {
            return Ok(());
        }
        let (flat, stack) = (Stack::flat(&layers), Stack::overlay(&layers));
        prop_assert_eq!(flat.is_ok(), stack.is_ok());
        let (Ok(flat), Ok(stack)) = (flat, stack) else {
            return Ok(());
        };
        let flat = plain(listing(&flat.merged().unwrap(), true));
        let merged = plain(listing(&stack.merged().unwrap(), true));
        prop_assert_eq!(flat, merged);
        check_round_trip(&layers);
    }
}

#[test]
fn everything_comes_back() {
    if !privileged() {
        return;
    }
    let long = format!("{}/ü", "d".repeat(150));
    check_round_trip(&[
        vec![file("gone", ""), file("d/old", ""), file("keep/x", "")],
        vec![
            wh(".wh.gone"),
            dir("d").mode(0o711).owner(1, 2),
            wh("d/.wh..wh..opq"),
            file(&long, "x").mtime(-3, 7).owner(3_000_000, 1),
            symlink("s", &"t".repeat(250)),
            file("h1", "x"),
            hard("h2", "h1"),
            file("cap", "").xattr(
                "security.capability",
                "\u{1}\0\0\u{2}\0\u{20}\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            file("x", "").xattr("user.overlay.metacopy", "v"),
            node("fifo", Kind::Fifo, 0, 0),
            node("null", Kind::CharDevice, 1, 3),
        ],
    ]);
}

#[test]
fn recorded_owners_come_back_as_owners() {
    let dir_ = TempDir::new().unwrap();
    let root = Root::open(dir_.path()).unwrap();
    let items = [
        dir("d").mode(0o500).owner(9, 9),
        file("d/su", "x").mode(0o4755).owner(33, 44),
    ];
    let layer = tar_of(&items);
    apply_bytes(&layer, &root, Form::Flat, &options(Ownership::Recorded)).unwrap();
    let me = rustix::process::geteuid().as_raw();
    let seen = root.metadata(Path::new("d/su")).unwrap();
    // What is ours in truth must not lend our id to others.
    assert_eq!((seen.owner.uid, seen.mode), (me, 0o755));
    assert_eq!(tar_back(&root, Ownership::Recorded), layer);
    root.set_mode(Path::new("d"), 0o700).unwrap();
}

#[test]
fn sockets_are_left_out_and_times_are_the_given_one() {
    let dir = TempDir::new().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    for (name, seconds) in [("earlier", 10), ("later", 10_000)] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        file.set_modified(time).unwrap();
    }
    let options = DiffOptions {
        mtime: Some(1000),
        ownership: Ownership::Recorded,
    };
    let mut out = Vec::new();
    let stats = diff(&Root::open(dir.path()).unwrap(), &mut out, &options).unwrap();
    assert_eq!((stats.entries, stats.skipped), (2, 1));
    assert_eq!(stats.bytes, out.len() as u64);
    let mut times = Vec::new();
    for entry in tar::Archive::new(&out[..]).entries().unwrap() {
        times.push(entry.unwrap().header().mtime().unwrap());
    }
    assert_eq!(times, [1000, 1000]);
}
