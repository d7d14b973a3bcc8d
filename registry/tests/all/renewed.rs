//! What a client was told is here can still be named when it comes to it, and what came later than what
//! it belongs to.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use config::name::Target;
use registry::digest::Algorithm;
use registry::service::{ManifestPut, References};
use registry::store::index::{links, release, untagged};

use super::collect::{
    HOUR, QUICK, at, by_digest, collect, door, index_of, name, refers_to, status,
};
use super::door::{image, push_image, sha256};

/// Seconds that the clock of the tests below is ahead, each by a static of its own.
fn ahead(seconds: &AtomicU64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds.load(Ordering::SeqCst))
}

/// The link goes between the look at it and its renewal.
#[test]
fn a_link_that_has_just_gone_is_not_answered() {
    let data = tempfile::tempdir().unwrap();
    let repository = name("a");
    let digest = sha256(b"layer");
    let registry = at(data.path(), None, SystemTime::now);
    let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"layer").unwrap();
    registry.commit_blob(&repository, writer, &digest).unwrap();
    drop(registry);
    let registry = at(data.path(), None, || SystemTime::now() + HOUR);
    let index = registry.store().index();
    let (inside, entered) = channel();
    let (go_on, waits) = channel::<()>();
    std::thread::scope(|scope| {
        let it = digest.clone();
        let gone = scope.spawn(move || {
            index.write(move |rows| {
                inside.send(()).unwrap();
                waits.recv().unwrap();
                links::unlink(rows, "a", &it)
            })
        });
        entered.recv().unwrap();
        let stat = scope.spawn(|| registry.stat_blob(&repository, &digest).unwrap());
        // It sees the link, and its renewal waits in line.
        std::thread::sleep(Duration::from_millis(200));
        go_on.send(()).unwrap();
        assert!(gone.join().unwrap().unwrap());
        assert_eq!(stat.join().unwrap(), None);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_of_a_manifest_can_name_it() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(3 * HOUR), || ahead(&AHEAD));
    let door = door(&registry);
    let old = push_image(&door, "a", "latest", b"old").await;
    push_image(&door, "a", "latest", b"new").await;
    let collect = || registry.store().collect(QUICK, &|_| false).unwrap();
    AHEAD.store(3 * 3600 - 60, Ordering::SeqCst);
    assert_eq!(status(&door, "a", &old).await, 200);
    AHEAD.store(3 * 3600 + 60, Ordering::SeqCst);
    assert_eq!(collect().manifests, 0, "somebody was just told of it");
    AHEAD.store(5 * 3600, Ordering::SeqCst);
    assert_eq!(collect().manifests, 1);
    assert_eq!(status(&door, "a", &old).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_referrer_that_comes_after_its_subject_went_has_a_rest_of_its_own() {
    static AHEAD: AtomicU64 = AtomicU64::new(0);
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(HOUR), || ahead(&AHEAD));
    let door = door(&registry);
    let subject = push_image(&door, "a", "v1", b"layer").await;
    by_digest(&door, "a", &refers_to(&subject, "early")).await;
    let path = format!("/v2/a/manifests/{}", sha256(subject.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    AHEAD.store(3000, Ordering::SeqCst);
    let index = registry.store().index();
    let seen = index.read(|rows| untagged::page(rows, None, 10)).unwrap();
    let late = refers_to(&subject, "late");
    by_digest(&door, "a", &late).await;
    // A collection that looked before the push.
    assert_eq!(seen.len(), 1);
    let collected = index.write(move |rows| release::collect(rows, &seen[0], "", 1));
    assert_eq!(collected.unwrap().manifests, 0);
    AHEAD.store(3700, Ordering::SeqCst);
    assert_eq!(collect(&registry).manifests, 0);
    assert_eq!(status(&door, "a", &late).await, 200);
    AHEAD.store(3000 + 3700, Ordering::SeqCst);
    assert_eq!(collect(&registry).manifests, 2);
}

/// Whichever came first: what an index lists goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_pushed_again_goes_with_its_index() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let config = door.push_blob("a", b"{}").await;
    let [again, late] = ["again", "late"].map(|text| image(&config, &[], &extra(text)));
    by_digest(&door, "a", &again).await;
    let both = index_of(&[&again, &late]);
    let put = ManifestPut {
        target: &Target::Tag("v1".parse().unwrap()),
        tags: &[],
        media_type: None,
        bytes: both.as_bytes(),
        references: References::Sparse,
    };
    registry.put_manifest(&name("a"), &put).unwrap();
    by_digest(&door, "a", &again).await;
    by_digest(&door, "a", &late).await;
    assert_eq!(collect(&registry).manifests, 0);
    let path = format!("/v2/a/manifests/{}", sha256(both.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    assert_eq!(collect(&registry).manifests, 2);
    assert_eq!(status(&door, "a", &again).await, 404);
}

/// `devpod pull` by the digest of what an index lists: it is wanted for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_pulled_by_its_digest_outlives_its_index() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let config = door.push_blob("a", b"{}").await;
    let child = image(&config, &[], "");
    by_digest(&door, "a", &child).await;
    let index = index_of(&[&child]);
    door.push_manifest("a", "v1", &index).await.expect(201);
    let digest = sha256(child.as_bytes());
    let target = Target::Digest(digest.clone());
    registry.keep_by_hand(&name("a"), &target, &digest).unwrap();
    let path = format!("/v2/a/manifests/{}", sha256(index.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    assert_eq!(collect(&registry).manifests, 0);
    assert_eq!(status(&door, "a", &child).await, 200);
}

fn extra(text: &str) -> String {
    format!(r#","annotations":{{"a":"{text}"}}"#)
}
