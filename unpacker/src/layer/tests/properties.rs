//! Random layers: the tree on disk, the stack of overlayfs and the model in memory are the same.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::model::Model;
use super::*;

/// Few names, so that entries meet.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![6 => Just("a"), 5 => Just("b"), 3 => Just("c"), 1 => Just("..")];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    const ODD: [&str; 10] = [
        "/", ".", "..", "/a", "/b/a", "../a", "../../b", "a/../b", "none", "c/",
    ];
    prop_oneof![
        name(),
        proptest::sample::select(&ODD[..]).prop_map(str::to_owned)
    ]
}

/// One entry of any kind.
fn item() -> impl Strategy<Value = Item> {
    let numbers = (0..12_u8, 0..0o10000_u32, 0..1_000_000_000_u32, -5..5_i64);
    (name(), target(), numbers).prop_map(|(name, other, (what, mode, nanos, seconds))| {
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", &name));
        let beside = |text: &str| match folder {
            "" => text.to_owned(),
            folder => format!("{folder}/{text}"),
        };
        let (uid, gid) = (mode % 7, mode % 5);
        match what {
            0..=3 => file(&name, &format!("{mode}")).mode(mode).owner(uid, gid),
            4 => dir(&name).mode(mode).owner(uid, gid).mtime(seconds, nanos),
            5 => dir(&name).mode(mode).xattr("user.k", &other),
            6 => symlink(&name, &other).owner(uid, gid).mtime(seconds, nanos),
            // A name that ends in `..` is no whiteout of anything.
            7 if last != ".." => wh(&beside(&format!(".wh.{last}"))),
            8 => wh(&beside(".wh..wh..opq")),
            9 | 10 => hard(&name, &other),
            11 => node(&name, Kind::Fifo, 0, 0).mode(mode),
            _ => dir(".").mode(mode).mtime(seconds, nanos),
        }
    })
}

/// The names that are one file on disk, for files with several.
fn links(root: &Root, paths: impl Iterator<Item = String>) -> BTreeSet<Vec<String>> {
    let mut files: std::collections::BTreeMap<_, Vec<String>> = Default::default();
    for path in paths {
        let path = path.trim_start_matches('/').to_owned();
        let found = root.metadata(Path::new(&path)).unwrap();
        files.entry(found.identity).or_default().push(path);
    }
    files
        .into_values()
        .filter(|names| names.len() > 1)
        .collect()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn layers_are_what_the_model_says(
        layers in proptest::collection::vec(proptest::collection::vec(item(), 0..12), 1..4)
    ) {
        if !privileged() {
            return Ok(());
        }
        let model = Model::of(&layers);
        let (flat, stack) = (Stack::flat(&layers), Stack::overlay(&layers));
        prop_assert_eq!(model.is_ok(), flat.is_ok(), "{:?} {:?}", model.err(), flat.err());
        prop_assert_eq!(model.is_ok(), stack.is_ok(), "{:?}", stack.err());
        let (Ok(model), Ok(flat), Ok(stack)) = (model, flat, stack) else {
            return Ok(());
        };
        let flat = flat.merged().unwrap();
        let seen = plain(listing(&flat, true));
        prop_assert_eq!(&model.listing(), &seen);
        prop_assert_eq!(model.links(), links(&flat, seen.into_keys()));
        let merged = plain(listing(&stack.merged().unwrap(), true));
        prop_assert_eq!(model.listing(), merged);
    }
}
