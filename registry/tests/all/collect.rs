//! Collecting while others push and pull, and what it takes of manifests.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use config::name::RepositoryName;
use registry::digest::Algorithm;
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::{Collection, Grace, Options, StoreError, Swept};

use super::door::{Door, INDEX, MANIFEST, image, options, push_image, sha256};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Files go at once; links rest, because a second may pass at any moment of a test.
pub(crate) const QUICK: Grace = Grace {
    links: HOUR,
    files: Duration::ZERO,
};

pub(crate) fn at(
    data: &std::path::Path,
    keep: Option<Duration>,
    clock: fn() -> SystemTime,
) -> Registry {
    let options = Options {
        clock,
        untagged_keep: keep,
        ..options(data)
    };
    Registry::open(options, Policy::default()).unwrap()
}

pub(crate) fn door(registry: &Registry) -> Door {
    Door::Router(router(Front::new(registry.clone())))
}

pub(crate) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

/// A dry run, then the run; both must agree.
pub(crate) fn collect(registry: &Registry) -> Swept {
    let expected = registry.store().collectable(QUICK).unwrap();
    let swept = registry.store().collect(QUICK, &|_| false).unwrap();
    assert_eq!(swept, expected, "a dry run tells the truth");
    assert!(registry.verify().unwrap().is_empty());
    swept
}

pub(crate) async fn status(door: &Door, repository: &str, text: &str) -> u16 {
    let digest = sha256(text.as_bytes());
    let path = format!("/v2/{repository}/manifests/{digest}");
    door.send("HEAD", &path, &[], "").await.status.as_u16()
}

pub(crate) fn refers_to(subject: &str, extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json",
        "digest":"{}","size":2}},"layers":[],"annotations":{{"a":"{extra}"}},
        "subject":{{"mediaType":"{MANIFEST}","digest":"{}","size":{}}}}}"#,
        sha256(b"{}"),
        sha256(subject.as_bytes()),
        subject.len()
    )
}

pub(crate) fn index_of(children: &[&str]) -> String {
    let children: Vec<_> = children
        .iter()
        .map(|child| {
            let digest = sha256(child.as_bytes());
            format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}"#,
                child.len()
            )
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        children.join(",")
    )
}

/// Pushes a manifest by its digest.
pub(crate) async fn by_digest(door: &Door, repository: &str, text: &str) {
    let digest = sha256(text.as_bytes());
    door.push_manifest(repository, digest.as_ref(), text)
        .await
        .expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_moved_tag_left_goes_after_its_rest() {
    let data = tempfile::tempdir().unwrap();
    let first = at(data.path(), Some(HOUR), SystemTime::now);
    let before = door(&first);
    let old = push_image(&before, "a", "latest", b"old layer").await;
    let pinned = push_image(&before, "a", "latest", b"pinned layer").await;
    by_digest(&before, "a", &pinned).await;
    let deleted = push_image(&before, "a", "gone", b"deleted layer").await;
    before
        .send("DELETE", "/v2/a/manifests/gone", &[], "")
        .await
        .expect(202);
    let new = push_image(&before, "a", "latest", b"new layer").await;
    assert_eq!(collect(&first).manifests, 0, "within its rest");
    for text in [&old, &pinned, &deleted, &new] {
        assert_eq!(status(&before, "a", text).await, 200);
    }
    drop((before, first));

    let second = at(data.path(), Some(HOUR), || SystemTime::now() + 2 * HOUR);
    let after = door(&second);
    let swept = collect(&second);
    assert_eq!((swept.manifests, swept.blobs), (2, 2));
    for (text, expected) in [(&old, 404), (&deleted, 404), (&pinned, 200), (&new, 200)] {
        assert_eq!(status(&after, "a", text).await, expected);
    }
    // Their layers stay a while: a push may just have been told that they are here.
    let layer = format!("/v2/a/blobs/{}", sha256(b"old layer"));
    after.get(&layer).await.expect(200);
    drop((after, second));

    let third = at(data.path(), Some(HOUR), || SystemTime::now() + 4 * HOUR);
    let swept = collect(&third);
    assert_eq!((swept.manifests, swept.links, swept.blobs), (0, 2, 2));
    door(&third).get(&layer).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_comes_back_or_no_end_keeps_it() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), None, SystemTime::now);
    let old = push_image(&door(&registry), "a", "latest", b"old").await;
    push_image(&door(&registry), "a", "latest", b"new").await;
    assert_eq!(collect(&registry).manifests, 0, "kept for ever");
    drop(registry);
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let repository = name("a");
    let digest = sha256(old.as_bytes());
    assert!(
        registry
            .tag(&repository, &"again".parse().unwrap(), &digest)
            .unwrap()
    );
    assert_eq!(collect(&registry).manifests, 0);
    assert!(
        registry
            .delete_tag(&repository, &"again".parse().unwrap())
            .unwrap()
    );
    assert_eq!(collect(&registry).manifests, 1);
}

/// A tag that came, and went again, between the look at a candidate and its removal: it rests anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_was_named_meanwhile_stays() {
    use registry::store::index::{release, untagged};
    static LATER: AtomicUsize = AtomicUsize::new(0);
    let data = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now() + Duration::from_secs(LATER.load(Ordering::SeqCst) as u64);
    let registry = at(data.path(), Some(HOUR), clock);
    let door = door(&registry);
    let old = push_image(&door, "a", "latest", b"old").await;
    push_image(&door, "a", "latest", b"new").await;
    LATER.store(2 * 3600, Ordering::SeqCst);
    let index = registry.store().index();
    let seen = index.read(|rows| untagged::page(rows, None, 10)).unwrap();
    let candidate = seen.first().unwrap().clone();
    assert_eq!(candidate.digest, sha256(old.as_bytes()));
    let (repository, tag) = (name("a"), "again".parse().unwrap());
    assert!(registry.tag(&repository, &tag, &candidate.digest).unwrap());
    assert!(registry.delete_tag(&repository, &tag).unwrap());
    let collected = index.write(move |rows| release::collect(rows, &candidate, "", 2 * 3600));
    assert_eq!(collected.unwrap(), release::Collected::default());
    assert_eq!(status(&door, "a", &old).await, 200);
    assert_eq!(collect(&registry).manifests, 0);
    LATER.store(4 * 3600, Ordering::SeqCst);
    assert_eq!(collect(&registry).manifests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexs_children_go_with_it_and_not_before() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let config = door.push_blob("a", b"{}").await;
    let mut children = Vec::new();
    for layer in ["one", "two", "both"] {
        let layer = door.push_blob("a", layer.as_bytes()).await;
        let text = image(&config, &[&layer], "");
        by_digest(&door, "a", &text).await;
        children.push(text);
    }
    let first = index_of(&[&children[0], &children[2]]);
    let second = index_of(&[&children[1], &children[2]]);
    door.push_manifest("a", "first", &first).await.expect(201);
    door.push_manifest("a", "second", &second).await.expect(201);
    assert_eq!(collect(&registry).manifests, 0);
    door.push_manifest("a", "first", &second).await.expect(201);
    assert_eq!(collect(&registry).manifests, 2);
    for (text, expected) in children.iter().zip([404, 200, 200]) {
        assert_eq!(status(&door, "a", text).await, expected);
    }
    let path = format!("/v2/a/manifests/{}", sha256(second.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    assert_eq!(status(&door, "a", &children[1]).await, 200, "only as asked");
    assert_eq!(collect(&registry).manifests, 2);
    door.get("/v2/a/tags/list").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_follow_their_subject() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let subject = push_image(&door, "a", "v1", b"layer").await;
    let signature = refers_to(&subject, "signature");
    let countersigned = refers_to(&signature, "of the signature");
    let tagged = refers_to(&subject, "tagged");
    let early = refers_to("nothing that ever came", "early");
    for text in [&signature, &countersigned, &early] {
        by_digest(&door, "a", text).await;
    }
    door.push_manifest("a", "sbom", &tagged).await.expect(201);
    assert_eq!(collect(&registry), Swept::default());

    // Over HTTP only what was named goes; those that refer to it follow with the collection.
    let path = format!("/v2/a/manifests/{}", sha256(subject.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    let referrers = format!("/v2/a/referrers/{}", sha256(subject.as_bytes()));
    let listed = door.get(&referrers).await.expect(200).json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(collect(&registry).manifests, 2);
    for (text, expected) in [
        (&signature, 404),
        (&countersigned, 404),
        (&tagged, 200),
        (&early, 200),
    ] {
        assert_eq!(status(&door, "a", text).await, expected, "{text}");
    }
    // In-process, all goes at once.
    let subject = push_image(&door, "a", "v2", b"layer").await;
    let signature = refers_to(&subject, "again");
    by_digest(&door, "a", &signature).await;
    assert!(
        registry
            .release_tag(&name("a"), &"v2".parse().unwrap())
            .unwrap()
    );
    assert_eq!(status(&door, "a", &signature).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_comes_back_keeps_its_referrers() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let subject = push_image(&door, "a", "v1", b"layer").await;
    let signature = refers_to(&subject, "signature");
    by_digest(&door, "a", &signature).await;
    let path = format!("/v2/a/manifests/{}", sha256(subject.as_bytes()));
    door.send("DELETE", &path, &[], "").await.expect(202);
    door.push_manifest("a", "v1", &subject).await.expect(201);
    assert_eq!(collect(&registry).manifests, 0);
    assert_eq!(status(&door, "a", &signature).await, 200);
}

/// More referrers than one transaction takes, some of them with referrers of their own.
#[tokio::test(flavor = "multi_thread")]
async fn many_referrers_go_in_many_transactions() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let subject = push_image(&door, "a", "v1", b"layer").await;
    for number in 0..300 {
        let text = refers_to(&subject, &number.to_string());
        by_digest(&door, "a", &text).await;
        if number % 100 == 0 {
            by_digest(&door, "a", &refers_to(&text, "nested")).await;
        }
    }
    push_image(&door, "a", "v1", b"another layer").await;
    assert_eq!(collect(&registry).manifests, 304);
    assert_eq!(registry.manifests(&name("a")).unwrap().len(), 1);
    assert_eq!(collect(&registry).manifests, 0);
}

/// What was made while the clock was ten years ahead rests from the first collection on, not for ten
/// years.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_keeps_nothing_for_ever() {
    static LATER: AtomicUsize = AtomicUsize::new(0);
    const YEARS: usize = 10 * 365 * 24 * 3600;
    let data = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now() + Duration::from_secs(LATER.load(Ordering::SeqCst) as u64);
    let registry = at(data.path(), Some(HOUR), clock);
    let door = door(&registry);
    LATER.store(YEARS, Ordering::SeqCst);
    let old = push_image(&door, "a", "latest", b"old").await;
    push_image(&door, "a", "latest", b"new").await;
    let unneeded = door.push_blob("b", b"nothing needs it").await;
    let blobs = registry.store().blobs();
    let orphan = blobs.put(b"orphan", Algorithm::Sha256).unwrap();
    let path = super::heal::file_of(data.path(), &orphan);
    let file = std::fs::File::open(&path).unwrap();
    file.set_modified(clock()).unwrap();

    LATER.store(0, Ordering::SeqCst);
    let hours = Grace {
        links: HOUR,
        files: HOUR,
    };
    let collect = || registry.store().collect(hours, &|_| false).unwrap();
    assert_eq!(collect(), Swept::default(), "they rest from now on");
    assert_eq!(status(&door, "a", &old).await, 200);
    LATER.store(2 * 3600, Ordering::SeqCst);
    let swept = collect();
    assert_eq!((swept.manifests, swept.links), (1, 1));
    assert_eq!(status(&door, "a", &old).await, 404);
    door.get(&format!("/v2/b/blobs/{unneeded}"))
        .await
        .expect(404);
    assert!(blobs.get(&orphan).unwrap().is_none());
}

/// One bad row is told of, and costs nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_does_not_stop_the_rest_of_a_collection() {
    const MANIFESTS: redb::TableDefinition<'_, (&str, &str), &[u8]> =
        redb::TableDefinition::new("manifests");
    static LATER: AtomicUsize = AtomicUsize::new(0);
    let data = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now() + Duration::from_secs(LATER.load(Ordering::SeqCst) as u64);
    let registry = at(data.path(), Some(Duration::ZERO), clock);
    let door = door(&registry);
    let mut old = Vec::new();
    for repository in ["a", "b", "c"] {
        let layer = format!("old layer of {repository}");
        old.push(push_image(&door, repository, "latest", layer.as_bytes()).await);
        push_image(&door, repository, "latest", b"new layer").await;
    }
    let unneeded = door.push_blob("d", b"nothing needs it").await;
    door.start("e").await;
    let blobs = registry.store().blobs();
    let orphan = blobs.put(b"orphan", Algorithm::Sha256).unwrap();
    let bad = sha256(old[1].as_bytes());
    let write = registry.store().index().write(move |rows| {
        let mut table = rows.open_table(MANIFESTS)?;
        table.insert(("b", bad.as_ref()), b"{".as_slice())?;
        Ok(())
    });
    write.unwrap();
    LATER.store(25 * 3600, Ordering::SeqCst);
    assert!(registry.collect().is_err(), "it is told");
    for (repository, text) in [("a", &old[0]), ("c", &old[2])] {
        assert_eq!(status(&door, repository, text).await, 404);
    }
    door.get(&format!("/v2/d/blobs/{unneeded}"))
        .await
        .expect(404);
    assert!(registry.store().blobs().get(&orphan).unwrap().is_none());
    assert_eq!(registry.open_uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_collection_is_refused_and_the_first_one_ends() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), None, SystemTime::now);
    let orphans = 300;
    for number in 0..orphans {
        let content = format!("orphan {number}");
        let blobs = registry.store().blobs();
        blobs.put(content.as_bytes(), Algorithm::Sha256).unwrap();
    }
    let (inside, entered) = channel();
    let (go_on, waits) = channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    std::thread::scope(|scope| {
        let store = registry.store();
        let first = scope.spawn(move || {
            let told = AtomicBool::new(false);
            let turn = || {
                if !told.swap(true, Ordering::SeqCst) {
                    inside.send(()).unwrap();
                    waits.lock().unwrap().recv().unwrap();
                }
                Some(Box::new(()) as registry::store::Turn)
            };
            store.collect_by(&Collection {
                grace: QUICK,
                keep: &|_| false,
                turn: &turn,
            })
        });
        entered.recv().unwrap();
        let second = store.collect(QUICK, &|_| false);
        assert!(matches!(second, Err(StoreError::Collecting)), "{second:?}");
        go_on.send(()).unwrap();
        assert_eq!(first.join().unwrap().unwrap().blobs, orphans);
    });
    assert_eq!(collect(&registry), Swept::default());
}

/// An upload that began before a collection and ends after it is whole, and so is a push that is
/// between its blobs and its manifest.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_outlives_a_collection() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let door = door(&registry);
    let collect = || registry.collect().unwrap();
    let config = door.push_blob("a", b"{}").await;
    let location = door.start("a").await;
    door.send("PATCH", &location, &[], "la").await.expect(202);
    assert_eq!(collect(), Swept::default());
    door.send("PATCH", &location, &[], "yer").await.expect(202);
    let layer = sha256(b"layer");
    let put = format!("{location}?digest={layer}");
    door.send("PUT", &put, &[], "").await.expect(201);
    assert_eq!(collect(), Swept::default());
    let text = image(&config, &[&layer], "");
    door.push_manifest("a", "v1", &text).await.expect(201);
    let blob = format!("/v2/a/blobs/{layer}");
    assert_eq!(door.get(&blob).await.expect(200).body, "layer");
}

/// A push whose last blob takes longer than the grace keeps its first ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_push_keeps_its_early_blobs() {
    static LATER: AtomicUsize = AtomicUsize::new(0);
    let data = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now() + Duration::from_secs(LATER.load(Ordering::SeqCst) as u64);
    let registry = at(data.path(), Some(Duration::ZERO), clock);
    let door = door(&registry);
    let config = door.push_blob("a", b"{}").await;
    let elsewhere = door.push_blob("b", b"nobody pushes here").await;
    let location = door.start("a").await;
    door.send("PATCH", &location, &[], "la").await.expect(202);
    LATER.store(3 * 3600, Ordering::SeqCst);
    assert_eq!(collect(&registry).links, 1, "of the other repository");
    door.get(&format!("/v2/b/blobs/{elsewhere}"))
        .await
        .expect(404);
    door.send("PATCH", &location, &[], "yer").await.expect(202);
    let layer = sha256(b"layer");
    let put = format!("{location}?digest={layer}");
    door.send("PUT", &put, &[], "").await.expect(201);
    // Between the last blob and the manifest no session is open: that is what the grace is for.
    registry.collect().unwrap();
    let text = image(&config, &[&layer], "");
    door.push_manifest("a", "v1", &text).await.expect(201);
    assert!(Grace::default().links >= 24 * HOUR);
}

/// Letting an image go takes no blob from a push that was told that the blob is here.
#[tokio::test(flavor = "multi_thread")]
async fn a_released_image_leaves_a_push_what_it_was_told_of() {
    static LATER: AtomicUsize = AtomicUsize::new(0);
    let data = tempfile::tempdir().unwrap();
    let clock = || SystemTime::now() + Duration::from_secs(LATER.load(Ordering::SeqCst) as u64);
    let registry = at(data.path(), Some(Duration::ZERO), clock);
    let door = door(&registry);
    let layer = format!("/v2/a/blobs/{}", sha256(b"layer"));
    let release = |tag: &str| {
        let tag = tag.parse().unwrap();
        assert!(registry.release_tag(&name("a"), &tag).unwrap());
        registry.store().collect(QUICK, &|_| false).unwrap()
    };

    // It sent the layer again.
    push_image(&door, "a", "v1", b"layer").await;
    LATER.store(60, Ordering::SeqCst);
    let sent = door.push_blob("a", b"layer").await;
    assert_eq!(release("v1").blobs, 2, "the manifest and the configuration");
    let config = door.push_blob("a", b"{}").await;
    let text = image(&config, &[&sent], "");
    door.push_manifest("a", "v2", &text).await.expect(201);

    // It found the layer and sends another one.
    LATER.store(120, Ordering::SeqCst);
    let location = door.start("a").await;
    door.send("HEAD", &layer, &[], "").await.expect(200);
    assert_eq!(release("v2").blobs, 1, "the manifest");
    let other = sha256(b"other");
    let put = format!("{location}?digest={other}");
    door.send("PUT", &put, &[], "other").await.expect(201);
    let text = image(&config, &[&sent, &other], "");
    door.push_manifest("a", "v3", &text).await.expect(201);

    // Nobody pushes any more: all of it goes at once.
    assert_eq!(release("v3").blobs, 4);
    door.get(&layer).await.expect(404);
}

/// A blob that nothing needs, and that a client has just been told is here, stays for its manifest.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_asked_for_stays_for_its_manifest() {
    let data = tempfile::tempdir().unwrap();
    let first = at(data.path(), None, SystemTime::now);
    let [config, layer, other] = {
        let door = door(&first);
        [
            door.push_blob("a", b"{}").await,
            door.push_blob("a", b"layer").await,
            door.push_blob("a", b"nobody asks for this").await,
        ]
    };
    drop(first);
    let second = at(data.path(), None, || SystemTime::now() + 2 * HOUR);
    let door = door(&second);
    for digest in [&config, &layer] {
        let path = format!("/v2/a/blobs/{digest}");
        door.send("HEAD", &path, &[], "").await.expect(200);
    }
    let swept = second.store().collect(QUICK, &|_| false).unwrap();
    assert_eq!((swept.links, swept.blobs), (1, 1));
    door.get(&format!("/v2/a/blobs/{other}")).await.expect(404);
    let text = image(&config, &[&layer], "");
    door.push_manifest("a", "v1", &text).await.expect(201);
}

/// Whoever has opened a blob reads it to its end, also when it is deleted and collected meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_when_the_blob_is_collected() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let content = vec![7_u8; 3 << 20];
    let digest = door(&registry).push_blob("a", &content).await;
    let (mut file, size) = registry.open_blob(&name("a"), &digest).unwrap().unwrap();
    let mut read = vec![0; 1000];
    file.read_exact(&mut read).unwrap();
    assert!(registry.delete_blob(&name("a"), &digest).unwrap());
    assert_eq!(collect(&registry).blobs, 1);
    file.read_to_end(&mut read).unwrap();
    assert_eq!((read.len() as u64, read), (size, content));
}

/// Ends a loop of another thread, also when this one fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pushes of the same few blobs against collections that give files no grace: what was acknowledged
/// is there, and no row names a blob that is not.
#[test]
fn pushes_and_collections_of_the_same_blobs_never_leave_a_hole() {
    let data = tempfile::tempdir().unwrap();
    let registry = at(data.path(), Some(Duration::ZERO), SystemTime::now);
    let (ended, unlinked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let swept = registry.store().collect(QUICK, &|_| false).unwrap();
                unlinked.fetch_add(swept.blobs as usize, Ordering::SeqCst);
            }
        });
        let _ends = Ends(&ended);
        let pushers: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn({
                    let registry = &registry;
                    move || push_often(registry, number)
                })
            })
            .collect();
        for pusher in pushers {
            pusher.join().unwrap();
        }
    });
    assert!(unlinked.load(Ordering::SeqCst) > 0, "nothing was collected");
    assert!(registry.verify().unwrap().is_empty());
}

fn push_often(registry: &Registry, number: usize) {
    let repository = name(&format!("r{number}"));
    for round in 0..60 {
        let content = format!("content {}", round % 4);
        let digest = sha256(content.as_bytes());
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        registry.commit_blob(&repository, writer, &digest).unwrap();
        let size = registry.stat_blob(&repository, &digest).unwrap();
        assert_eq!(size, Some(9), "{content} of {repository} in round {round}");
        assert!(registry.delete_blob(&repository, &digest).unwrap());
    }
}
