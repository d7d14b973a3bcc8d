//! Garbage collection: what is needed stays, what is not goes, and only after its grace.

use std::time::{Duration, SystemTime};

use registry::digest::Algorithm;
use registry::http::router;
use registry::service::{Policy, Registry};
use registry::store::Options;

use super::door::{Door, options, push_image, sha256};

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
    let door = Door::Router(router(first.clone()));
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
    let door = Door::Router(router(second.clone()));
    assert_eq!(
        door.get("/v2/kept/manifests/v1").await.expect(200).body,
        kept
    );
    door.get("/v2/gone/tags/list").await.expect(404);
}
