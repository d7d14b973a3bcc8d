//! Garbage collection: what is needed stays, what is not goes, and only after its grace.

use std::time::{Duration, SystemTime};

use registry::digest::Algorithm;
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::{Grace, Options};

use super::door::{Door, INDEX, MANIFEST, open, options, push_image, sha256};

const HOUR: Duration = Duration::from_secs(3600);

fn files(data: &std::path::Path) -> usize {
    std::fs::read_dir(data.join("content/blobs/sha256"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_only_what_nobody_needs() {
    let data = tempfile::tempdir().unwrap();
    let first = Registry::open(options(data.path()), Policy::default()).unwrap();
    // No listener here: it would hold the first registry open.
    let door = Door::Router(router(Front::new(first.clone())));
    let kept = push_image(&door, "kept", "v1", b"kept layer").await;
    let gone = push_image(&door, "gone", "v1", b"gone layer").await;
    let orphan = first
        .store()
        .blobs()
        .put(b"built, not linked", Algorithm::Sha256)
        .unwrap();
    let manifest = format!("/v2/gone/manifests/{}", sha256(gone.as_bytes()));
    door.send("DELETE", &manifest, &[], "").await.expect(202);
    assert_eq!(files(data.path()), 6);
    assert_eq!(
        first.sweep(HOUR, &|_| false).unwrap().blobs,
        0,
        "within its grace"
    );
    drop((door, first));

    let later = Options {
        clock: || SystemTime::now() + 2 * HOUR,
        ..options(data.path())
    };
    let second = Registry::open(later, Policy::default()).unwrap();
    let swept = second.sweep(HOUR, &|digest| *digest == orphan).unwrap();
    // The deleted manifest and its layer; the configuration is shared, so only its link goes.
    assert_eq!((swept.blobs, swept.links), (2, 2));
    assert_eq!(files(data.path()), 4);
    assert_eq!(
        second.sweep(HOUR, &|_| false).unwrap().blobs,
        1,
        "nobody keeps the orphan"
    );
    assert!(second.verify().unwrap().is_empty());
    let door = Door::Router(router(Front::new(second.clone())));
    assert_eq!(
        door.get("/v2/kept/manifests/v1").await.expect(200).body,
        kept
    );
    door.get("/v2/gone/tags/list").await.expect(404);
}

/// What the last name of an image sets free goes at once; what another name needs stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_released_tag_frees_what_only_it_needed() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let grace = Grace {
        links: HOUR,
        files: Duration::ZERO,
    };
    let first = push_image(&door, "a", "one", b"layer one").await;
    push_image(&door, "a", "two", b"layer two").await;
    door.push_manifest("a", "again", &first).await.expect(201);
    let digest = sha256(first.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[
            {{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}]}}"#,
        first.len()
    );
    door.push_manifest("a", "all", &index).await.expect(201);
    let name = "a".parse().unwrap();
    // Two images with one configuration, and an index: six files.
    for (tag, left) in [("one", 6), ("again", 6), ("all", 3), ("two", 0)] {
        assert!(registry.release_tag(&name, &tag.parse().unwrap()).unwrap());
        let expected = registry.store().collectable(grace).unwrap();
        let swept = registry.store().collect(grace, &|_| false).unwrap();
        assert_eq!(swept, expected, "a dry run tells the truth");
        assert_eq!(files(data.path()), left, "after {tag}");
        assert!(registry.verify().unwrap().is_empty());
    }
    assert!(
        !registry
            .release_tag(&name, &"two".parse().unwrap())
            .unwrap()
    );
    door.get("/v2/a/tags/list").await.expect(404);
}

/// What was put by its digest is wanted without a tag: a tag that moves away, or goes, does not end
/// it. An index that names it takes over.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_by_its_digest_outlives_its_tags() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let name = "a".parse().unwrap();
    let pinned = push_image(&door, "a", "one", b"layer one").await;
    let digest = sha256(pinned.as_bytes());
    door.push_manifest("a", digest.as_ref(), &pinned)
        .await
        .expect(201);
    // The same bytes once more by tag do not take it back.
    door.push_manifest("a", "one", &pinned).await.expect(201);
    assert!(
        registry
            .release_tag(&name, &"one".parse().unwrap())
            .unwrap()
    );
    door.get(&format!("/v2/a/manifests/{digest}"))
        .await
        .expect(200);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[
            {{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}]}}"#,
        pinned.len()
    );
    door.push_manifest("a", "all", &index).await.expect(201);
    assert!(
        registry
            .release_tag(&name, &"all".parse().unwrap())
            .unwrap()
    );
    door.get(&format!("/v2/a/manifests/{digest}"))
        .await
        .expect(404);
}
