//! Blobs of another registry: read while they arrive, shared, resumed, and never wrong.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry::mirror::upstream::Trouble;
use registry::store::step::{Step, Steps};

use super::door::{MANIFEST, push_image, sha256};
use super::elsewhere::{Bench, Slow, large};

const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let checked = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, checked).await;
    assert!(done.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_comes_before_the_last_has_arrived() {
    let bench = Bench::new().await;
    let content = large(1);
    let half = content.len() / 2;
    let digest = bench.origin.push_blob("library/x", &content).await;
    bench.there.hold.send_replace(half as u64);
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    let mut first = Slow::get(&bench.door, &path, &[]).await;
    assert_eq!(first.head.status, 200);
    assert_eq!(
        first.head.headers["content-length"],
        content.len().to_string()
    );
    first.until(half).await;
    assert_eq!(first.got, content[..half]);
    // One who comes late reads what is here from the beginning, or a part of it.
    let mut second = Slow::get(&bench.door, &path, &[]).await;
    second.until(half).await;
    let part = Slow::get(&bench.door, &path, &[("range", "bytes=1000-1999")]).await;
    assert_eq!(part.head.status, 206);
    let range = format!("bytes 1000-1999/{}", content.len());
    assert_eq!(part.head.headers["content-range"], range);
    let mut tail = Slow::get(&bench.door, &path, &[("range", "bytes=1900000-")]).await;
    assert_eq!(tail.head.status, 206);
    let none = Slow::get(&bench.door, &path, &[("range", "bytes=2000000-")]).await;
    assert_eq!(none.head.status, 416);
    let head = bench.door.send("HEAD", &path, &[], "").await.expect(200);
    assert_eq!(head.header("content-length"), content.len().to_string());
    assert!(!bench.has_file(&digest), "visible before it was verified");
    bench.there.hold.send_replace(u64::MAX);
    tail.until(1).await;
    assert_eq!(tail.rest().await.unwrap(), content[1_900_000..]);
    assert_eq!(part.rest().await.unwrap(), content[1000..2000]);
    assert_eq!(first.rest().await.unwrap(), content);
    assert_eq!(second.rest().await.unwrap(), content);
    assert_eq!(bench.there.asked("blob"), 1);
    let again = bench.door.get(&path).await.expect(200);
    assert_eq!(again.body, content);
    assert_eq!(bench.there.asked("blob"), 1);
    assert_eq!(bench.unfinished(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_share_one_download() {
    let bench = Bench::new().await;
    let content = large(2);
    let digest = bench.origin.push_blob("library/x", &content).await;
    let path = format!("/v2/docker.io/library/x/blobs/{digest}");
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (door, path) = (bench.door.clone(), path.clone());
        pulls.spawn(async move { door.get(&path).await.expect(200).body });
    }
    while let Some(body) = pulls.join_next().await {
        assert_eq!(body.unwrap(), content);
    }
    assert_eq!(bench.there.asked("blob"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_end_cleanly_and_leave_nothing() {
    for says_size in [true, false] {
        let bench = Bench::new().await;
        bench.there.says_size.store(says_size, Ordering::SeqCst);
        bench.there.lies.store(true, Ordering::SeqCst);
        let content = large(3);
        let digest = bench.origin.push_blob("library/x", &content).await;
        let small = bench.origin.push_blob("library/x", b"small").await;
        let path = format!("/v2/hub/library/x/blobs/{digest}");
        for headers in [&[][..], &[("range", "bytes=0-99")]] {
            // Whatever came: the connection broke before its end.
            let broke = Slow::breaks(&bench.door, &path, headers).await;
            assert!(broke, "{headers:?} {says_size}");
        }
        let path = format!("/v2/hub/library/x/blobs/{small}");
        if says_size {
            // Nothing was sent yet, so it can be said.
            bench.door.get(&path).await.expect(502);
        } else {
            assert!(Slow::breaks(&bench.door, &path, &[]).await);
        }
        for digest in [&digest, &small] {
            assert!(!bench.has_file(digest));
        }
        eventually("unfinished files go", || bench.unfinished() == 0).await;
        bench.there.lies.store(false, Ordering::SeqCst);
        let path = format!("/v2/hub/library/x/blobs/{digest}");
        assert_eq!(bench.door.get(&path).await.expect(200).body, content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_was() {
    for has_ranges in [true, false] {
        let bench = Bench::new().await;
        bench.there.has_ranges.store(has_ranges, Ordering::SeqCst);
        *bench.there.breaks.lock().unwrap() = vec![10, 700_000, 1_999_999];
        let content = large(4);
        let digest = bench.origin.push_blob("library/x", &content).await;
        let path = format!("/v2/hub/library/x/blobs/{digest}");
        let pulled = Slow::get(&bench.door, &path, &[]).await.rest().await;
        assert_eq!(pulled.unwrap(), content);
        assert_eq!(bench.there.asked("blob"), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_keeps_breaking_is_given_up() {
    let bench = Bench::new().await;
    let digest = bench.origin.push_blob("library/x", &large(5)).await;
    *bench.there.breaks.lock().unwrap() = vec![100_000; 50];
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    assert!(Slow::breaks(&bench.door, &path, &[]).await);
    assert!(!bench.has_file(&digest));
    bench.there.fail(Trouble::Unreachable);
    bench.door.get(&path).await.expect(504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_with_its_last_client_unless_most_is_here() {
    let bench = Bench::new().await;
    let content = large(6);
    let digest = bench.origin.push_blob("library/x", &content).await;
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    for (open, goes_on) in [(500_000, false), (1_500_000, true)] {
        bench.there.hold.send_replace(open);
        let mut pull = Slow::get(&bench.door, &path, &[]).await;
        pull.until(usize::try_from(open).unwrap() - 1).await;
        assert_eq!(bench.unfinished(), 1);
        drop(pull);
        if goes_on {
            bench.there.hold.send_replace(u64::MAX);
            eventually("the rest came", || bench.has_file(&digest)).await;
        }
        eventually("nothing unfinished", || bench.unfinished() == 0).await;
        assert_eq!(bench.has_file(&digest), goes_on);
    }
    let asked = bench.there.asked("blob");
    assert_eq!(bench.door.get(&path).await.expect(200).body, content);
    assert_eq!(bench.there.asked("blob"), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_one_repository_does_not_leak_into_another() {
    let bench = Bench::new().await;
    // Ours, and another repository of the same registry: neither shows this blob below docker.io.
    let secret = bench.door.push_blob("private/app", b"a secret layer").await;
    push_image(&bench.origin, "library/x", "1", b"public").await;
    let path = format!("/v2/hub/library/x/blobs/{secret}");
    bench.door.get(&path).await.expect(404);
    bench.door.send("HEAD", &path, &[], "").await.expect(404);
    let other = bench.origin.push_blob("library/other", b"for others").await;
    let at = |name: &str| format!("/v2/hub/library/{name}/blobs/{other}");
    bench.door.get(&at("other")).await.expect(200);
    bench.door.get(&at("x")).await.expect(404);
    // What both have is shown in both and was sent once.
    let both = large(7);
    let shared = bench.origin.push_blob("library/x", &both).await;
    bench.origin.push_blob("library/other", &both).await;
    let before = bench.there.asked("blob");
    for name in ["x", "other"] {
        let path = format!("/v2/hub/library/{name}/blobs/{shared}");
        assert_eq!(bench.door.get(&path).await.expect(200).body, both);
    }
    assert_eq!(bench.there.asked("blob"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_for_one_repository_serves_another_that_has_it() {
    let bench = Bench::new().await;
    let content = large(8);
    let digest = bench.origin.push_blob("library/x", &content).await;
    bench.origin.push_blob("library/y", &content).await;
    bench.there.hold.send_replace(1_000_000);
    let at = |name: &str| format!("/v2/hub/library/{name}/blobs/{digest}");
    let mut first = Slow::get(&bench.door, &at("x"), &[]).await;
    first.until(10).await;
    let mut second = Slow::get(&bench.door, &at("y"), &[]).await;
    second.until(10).await;
    bench.door.get(&at("z")).await.expect(404);
    bench.there.hold.send_replace(u64::MAX);
    assert_eq!(first.rest().await.unwrap(), content);
    assert_eq!(second.rest().await.unwrap(), content);
    assert_eq!(bench.there.asked("blob"), 1);
    bench.there.fail(Trouble::Unreachable);
    for name in ["x", "y"] {
        bench.door.get(&at(name)).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_one_registry_is_no_answer_of_another() {
    for trouble in [None, Some(Trouble::Unreachable), Some(Trouble::Denied)] {
        let (bench, other) = Bench::with_another().await;
        let content = large(14);
        let digest = bench.origin.push_blob("team/y", &content).await;
        bench.there.silent.send_replace(true);
        let at = |name: &str| format!("/v2/{name}/blobs/{digest}");
        let ask = |path: String| {
            let door = bench.door.clone();
            tokio::spawn(async move { door.get(&path).await })
        };
        let first = ask(at("docker.io/library/x"));
        eventually("one is on its way", || bench.there.asked("blob") == 1).await;
        let second = ask(at("b.example/team/y"));
        eventually("the other is granted", || other.asked("size") == 1).await;
        // Time to join; nothing can be seen of that from here.
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.there.fail(trouble);
        bench.there.silent.send_replace(false);
        let status = match trouble {
            None => 404,
            Some(Trouble::Denied) => 403,
            Some(_) => 504,
        };
        first.await.unwrap().expect(status);
        assert_eq!(second.await.unwrap().expect(200).body, content);
        assert_eq!(other.asked("blob"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_does_not_hold_up_another() {
    let (bench, other) = Bench::with_another().await;
    let content = large(15);
    let digest = bench.origin.push_blob("team/y", &content).await;
    bench.there.silent.send_replace(true);
    let silent = format!("/v2/docker.io/library/x/blobs/{digest}");
    let door = bench.door.clone();
    let first = tokio::spawn(async move { door.get(&silent).await });
    eventually("one is on its way", || bench.there.asked("blob") == 1).await;
    let path = format!("/v2/b.example/team/y/blobs/{digest}");
    assert_eq!(bench.door.get(&path).await.expect(200).body, content);
    assert_eq!(other.asked("blob"), 1);
    bench.there.silent.send_replace(false);
    first.await.unwrap().expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_registry_takes_no_downloads_from_others() {
    let (bench, _other) = Bench::with_another().await;
    bench.there.silent.send_replace(true);
    let mut waiting = tokio::task::JoinSet::new();
    for seed in 0..20_u8 {
        let path = format!("/v2/docker.io/library/x/blobs/{}", sha256(&[seed]));
        let door = bench.door.clone();
        waiting.spawn(async move { door.get(&path).await });
    }
    eventually("all downloads are taken", || {
        bench.there.asked("blob") == 16
    })
    .await;
    let digest = bench.origin.push_blob("team/y", &large(16)).await;
    let path = format!("/v2/b.example/team/y/blobs/{digest}");
    let answer = tokio::time::timeout(PATIENCE, bench.door.get(&path)).await;
    assert_eq!(answer.unwrap().expect(200).body, large(16));
    bench.there.silent.send_replace(false);
    waiting.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_not_waited_for_again() {
    let bench = Bench::new().await;
    let digest = bench.origin.push_blob("library/x", b"one").await;
    let other = bench.origin.push_blob("library/x", b"two").await;
    let at = |digest| format!("/v2/docker.io/library/x/blobs/{digest}");
    bench.there.fail(Trouble::Unreachable);
    bench.door.get(&at(&digest)).await.expect(504);
    let asked = bench.there.asked("blob");
    for path in [at(&digest), at(&other)] {
        bench.door.get(&path).await.expect(504);
        bench.door.send("HEAD", &path, &[], "").await.expect(504);
    }
    assert_eq!(bench.there.asked("blob"), asked);
    assert_eq!(bench.there.asked("size"), 0);
    bench.there.fail(None);
    bench.later(10);
    bench.door.get(&at(&other)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_file_is_fetched_again() {
    let bench = Bench::new().await;
    let content = large(9);
    push_image(&bench.origin, "library/x", "1", &content).await;
    let digest = sha256(&content);
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    let manifest = "/v2/hub/library/x/manifests/1";
    let text = bench.door.get(manifest).await.expect(200).body;
    bench.door.get(&path).await.expect(200);
    let blobs = bench.data.path().join("content/blobs/sha256");
    for lost in [&digest, &sha256(&text)] {
        std::fs::remove_file(blobs.join(lost.digest())).unwrap();
    }
    assert_eq!(bench.door.get(&path).await.expect(200).body, content);
    assert_eq!(bench.door.get(manifest).await.expect(200).body, text);
    assert!(bench.here.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_nobody_says_are_counted() {
    let bench = Bench::new().await;
    bench.there.says_size.store(false, Ordering::SeqCst);
    let content = large(10);
    let digest = bench.origin.push_blob("library/x", &content).await;
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    let head = bench.door.send("HEAD", &path, &[], "").await.expect(200);
    assert_eq!(head.header("content-length"), content.len().to_string());
    let other = bench.origin.push_blob("library/x", &large(11)).await;
    let path = format!("/v2/hub/library/x/blobs/{other}");
    let pulled = Slow::get(&bench.door, &path, &[]).await.rest().await;
    assert_eq!(pulled.unwrap(), large(11));
    // Where a manifest that is here says it, that is enough.
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[{{"digest":"{}","size":2000000}}]}}"#,
        sha256(&large(12))
    );
    bench.origin.push_blob("library/x", &large(12)).await;
    bench
        .origin
        .push_manifest("library/x", "1", &text)
        .await
        .expect(201);
    bench
        .door
        .get("/v2/hub/library/x/manifests/1")
        .await
        .expect(200);
    let path = format!("/v2/hub/library/x/blobs/{}", sha256(&large(12)));
    let asked = bench.there.asked("blob");
    let head = bench.door.send("HEAD", &path, &[], "").await.expect(200);
    assert_eq!(head.header("content-length"), "2000000");
    assert_eq!(bench.there.asked("blob"), asked);
    let pull = Slow::get(&bench.door, &path, &[]).await;
    assert_eq!(pull.head.headers["content-length"], "2000000");
    assert_eq!(pull.rest().await.unwrap(), large(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let full = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&full);
    let steps = Steps::calling(move |step| match step {
        Step::Writing if seen.load(Ordering::SeqCst) => Err(ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let bench = Bench::with_steps(steps).await;
    let small = bench.origin.push_blob("library/x", b"small").await;
    let content = large(13);
    let digest = bench.origin.push_blob("library/x", &content).await;
    full.store(true, Ordering::SeqCst);
    let path = format!("/v2/hub/library/x/blobs/{small}");
    bench.door.get(&path).await.expect(507);
    let path = format!("/v2/hub/library/x/blobs/{digest}");
    assert!(Slow::breaks(&bench.door, &path, &[]).await);
    full.store(false, Ordering::SeqCst);
    // It fills up on the way.
    bench.there.hold.send_replace(500_000);
    let mut pull = Slow::get(&bench.door, &path, &[]).await;
    pull.until(100_000).await;
    full.store(true, Ordering::SeqCst);
    bench.there.hold.send_replace(u64::MAX);
    assert!(pull.rest().await.is_err());
    eventually("nothing unfinished", || bench.unfinished() == 0).await;
    assert!(!bench.has_file(&digest));
    full.store(false, Ordering::SeqCst);
    assert_eq!(bench.door.get(&path).await.expect(200).body, content);
}
