//! Layers side by side show what layers one after the other show, and are kept where others find them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek, Write};

use proptest::prelude::*;

use super::*;
use crate::content::{Blob, ContentWriter};
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::unpack::{unpacked, unsynced};
use crate::image::{Image, Layer};
use crate::layer::apply::{Form, Settled, apply_alone, settle};
use crate::layer::root::Root;
use crate::snapshot::id::SnapshotId;

/// Blobs in memory: what is on disk is synced, and random cases are many.
#[derive(Default)]
struct Shelf(HashMap<String, Vec<u8>>);

impl Content for Shelf {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(bytes) = self.0.get(digest.digest()) else {
            return Ok(None);
        };
        let mut file: File = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        let size = bytes.len() as u64;
        Ok(Some(Blob { file, size }))
    }

    fn writer(&self, _: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Shelf {
    fn image(&mut self, layers: &[Vec<Item>]) -> Image {
        let tars: Vec<Vec<u8>> = layers.iter().map(|layer| tar_of(layer)).collect();
        let diffs: Vec<DiffId> = tars.iter().map(|tar| DiffId::new(sha256(tar))).collect();
        let chains = ChainId::of_layers(&diffs);
        let layers = tars.into_iter().zip(diffs).zip(chains);
        let layers = layers.map(|((tar, diff_id), chain_id)| {
            let digest = sha256(&tar);
            let kind = Compression::None.media_type();
            let blob = Descriptor::new(kind, tar.len() as u64, digest.clone());
            self.0.insert(digest.digest().to_owned(), tar);
            Layer {
                blob,
                diff_id,
                chain_id,
            }
        });
        Image {
            digest: sha256(b""),
            config_digest: sha256(b""),
            config: ImageConfig::default(),
            layers: layers.collect(),
        }
    }
}

struct Kept {
    dir: TempDir,
    shelf: Shelf,
    snapshots: Snapshots,
}

impl Kept {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        Self {
            dir,
            shelf: Shelf::default(),
            snapshots,
        }
    }

    /// Unpacks an image; also which of its layers were carried out and not found.
    fn unpack(&mut self, layers: &[Vec<Item>]) -> Result<(Vec<SnapshotId>, usize), UnpackError> {
        let image = self.shelf.image(layers);
        let made = Mutex::new(0);
        let progress = |event: Event| {
            if matches!(event, Event::Finished { note: None, .. }) {
                *made.lock().unwrap() += 1;
            }
        };
        let options = options(Ownership::Mapped);
        let cancel = Cancel::default();
        let ids = unsynced(
            &image,
            &self.shelf,
            &self.snapshots,
            &options,
            &progress,
            &cancel,
        )?;
        Ok((ids, made.into_inner().unwrap()))
    }

    fn folders(&self, ids: &[SnapshotId]) -> Vec<PathBuf> {
        let folder = |id| self.snapshots.get(id).unwrap().unwrap();
        ids.iter().map(folder).collect()
    }

    fn merged(&self, ids: &[SnapshotId]) -> Root {
        match self.folders(ids).as_slice() {
            [one] => open(one),
            folders => mount_overlay(folders).unwrap(),
        }
    }

    /// What a process sees of an image that is unpacked here.
    fn shown(&mut self, layers: &[Vec<Item>]) -> BTreeMap<String, String> {
        let (ids, _) = self.unpack(layers).unwrap();
        listing(&self.merged(&ids), true)
    }
}

/// What a process sees after layers went one after the other.
fn serial(layers: &[Vec<Item>]) -> BTreeMap<String, String> {
    listing(&Stack::overlay(layers).unwrap().merged().unwrap(), true)
}

fn entry() -> impl Strategy<Value = Item> {
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("l"),
        Just("a/b"),
        Just("a/c"),
        Just("b/a/c"),
        Just("l/x"),
        Just("l/x/y"),
        Just("a/l/b"),
        Just("a/b/c/d"),
    ];
    let other = prop_oneof![
        Just("a"),
        Just("b"),
        Just("a/b"),
        Just("../b/a"),
        Just("l/x")
    ];
    (name, other, 0..13_u8, any::<u16>()).prop_map(|(name, other, what, number)| {
        let parent = Path::new(name).parent().unwrap();
        let last = Path::new(name).file_name().unwrap().to_str().unwrap();
        let mode = u32::from(number) & 0o7777;
        match what {
            0 | 1 => dir(name).mode(mode).mtime(number.into(), 9),
            2..=5 => file(name, other).mode(mode).owner(7, number.into()),
            6 => symlink(name, other).mtime(3, number.into()),
            7 => wh(parent.join(format!(".wh.{last}")).to_str().unwrap()),
            8 => wh(parent.join(".wh..wh..opq").to_str().unwrap()),
            9 => hard(name, other),
            10 => dir(".").mode(mode).mtime(number.into(), 0).owner(1, 2),
            11 => node(name, Kind::BlockDevice, 8, 0),
            _ => dir(name).xattr("user.n", &number.to_string()),
        }
    })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn side_by_side_is_one_after_the_other(
        layers in proptest::collection::vec(proptest::collection::vec(entry(), 0..7), 1..5)
    ) {
        if !privileged() {
            return Ok(());
        }
        let mut kept = Kept::new();
        let (one, other) = (Stack::overlay(&layers), kept.unpack(&layers));
        prop_assert_eq!(one.is_ok(), other.is_ok(), "{:?} {:?}", one.err(), other.err());
        let (Ok(one), Ok((ids, _))) = (one, other) else {
            return Ok(());
        };
        let one = listing(&one.merged().unwrap(), true);
        prop_assert_eq!(one, listing(&kept.merged(&ids), true));
        // Nothing is made twice, and what is there is known to be in use.
        let (again, made) = kept.unpack(&layers).unwrap();
        prop_assert_eq!((again, made), (ids.clone(), 0));
        let known = unpacked(&kept.shelf.image(&layers), &kept.snapshots).unwrap();
        prop_assert!(ids.iter().all(|id| known.contains(id)));
    }
}

/// What becomes of a layer that did not know its parents.
#[derive(Debug, PartialEq)]
enum Came {
    Alone,
    Settled,
    Again,
}

fn came(lower: &[Item], upper: &[Item]) -> Came {
    let (below, above) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let options = options(Ownership::Mapped);
    let parents = [open(below.path())];
    let (root, cancel) = (open(above.path()), Cancel::default());
    apply_bytes(&tar_of(lower), &parents[0], Form::Flat, &options).unwrap();
    let tar = tar_of(upper);
    let alone = apply_alone(&mut &tar[..], &root, &options, &Silent, &cancel);
    match alone {
        Ok(alone) if alone.stands() => Came::Alone,
        Ok(alone) => match settle(&alone, &root, &parents, &options, &cancel).unwrap() {
            Settled::Done => Came::Settled,
            Settled::Again => Came::Again,
        },
        Err(_) => Came::Again,
    }
}

/// Most layers are not carried out twice: without this the property above could hold for want of
/// anything that is settled.
#[test]
fn few_layers_are_carried_out_again() {
    if !privileged() {
        return;
    }
    let lower = vec![
        dir(".").mtime(77, 0).mode(0o711),
        dir("d").mode(0o750).owner(3, 4).mtime(5, 6),
        dir("d/e").mode(0o2700).xattr("user.k", "v"),
        file("d/e/f", "low"),
        file("f", "low"),
        symlink("l", "d"),
    ];
    let explicit = vec![dir("d"), file("d/new", ""), hard("d/other", "d/new")];
    let opaque = vec![dir("d"), wh("d/.wh..wh..opq"), file("d/x", "")];
    let replaced = vec![file("d", ""), dir("l"), file("l/x", ""), symlink("f", "l")];
    for (layer, expected) in [
        (vec![file("top", "")], Came::Alone),
        (explicit, Came::Alone),
        (opaque, Came::Alone),
        (replaced, Came::Alone),
        (vec![wh(".wh..wh..opq"), file("d/x", "")], Came::Alone),
        (vec![wh(".wh.d"), file("d/e/f", "")], Came::Alone),
        (vec![file("d/e/new", "")], Came::Settled),
        (vec![file("f/x", ""), file("no/x", "")], Came::Settled),
        (vec![wh(".wh.f"), wh("d/e/.wh.f")], Came::Settled),
        (vec![wh("d/e/.wh..wh..opq")], Came::Settled),
        (vec![hard("a", "b"), file("b", "")], Came::Settled),
        (vec![node("d/sda", Kind::BlockDevice, 8, 0)], Came::Settled),
        (vec![file("l/x", "")], Came::Again),
        (vec![wh("l/.wh.e")], Came::Again),
        (vec![hard("a", "f")], Came::Again),
        (vec![hard("a", "f"), file("f", "")], Came::Again),
        (
            vec![hard("a", "d/x"), dir("d"), file("d/x", "")],
            Came::Again,
        ),
    ] {
        assert_eq!(came(&lower, &layer), expected, "{layer:?}");
        let layers = [lower.clone(), layer];
        assert_eq!(Kept::new().shown(&layers), serial(&layers));
    }
}

#[test]
fn a_layer_is_unpacked_once_whatever_is_below_it() {
    if !privileged() {
        return;
    }
    let app = vec![dir("app"), file("app/bin", "x").mode(0o755)];
    let bases = [
        vec![
            dir(".").mode(0o711).owner(5, 6).mtime(7, 8),
            file("one", ""),
        ],
        vec![dir(".").xattr("user.base", "two"), file("two", "")],
        // Says nothing of its root either.
        vec![file("three", "")],
    ];
    let mut kept = Kept::new();
    let mut places = Vec::new();
    for base in &bases {
        let layers = [base.clone(), app.clone()];
        let (ids, made) = kept.unpack(&layers).unwrap();
        assert_eq!(made, if places.is_empty() { 2 } else { 1 });
        places.push(ids[1].clone());
        assert_eq!(listing(&kept.merged(&ids), true), serial(&layers));
    }
    assert!(places.iter().all(|id| *id == places[0]));
    assert!(places[0].as_str().starts_with("diff-"));
    // And one that leans is kept for these parents only.
    let leans = vec![file("app/more", "")];
    let mut tops = Vec::new();
    for base in &bases[..2] {
        let layers = [base.clone(), app.clone(), leans.clone()];
        let (ids, made) = kept.unpack(&layers).unwrap();
        assert_eq!(made, 1);
        assert!(ids[2].as_str().starts_with("sha256-"));
        tops.push(ids[2].clone());
        assert_eq!(listing(&kept.merged(&ids), true), serial(&layers));
    }
    assert_ne!(tops[0], tops[1]);
}

#[test]
fn equal_layers_are_no_equal_folders() {
    if !privileged() {
        return;
    }
    // Overlayfs refuses one folder twice.
    let (a, empty) = (vec![dir("d"), file("d/a", "1")], vec![]);
    let b = vec![dir("d").mode(0o700), file("d/a", "2"), file("b", "")];
    let layers = [a.clone(), empty.clone(), b, empty.clone(), a, empty];
    let mut kept = Kept::new();
    assert_eq!(kept.shown(&layers), serial(&layers));
    let (ids, made) = kept.unpack(&layers).unwrap();
    assert_eq!((ids.len(), made), (6, 0));
}

#[test]
fn the_lowest_failure_is_told_and_nothing_stays() {
    let good = |number: usize| vec![file(&format!("f{number}"), &"x".repeat(100_000))];
    for bad in [vec![1, 4], vec![4, 1], vec![3], vec![0, 1, 2, 3, 4, 5]] {
        let mut kept = Kept::new();
        let layers: Vec<Vec<Item>> = (0..6).map(good).collect();
        let mut image = kept.shelf.image(&layers);
        for index in &bad {
            let other = sha256(format!("other {index}").as_bytes());
            image.layers[*index].diff_id = DiffId::new(other);
        }
        let options = options(Ownership::Recorded);
        let (shelf, snapshots) = (&kept.shelf, &kept.snapshots);
        let cancel = Cancel::default();
        let result = unsynced(&image, shelf, snapshots, &options, &Silent, &cancel);
        let lowest = *bad.iter().min().unwrap();
        match result {
            Err(UnpackError::DiffId { expected, .. }) => {
                assert_eq!(expected, image.layers[lowest].diff_id);
            }
            other => panic!("{other:?}"),
        }
        let listed = snapshots.list().unwrap();
        assert_eq!(listed.len(), lowest, "those below it are whole");
        for left in ["staging", "locks"] {
            let left = kept.dir.path().join("snapshots").join(format!(".{left}"));
            assert_eq!(left.read_dir().unwrap().count(), 0, "{left:?}");
        }
    }
}

#[test]
fn a_cancelled_unpack_leaves_nothing_half_made() {
    let mut kept = Kept::new();
    let layers: Vec<Vec<Item>> = (0..6)
        .map(|number| vec![file(&format!("f{number}"), &"x".repeat(3_000_000))])
        .collect();
    let image = kept.shelf.image(&layers);
    let cancel = Cancel::default();
    let progress = |event: Event| {
        if matches!(event, Event::Transfer { .. }) {
            cancel.cancel();
        }
    };
    let options = options(Ownership::Recorded);
    let (shelf, snapshots) = (&kept.shelf, &kept.snapshots);
    let result = unsynced(&image, shelf, snapshots, &options, &progress, &cancel);
    assert!(matches!(result, Err(UnpackError::Cancelled(_))));
    for left in ["staging", "locks"] {
        let left = kept.dir.path().join("snapshots").join(format!(".{left}"));
        assert_eq!(left.read_dir().unwrap().count(), 0, "{left:?}");
    }
}

#[test]
fn users_of_the_same_layers_do_not_wait_for_each_other_for_ever() {
    if !privileged() {
        return;
    }
    // Most of them lean on what is below, so that locks are held until the parents are there.
    let layers: Vec<Vec<Item>> = (0..8)
        .map(|number| vec![file(&format!("d/f{number}"), "x"), wh(".wh.gone")])
        .collect();
    let mut kept = Kept::new();
    let images: Vec<Image> = (1..=8).map(|n| kept.shelf.image(&layers[..n])).collect();
    let options = options(Ownership::Mapped);
    std::thread::scope(|scope| {
        for image in images.iter().chain(images.iter().rev()) {
            let (kept, options) = (&kept, &options);
            scope.spawn(move || {
                let (shelf, snapshots) = (&kept.shelf, &kept.snapshots);
                let cancel = Cancel::default();
                unsynced(image, shelf, snapshots, options, &Silent, &cancel).unwrap();
            });
        }
    });
    assert_eq!(kept.snapshots.list().unwrap().len(), 8);
    assert_eq!(kept.shown(&layers), serial(&layers));
}
