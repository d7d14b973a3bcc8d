//! What a diffID is compared with, and what is left where it does not fit.

use super::*;
use crate::digest::{ChainId, DiffId, Hasher};

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

#[test]
fn a_folder_is_empty_where_a_layer_was_not_the_right_one() {
    let tars = [tar_of(&[file("a/b", "x")]), tar_of(&[file("c", "x")])];
    let made = image_of(&tars, Compression::Gzip);
    let mut image = load(&made.layout, &made.manifest).unwrap();
    image.layers[1].diff_id = sha256(b"other").to_string().parse().unwrap();
    let destination = made.dir.path().join("flat");
    let options = ApplyOptions::default();
    let result = unpack_to(
        &image,
        &made.layout,
        &destination,
        &options,
        &Silent,
        &Cancel::default(),
    );
    assert!(matches!(result, Err(UnpackError::DiffId { .. })));
    assert_eq!(destination.read_dir().unwrap().count(), 0);
}
