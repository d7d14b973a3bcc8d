//! A power cut that keeps the least that a disk may keep.

use std::io::Write;
use std::time::Duration;

use config::name::{RepositoryName, Target};
use registry::digest::Algorithm;
use registry::service::{ManifestPut, Policy, References, Registry};

use super::door::{image, options, sha256};
use super::pushing::upload;

/// A power cut before any checkpoint that takes every name and every byte that was not synced:
/// of the content folder only the stand-ins are left, and what was under final names is empty.
#[test]
fn a_power_cut_that_takes_all_that_is_not_synced_loses_nothing() {
    let repository: RepositoryName = "crash/test".parse().unwrap();
    let data = tempfile::tempdir().unwrap();
    let registry = Registry::open(options(data.path()), Policy::default()).unwrap();
    let uploads = data.path().join("content/uploads");
    // The first stand-ins are made beside the open.
    let pooled = || {
        let session = registry.start_upload(&repository, Algorithm::Sha256);
        let session = session.unwrap();
        let held = uploads.join(format!("p-{session}")).exists();
        registry.cancel_upload(&repository, &session).unwrap();
        held
    };
    while !pooled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let manifest = image(&sha256(b"{}"), &[&sha256(b"layer"), &sha256(b"stream")], "");
    let large = |byte: u8| vec![byte; 200_000];
    for content in [large(1), b"layer".to_vec(), b"stream".to_vec()] {
        upload(&registry, "crash/test", &content);
    }
    for content in [large(2), b"{}".to_vec()] {
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        registry
            .commit_blob(&repository, writer, &sha256(&content))
            .unwrap();
    }
    let target = Target::Tag("one".parse().unwrap());
    registry
        .put_manifest(&repository, &put(&target, &manifest))
        .unwrap();

    let cut = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(data.path().join(name), cut.path().join(name)).unwrap();
    for name in ["registry.redb", "registry.journal.0", "registry.journal.1"] {
        copy(name);
    }
    for folder in ["content/uploads", "content/blobs/sha256"] {
        std::fs::create_dir_all(cut.path().join(folder)).unwrap();
    }
    for entry in std::fs::read_dir(&uploads).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("p-") {
            copy(&format!("content/uploads/{name}"));
        }
    }
    let torn = sha256(b"layer");
    let torn = cut.path().join("content/blobs/sha256").join(torn.digest());
    std::fs::write(torn, b"").unwrap();

    let recovered = Registry::open(options(cut.path()), Policy::default()).unwrap();
    assert_eq!(recovered.verify().unwrap(), []);
    for byte in [1, 2] {
        let digest = sha256(&large(byte));
        assert!(recovered.stat_blob(&repository, &digest).unwrap().is_some());
    }
    let tagged = recovered.resolve(&repository, &"one".parse().unwrap());
    assert_eq!(tagged.unwrap(), Some(sha256(manifest.as_bytes())));
}

fn put<'a>(target: &'a Target, text: &'a str) -> ManifestPut<'a> {
    ManifestPut {
        target,
        tags: &[],
        media_type: None,
        bytes: text.as_bytes(),
        references: References::Required,
    }
}
