//! Damaged blobs: out of the way, absent everywhere, and healed by the next push.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::digest::{Algorithm, Digest, digest_of};
use registry::service::{Schedule, Scrubber};
use registry::store::scrub::{Scrub, ScrubError, ScrubOptions, Seen};

use super::door::{Door, doors, image, open, push_image, sha256};
use registry::http::{Front, router};

pub(crate) fn file_of(data: &Path, digest: &Digest) -> PathBuf {
    data.join("content/blobs")
        .join(digest.algorithm().as_ref())
        .join(digest.digest())
}

/// Turns the first byte around, in place, as a disk does.
pub(crate) fn damage(data: &Path, digest: &Digest) {
    let path = file_of(data, digest);
    let first = std::fs::read(&path).unwrap()[0];
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[!first]).unwrap();
}

fn shorten(data: &Path, digest: &Digest) {
    let file = OpenOptions::new()
        .write(true)
        .open(file_of(data, digest))
        .unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
}

pub(crate) fn quarantined(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("content/quarantine")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn everything(_: &Scrub, _: Seen<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

async fn absent(door: &Door, path: &str, code: &str) {
    assert_eq!(door.get(path).await.expect(404).code(), code, "{path}");
    door.send("HEAD", path, &[], "").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_absent_everywhere_until_it_is_pushed_again() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let content = format!("layer of door {number}");
        let layer = sha256(content.as_bytes());
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        let text = push_image(&door, &a, "v1", content.as_bytes()).await;
        let mount = |to: &str| format!("/v2/{to}/blobs/uploads/?mount={layer}&from={a}");
        door.send("POST", &mount(&b), &[], "").await.expect(201);
        damage(data.path(), &layer);
        let done = registry.scrub(&ScrubOptions::default(), &mut everything);
        assert_eq!(done.unwrap().quarantined, 1);
        let name = format!("sha256-{}-", layer.digest());
        assert!(
            quarantined(data.path())
                .iter()
                .any(|n| n.starts_with(&name))
        );

        for repo in [&a, &b] {
            absent(&door, &format!("/v2/{repo}/blobs/{layer}"), "BLOB_UNKNOWN").await;
        }
        // Neither a mount nor a manifest makes more of it.
        door.send("POST", &mount("c"), &[], "").await.expect(202);
        assert!(!registry.link_blob(&"c".parse().unwrap(), &layer).unwrap());
        let reply = door.push_manifest(&a, "v2", &text).await.expect(404);
        assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(
            reply.json()["errors"][0]["detail"]["digests"],
            serde_json::json!([layer.to_string()])
        );
        // What was tagged still is.
        door.get(&format!("/v2/{a}/manifests/v1")).await.expect(200);

        door.push_blob(&b, content.as_bytes()).await;
        for repo in [&a, &b] {
            let path = format!("/v2/{repo}/blobs/{layer}");
            assert_eq!(door.get(&path).await.expect(200).body, content);
        }
        door.push_manifest(&a, "v2", &text).await.expect(201);
    }
    assert_eq!(registry.verify().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_found_when_it_is_read() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("manifest{number}");
        let layer = format!("layer {number}");
        let text = push_image(&door, &repo, "v1", layer.as_bytes()).await;
        let digest = sha256(text.as_bytes());
        let (by_tag, by_digest) = (
            format!("/v2/{repo}/manifests/v1"),
            format!("/v2/{repo}/manifests/{digest}"),
        );
        // Once before, so that it is remembered as verified.
        door.get(&by_tag).await.expect(200);
        damage(data.path(), &digest);
        for path in [&by_tag, &by_digest] {
            absent(&door, path, "MANIFEST_UNKNOWN").await;
        }
        let name = repo.parse().unwrap();
        assert!(
            !registry
                .tag(&name, &"v2".parse().unwrap(), &digest)
                .unwrap()
        );
        door.push_manifest(&repo, "v3", &text).await.expect(201);
        for path in [&by_tag, &by_digest] {
            assert_eq!(door.get(path).await.expect(200).body, text);
        }
    }
    assert_eq!(quarantined(data.path()).len(), 2);
    assert_eq!(registry.verify().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_size_is_found_when_it_is_asked_for() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        for (asked, method) in ["GET", "HEAD"].into_iter().enumerate() {
            let content = format!("{method} {number}");
            let digest = door.push_blob("short", content.as_bytes()).await;
            let path = format!("/v2/short/blobs/{digest}");
            shorten(data.path(), &digest);
            door.send(method, &path, &[], "").await.expect(404);
            assert_eq!(quarantined(data.path()).len(), number * 3 + asked + 1);
            door.push_blob("short", content.as_bytes()).await;
            assert_eq!(door.get(&path).await.expect(200).body, content);
        }
        // A mount does not believe a file that is not as long as its row says, either.
        let digest = door
            .push_blob("short", format!("mount {number}").as_bytes())
            .await;
        shorten(data.path(), &digest);
        let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from=short");
        door.send("POST", &mount, &[], "").await.expect(202);
    }
}

/// A copy of the folder is what another process finds. A temporary file may go while it is made; then
/// it is made again.
pub(crate) fn copied(data: &Path) -> tempfile::TempDir {
    for _ in 0..20 {
        let copy = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("cp");
        command.arg("-a").arg(data.join(".")).arg(copy.path());
        if command.status().unwrap().success() {
            return copy;
        }
    }
    panic!("the folder never stands still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let mut digests = Vec::new();
    for number in 0..300u32 {
        digests.push(door.push_blob("many", &number.to_le_bytes()).await);
    }
    let other = digest_of(Algorithm::Sha512, b"other");
    let post = format!("/v2/many/blobs/uploads/?digest={other}");
    door.send("POST", &post, &[], "other").await.expect(201);
    digests.push(other);
    digests.sort_by_key(Digest::to_string);
    // Closed once: until a checkpoint the journal has small blobs, and a copy that recovers heals.
    drop((door, registry));
    let registry = open(data.path());
    damage(data.path(), &digests[10]);
    damage(data.path(), &digests[200]);
    std::fs::remove_file(file_of(data.path(), &digests[220])).unwrap();

    let options = ScrubOptions::default();
    let mut seen = Vec::new();
    let mut visit = |registry: &registry::service::Registry, most: usize| {
        let mut left = most;
        registry
            .scrub(&options, &mut |_, what| {
                match what {
                    Seen::Read(_) => {}
                    Seen::Whole(digest) => seen.push((digest.clone(), "whole")),
                    Seen::Quarantined(digest) => seen.push((digest.clone(), "quarantined")),
                    Seen::Missing(digest) => seen.push((digest.clone(), "missing")),
                    Seen::Unreadable(digest) => seen.push((digest.clone(), "unreadable")),
                }
                left -= usize::from(!matches!(what, Seen::Read(_)));
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })
            .unwrap()
    };
    let first = visit(&registry, 150);
    assert_eq!((first.finished, first.quarantined), (None, 1));
    assert_eq!(first.last.as_ref(), Some(&digests[149]));
    let second = visit(&registry, 10);
    assert_eq!(second.started, first.started);
    let copy = copied(data.path());
    let third = visit(&open(copy.path()), usize::MAX);
    assert!(third.finished.is_some());
    assert_eq!(
        (third.checked, third.quarantined, third.missing),
        (298, 2, 1)
    );
    let expected: Vec<_> = digests
        .iter()
        .enumerate()
        .map(|(number, digest)| match number {
            10 | 200 => (digest.clone(), "quarantined"),
            220 => (digest.clone(), "missing"),
            _ => (digest.clone(), "whole"),
        })
        .collect();
    assert!(seen == expected, "each digest once and in order");
    // The next one begins anew, and finds what is absent now.
    let mut all = 0;
    let done = open(copy.path())
        .scrub(&options, &mut |_, what| {
            all += usize::from(!matches!(what, Seen::Read(_)));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((all, done.checked, done.missing), (301, 298, 3));
}

/// A controller that fails must not empty the store: the scrub ends, and nothing is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_ends_early_where_everything_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let mut digests = Vec::new();
    for number in 0..70u32 {
        digests.push(door.push_blob("failing", &number.to_le_bytes()).await);
    }
    drop((door, registry));
    let registry = open(data.path());
    for digest in &digests {
        damage(data.path(), digest);
    }
    let scrub = || registry.scrub(&ScrubOptions::default(), &mut everything);
    let first = scrub().unwrap();
    assert_eq!(
        (first.quarantined, first.only_copies, first.failing),
        (64, 64, true)
    );
    assert_eq!(registry.last_scrub().unwrap(), Some(first));
    let second = scrub().unwrap();
    assert_eq!((second.quarantined, second.missing), (6, 64));
    assert_eq!((second.only_copies, second.failing), (70, false));
    assert_eq!(quarantined(data.path()).len(), 70, "each is the only copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_keeps_to_its_rate_and_is_alone() {
    use std::sync::Mutex;
    static WAITED: Mutex<(Duration, Duration)> = Mutex::new((Duration::ZERO, Duration::ZERO));
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = &doors(&registry).await[0];
    door.push_blob("rate", &[7; 100_000]).await;
    let options = ScrubOptions {
        rate: 1000,
        anew: true,
        pause: |time| {
            let mut waited = WAITED.lock().unwrap();
            *waited = (waited.0 + time, waited.1.max(time));
        },
    };
    let mut refused = 0;
    let done = registry
        .scrub(&options, &mut |_, _| {
            let second = registry.scrub(&options, &mut everything);
            refused += usize::from(matches!(second, Err(ScrubError::Running)));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(done.bytes, 100_000);
    assert_eq!(refused, 101, "at each of 100 pieces and at the end");
    let waited = *WAITED.lock().unwrap();
    assert_eq!(waited.0.as_millis(), 100_000);
    assert!(
        waited.1 <= Duration::from_secs(1),
        "so that it can be stopped"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_scrubs_alone() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = doors(&registry).await[0].clone();
    let layer = door.push_blob("alone", b"layer").await;
    let config = door.push_blob("alone", b"{}").await;
    door.push_manifest("alone", "v1", &image(&config, &[&layer], ""))
        .await
        .expect(201);
    damage(data.path(), &layer);
    let schedule = |every| Schedule {
        every: Duration::from_secs(every),
        after: Duration::ZERO,
        options: ScrubOptions::default(),
    };
    drop(Scrubber::start(registry.clone(), schedule(0)).unwrap());
    assert_eq!(registry.last_scrub().unwrap(), None, "switched off");
    let scrubber = Scrubber::start(registry.clone(), schedule(3600)).unwrap();
    let done = loop {
        match registry.last_scrub().unwrap() {
            Some(scrub) if scrub.finished.is_some() => break scrub,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    drop(scrubber);
    assert_eq!((done.checked, done.quarantined), (2, 1));
    // One that a clock which was ahead put into the future does not put off the next.
    let scrubs = data.path().join("content/scrub.json");
    let ahead = r#"{"started":9000000000,"finished":9000000001}"#;
    std::fs::write(scrubs, ahead).unwrap();
    let scrubber = Scrubber::start(registry.clone(), schedule(3600)).unwrap();
    let done = loop {
        match registry.last_scrub().unwrap() {
            Some(scrub) if scrub.finished.is_some() && scrub.started < 9_000_000_000 => {
                break scrub;
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    drop(scrubber);
    assert_eq!((done.checked, done.missing), (2, 1));
    absent(&door, &format!("/v2/alone/blobs/{layer}"), "BLOB_UNKNOWN").await;
}
