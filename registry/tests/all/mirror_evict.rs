//! Eviction: the images of other registries that were pulled the longest time ago go first, and
//! none that anybody needs.

use config::name::{RepositoryName, Tag, Target};
use registry::digest::Digest;
use registry::mirror::evict::LEASE;
use registry::service::{ManifestPut, References};
use registry::store::index::mirrored::{self, MirroredManifest};
use registry::store::step::{Step, Steps};

use super::door::{INDEX, MANIFEST, push_image, sha256};
use super::elsewhere::{Bench, Slow, large};

/// Pulls the whole image and answers its manifest's digest.
async fn pull(bench: &Bench, name: &str, layer: &[u8]) -> Digest {
    let base = format!("/v2/hub/library/{name}");
    let manifest = bench
        .door
        .get(&format!("{base}/manifests/1"))
        .await
        .expect(200);
    for digest in [sha256(b"{}"), sha256(layer)] {
        bench
            .door
            .get(&format!("{base}/blobs/{digest}"))
            .await
            .expect(200);
    }
    sha256(&manifest.body)
}

async fn offer(bench: &Bench, name: &str, layer: &[u8]) {
    push_image(&bench.origin, &format!("library/{name}"), "1", layer).await;
}

fn repositories(bench: &Bench) -> Vec<String> {
    bench.here.repositories(Default::default()).unwrap().items
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_unused_go_first_and_whole() {
    let bench = Bench::new().await;
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        offer(&bench, name, &large(seed)).await;
        pull(&bench, name, &large(seed)).await;
        bench.later(10);
    }
    // Used again, also for a client that asks by the digest only.
    let digest = sha256(&bench.door.get("/v2/hub/library/a/manifests/1").await.body);
    bench.later(LEASE + 1);
    bench
        .door
        .get(&format!("/v2/hub/library/a/manifests/{digest}"))
        .await
        .expect(200);
    bench.later(LEASE + 1);
    let evicted = bench.mirror.evict(4_500_000, &|_| false).unwrap();
    assert_eq!(evicted.images, 1);
    assert!(
        evicted.bytes >= 2_000_000 && evicted.left <= 4_500_000,
        "{evicted:?}"
    );
    assert_eq!(
        repositories(&bench),
        ["docker.io/library/a", "docker.io/library/c"]
    );
    assert!(!bench.has_file(&sha256(&large(2))));
    // The configuration is the others' too.
    assert!(bench.has_file(&sha256(b"{}")));
    let evicted = bench.mirror.evict(4_500_000, &|_| false).unwrap();
    assert_eq!((evicted.images, evicted.bytes), (0, 0));
    // It comes again when it is asked for.
    pull(&bench, "b", &large(2)).await;
    bench.later(LEASE + 1);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 3);
    assert!(repositories(&bench).is_empty());
    assert!(!bench.has_file(&sha256(b"{}")));
    assert!(bench.here.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_use_stay() {
    let bench = Bench::new().await;
    let names = ["running", "named", "copied", "pulled", "idle"];
    for (name, seed) in names.into_iter().zip(1..) {
        offer(&bench, name, &large(seed)).await;
    }
    let kept =
        |name: &str| -> RepositoryName { format!("docker.io/library/{name}").parse().unwrap() };
    let mut digests = Vec::new();
    for (name, seed) in names.into_iter().zip(1..) {
        digests.push(pull(&bench, name, &large(seed)).await);
    }
    // A name of ours for the same image, in the same repository and in another one.
    let tag: Tag = "mine".parse().unwrap();
    assert!(bench.here.tag(&kept("named"), &tag, &digests[1]).unwrap());
    let own: RepositoryName = "mine/copy".parse().unwrap();
    for blob in [sha256(b"{}"), sha256(&large(3))] {
        assert!(bench.here.link_blob(&own, &blob).unwrap());
    }
    // `devpod pull` of what was here already.
    bench
        .here
        .keep_by_hand(
            &kept("pulled"),
            &Target::Tag("1".parse().unwrap()),
            &digests[3],
        )
        .unwrap();
    bench.later(LEASE + 1);
    let evicted = bench
        .mirror
        .evict(0, &|digest| *digest == digests[0])
        .unwrap();
    assert_eq!(evicted.images, 2);
    assert_eq!(
        repositories(&bench),
        [
            "docker.io/library/named",
            "docker.io/library/pulled",
            "docker.io/library/running",
            "mine/copy"
        ]
    );
    for (seed, stays) in (1..).zip([true, true, true, true, false]) {
        assert_eq!(bench.has_file(&sha256(&large(seed))), stays, "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_breaks_no_pull() {
    let bench = Bench::new().await;
    let layer = large(1);
    offer(&bench, "x", &layer).await;
    let manifest = "/v2/hub/library/x/manifests/1";
    let blob = format!("/v2/hub/library/x/blobs/{}", sha256(&layer));
    // Just pulled: leased.
    pull(&bench, "x", &layer).await;
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 0);
    // A reader keeps the file that it has open.
    let mut reading = Slow::get(&bench.door, &blob, &[]).await;
    reading.until(1).await;
    bench.later(LEASE + 1);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 1);
    assert_eq!(reading.rest().await.unwrap(), layer);
    // A client that has got the manifest long ago asks for its layers now.
    let asked = bench.there.asked("blob");
    assert_eq!(bench.door.get(&blob).await.expect(200).body, layer);
    assert_eq!(bench.there.asked("blob"), asked + 1);
    // One while it arrives.
    bench.door.get(manifest).await.expect(200);
    let other = bench.origin.push_blob("library/x", &large(2)).await;
    bench.there.hold.send_replace(1_000_000);
    let mut arriving = Slow::get(
        &bench.door,
        &format!("/v2/hub/library/x/blobs/{other}"),
        &[],
    )
    .await;
    arriving.until(500_000).await;
    bench.later(LEASE + 1);
    bench.mirror.evict(0, &|_| false).unwrap();
    bench.there.hold.send_replace(u64::MAX);
    assert_eq!(arriving.rest().await.unwrap(), large(2));
    assert!(bench.here.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_at_the_same_moment_hides_nothing() {
    let bench = Bench::new().await;
    offer(&bench, "x", b"x").await;
    let path = "/v2/hub/library/x/manifests/1";
    for round in 0..100_u64 {
        bench.door.get(path).await.expect(200);
        bench.later(LEASE + 1);
        bench.mirror.flush().unwrap();
        let mirror = bench.mirror.clone();
        let evicting = tokio::task::spawn_blocking(move || mirror.evict(0, &|_| false));
        tokio::time::sleep(std::time::Duration::from_micros(round * 20)).await;
        bench.door.get(path).await.expect(200);
        evicting.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pull_outlives_a_restart() {
    let bench = Bench::new().await;
    offer(&bench, "x", b"x").await;
    pull(&bench, "x", b"x").await;
    bench.later(LEASE);
    bench
        .door
        .get("/v2/hub/library/x/manifests/1")
        .await
        .expect(200);
    bench.mirror.flush().unwrap();
    bench.later(10);
    // Another mirror over the same registry knows of it.
    let mirror = registry::mirror::Mirror::new(
        bench.here.clone(),
        Vec::new(),
        registry::mirror::Options {
            clock: {
                let now = bench.now.clone();
                std::sync::Arc::new(move || now.load(std::sync::atomic::Ordering::SeqCst))
            },
            ..Default::default()
        },
    );
    assert_eq!(mirror.evict(0, &|_| false).unwrap().images, 0);
    bench.later(LEASE);
    assert_eq!(mirror.evict(0, &|_| false).unwrap().images, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_tag_follows_and_its_image_stays_until_the_tag_has_left_it() {
    let bench = Bench::new().await;
    let name: RepositoryName = "docker.io/library/x".parse().unwrap();
    let tag: Tag = "1".parse().unwrap();
    let manifest = "/v2/hub/library/x/manifests/1";
    // `devpod pull` keeps one platform of an index.
    let text = push_image(&bench.origin, "library/x", "part", &large(1)).await;
    let part = sha256(text.as_bytes());
    let index = |digest: &Digest| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":1}}]}}"#
        )
    };
    bench
        .origin
        .push_manifest("library/x", "1", &index(&part))
        .await
        .expect(201);
    pull_by_hand(&bench, &name, &tag, &text).await;
    // A client of the mirror gets what the registry has, though a part of it is here by the name.
    let reply = bench.door.get(manifest).await.expect(200);
    assert_eq!(reply.body, index(&part));
    bench.later(LEASE + 1);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 0);
    assert!(bench.has_file(&sha256(&large(1))));
    // The tag moves on there; nobody has another name for the old image here.
    let newer = push_image(&bench.origin, "library/x", "part", &large(2)).await;
    let newer = index(&sha256(newer.as_bytes()));
    bench
        .origin
        .push_manifest("library/x", "1", &newer)
        .await
        .expect(201);
    assert_eq!(bench.door.get(manifest).await.expect(200).body, newer);
    bench.later(LEASE + 1);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 3);
    assert!(!bench.has_file(&sha256(&large(1))));
    assert!(repositories(&bench).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mirror_heals_stays_somebodys_own() {
    let bench = Bench::new().await;
    let name: RepositoryName = "docker.io/library/x".parse().unwrap();
    let text = push_image(&bench.origin, "library/x", "1", &large(1)).await;
    pull_by_hand(&bench, &name, &"1".parse().unwrap(), &text).await;
    let digest = sha256(text.as_bytes());
    let file = bench.data.path().join("content/blobs/sha256");
    std::fs::remove_file(file.join(digest.digest())).unwrap();
    bench
        .door
        .get(&format!("/v2/hub/library/x/manifests/{digest}"))
        .await
        .expect(200);
    assert!(bench.has_file(&digest), "healed");
    bench.later(LEASE + 1);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 0);
    assert!(bench.has_file(&sha256(&large(1))));
}

/// The row comes first: what is on its way must not become somebody's own.
#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_a_manifest_that_is_on_its_way_stays() {
    let bench = Bench::new().await;
    let (here, digest) = ("docker.io/library/x", sha256(b"on its way"));
    let now = bench.now.load(std::sync::atomic::Ordering::SeqCst);
    let row = MirroredManifest {
        fetched: now,
        used: now,
    };
    let (index, it) = (bench.here.store().index(), digest.clone());
    let written = index.write(move |rows| mirrored::set_manifest(rows, here, &it, row));
    written.unwrap();
    let is_known = || {
        let row = index.read(|rows| mirrored::manifest(rows, here, &digest));
        row.unwrap().is_some()
    };
    bench.mirror.evict(0, &|_| false).unwrap();
    assert!(is_known());
    bench.later(LEASE + 1);
    bench.mirror.evict(0, &|_| false).unwrap();
    assert!(!is_known(), "it never came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_loses_no_pulls() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let cell = std::sync::Arc::clone(&broken);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    let bench = Bench::with_steps(Steps::calling(move |step| {
        match step == Step::JournalAppended && cell.load(ordering) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }))
    .await;
    offer(&bench, "x", b"x").await;
    pull(&bench, "x", b"x").await;
    bench.mirror.flush().unwrap();
    bench.later(LEASE + 1);
    let manifest = "/v2/hub/library/x/manifests/1";
    bench.door.get(manifest).await.expect(200);
    broken.store(true, ordering);
    bench.mirror.flush().unwrap_err();
    broken.store(false, ordering);
    assert_eq!(bench.mirror.evict(0, &|_| false).unwrap().images, 0);
}

/// What the appliance does for `devpod pull`.
async fn pull_by_hand(bench: &Bench, name: &RepositoryName, tag: &Tag, text: &str) {
    for content in [b"{}".to_vec(), large(1)] {
        let mut writer = bench.here.blob_writer(Default::default()).unwrap();
        std::io::Write::write_all(&mut writer, &content).unwrap();
        bench
            .here
            .commit_blob(name, writer, &sha256(&content))
            .unwrap();
    }
    let target = Target::Tag(tag.clone());
    let put = ManifestPut {
        target: &target,
        tags: &[],
        media_type: None,
        bytes: text.as_bytes(),
        references: References::Required,
    };
    let digest = bench.here.put_manifest(name, &put).unwrap().digest;
    bench.here.keep_by_hand(name, &target, &digest).unwrap();
    bench.here.follow_tag(name, tag, &digest).unwrap();
}
