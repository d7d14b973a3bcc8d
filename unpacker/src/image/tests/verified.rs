//! What a diffID is compared with, and what is left where it does not fit.

use super::*;
use crate::digest::{ChainId, DiffId, Hasher};
use crate::image::Image;
use crate::image::unpack::destination::Destination;
use crate::image::unpack::unpack_into;
use crate::layer::root::Root;
use crate::layer::root::metadata::{Metadata, Timestamp};

fn sha512(bytes: &[u8]) -> DiffId {
    let like = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    let mut hasher = Hasher::like(&like);
    hasher.update(bytes);
    DiffId::new(hasher.finish())
}

#[test]
fn diff_ids_of_both_algorithms_are_verified() {
    let tar = tar_of(&[file("a", "x")]);
    let made = image_of(std::slice::from_ref(&tar), Compression::Gzip);
    let snapshots = Snapshots::open(&made.dir.path().join("snapshots")).unwrap();
    let mut image = load(&made.layout, &made.manifest).unwrap();
    let mut unpacked = |diff_id: DiffId| {
        image.layers[0].chain_id = ChainId::base(&diff_id);
        image.layers[0].diff_id = diff_id;
        unpack(
            &image,
            &made.layout,
            &snapshots,
            &Silent,
            &Cancel::default(),
        )
    };
    let wrong = unpacked(sha512(b"other"));
    assert!(matches!(wrong, Err(UnpackError::DiffId { .. })));
    assert!(unpacked(sha512(&tar)).is_ok());
}

/// An image whose upper layer is not what its configuration says.
fn wrong() -> (Made, Image) {
    let root = dir(".").mode(0o1777).mtime(5, 0).xattr("user.k", "v");
    let tars = [tar_of(&[root, file("a/b", "x")]), tar_of(&[file("c", "x")])];
    let made = image_of(&tars, Compression::Gzip);
    let mut image = load(&made.layout, &made.manifest).unwrap();
    image.layers[1].diff_id = sha256(b"other").to_string().parse().unwrap();
    (made, image)
}

fn unpack_wrong(made: &Made, image: &Image, to: &Path) -> UnpackError {
    let (options, cancel) = (ApplyOptions::default(), Cancel::default());
    let result = unpack_to(image, &made.layout, to, &options, &Silent, &cancel);
    result.unwrap_err()
}

#[test]
fn folders_that_were_made_are_gone_where_a_layer_was_not_the_right_one() {
    let (made, image) = wrong();
    let above = made.dir.path().join("above");
    std::fs::create_dir(&above).unwrap();
    let error = unpack_wrong(&made, &image, &above.join("new/flat"));
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error:?}");
    assert_eq!(above.read_dir().unwrap().count(), 0);
}

#[test]
fn a_folder_is_as_it_was_where_a_layer_was_not_the_right_one() {
    let (made, image) = wrong();
    let to = made.dir.path().join("there");
    std::fs::create_dir(&to).unwrap();
    let root = Root::open(&to).unwrap();
    let top = Path::new("");
    root.set_mode(top, 0o750).unwrap();
    root.set_xattr(top, "user.mine".as_ref(), b"1").unwrap();
    root.set_mtime(top, Timestamp::from_seconds(1234)).unwrap();
    // That it was put back is seen by its ctime alone.
    let metadata = || Metadata {
        ctime: Timestamp::default(),
        ..root.metadata(top).unwrap()
    };
    let told = || (metadata(), root.xattrs(top).unwrap());
    let before = told();
    let error = unpack_wrong(&made, &image, &to);
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error:?}");
    assert_eq!(to.read_dir().unwrap().count(), 0);
    assert_eq!(told(), before);
}

#[test]
fn a_folder_of_other_things_or_of_somebody_else_is_left_alone() {
    let made = image_of(&[tar_of(&[file("a", "x")])], Compression::Gzip);
    let to = made.dir.path().join("to");
    let first = Destination::prepare(&to).unwrap();
    let busy = flat(&made, &to);
    assert!(matches!(busy, Err(UnpackError::Busy { .. })), "{busy:?}");
    assert!(to.exists());
    drop(first);
    assert!(!to.exists());
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("mine"), "mine").unwrap();
    let full = flat(&made, &to);
    assert!(
        matches!(full, Err(UnpackError::NotEmpty { .. })),
        "{full:?}"
    );
    assert_eq!(std::fs::read_to_string(to.join("mine")).unwrap(), "mine");
}

#[test]
fn what_somebody_puts_into_the_folder_meanwhile_is_left_alone() {
    let made = image_of(&[tar_of(&[file("a", "x")])], Compression::Gzip);
    let image = load(&made.layout, &made.manifest).unwrap();
    let to = made.dir.path().join("to");
    for unpack in [false, true] {
        let prepared = Destination::prepare(&to).unwrap();
        std::fs::write(to.join("mine"), "mine").unwrap();
        let (options, cancel) = (ApplyOptions::default(), Cancel::default());
        let refused = unpack
            .then(|| unpack_into(&image, &made.layout, &prepared, &options, &Silent, &cancel));
        drop(prepared);
        assert!(
            matches!(refused, None | Some(Err(UnpackError::NotEmpty { .. }))),
            "{refused:?}"
        );
        assert_eq!(std::fs::read_to_string(to.join("mine")).unwrap(), "mine");
        std::fs::remove_dir_all(&to).unwrap();
    }
}

/// What follows an archive belongs to its diffID, and is nothing else.
#[test]
fn bytes_after_the_archive_count_for_the_digest_only() {
    let tar = tar_of(&[file("a", "x")]);
    let more = tar_of(&[file("b", "x")]);
    for rest in [vec![0; 10240], b"garbage".repeat(100), more] {
        let bytes = [tar.clone(), rest].concat();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let made = image_of(std::slice::from_ref(&bytes), compression);
            let to = made.dir.path().join("to");
            flat(&made, &to).unwrap();
            assert_eq!(to.read_dir().unwrap().count(), 1);
        }
    }
}

/// The bytes say how they are compressed, whatever the manifest says.
#[test]
fn media_types_are_not_believed() {
    let tar = tar_of(&[file("a", "x")]);
    for (real, said) in [
        (Compression::None, Compression::Gzip),
        (Compression::Gzip, Compression::Zstd),
        (Compression::Zstd, Compression::None),
    ] {
        let made = image_of(std::slice::from_ref(&tar), real);
        let manifest = String::from_utf8(made.manifest.clone()).unwrap();
        let (real, said) = (real.media_type().to_string(), said.media_type().to_string());
        let manifest = manifest.replace(&format!("{real}\""), &format!("{said}\""));
        assert!(manifest.contains(&said));
        let manifest = manifest.into_bytes();
        let made = Made { manifest, ..made };
        flat(&made, &made.dir.path().join("to")).unwrap();
    }
}

/// A digest becomes a file's name (CVE-2024-3727), and a size a bound.
#[test]
fn descriptors_are_checked_before_they_are_used() {
    let made = image_of(&[tar_of(&[])], Compression::None);
    let good = String::from_utf8(made.manifest.clone()).unwrap();
    let hex = made.layout.find("t").unwrap().unwrap();
    let layer: serde_json::Value = serde_json::from_str(&good).unwrap();
    let digest = layer["layers"][0]["digest"].as_str().unwrap();
    assert_ne!(digest, hex.digest().to_string());
    for bad in [
        "sha256:../../../../etc/passwd",
        "sha256:",
        "sha256:ABCDEF",
        "../x",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &digest[..70],
    ] {
        let manifest = good.replace(digest, bad);
        assert!(load(&made.layout, manifest.as_bytes()).is_err(), "{bad}");
    }
    let size = format!("\"size\":{}", layer["layers"][0]["size"]);
    for bad in [
        "\"size\":-1",
        "\"size\":1.5",
        "\"size\":18446744073709551616",
    ] {
        let manifest = good.replace(&size, bad);
        assert_ne!(manifest, good);
        assert!(load(&made.layout, manifest.as_bytes()).is_err(), "{bad}");
    }
}
