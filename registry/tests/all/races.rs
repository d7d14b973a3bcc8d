//! Things that happen at the same time. A gate holds one of them at a step of the store until the
//! other is done, so that the order is the one that hurts.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use registry::digest::Digest;
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::scrub::ScrubOptions;
use registry::store::step::{Step, Steps};
use registry::store::{Grace, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::block_in_place;

use super::door::{Door, open, options, push_image, sha256, tcp};
use super::heal::{damage, quarantined};

const NO_GRACE: Grace = Grace {
    links: Duration::from_secs(3600),
    files: Duration::ZERO,
};

/// Holds the first that comes to the step it is set to.
#[derive(Debug, Default)]
struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    at: Option<Step>,
    arrived: bool,
    opened: bool,
}

impl Gate {
    fn set(&self, step: Step) {
        *self.held.lock().unwrap() = Held {
            at: Some(step),
            ..Held::default()
        };
    }

    fn pass(&self, step: Step) {
        let mut held = self.held.lock().unwrap();
        if held.at != Some(step) || held.arrived {
            return;
        }
        held.arrived = true;
        self.changed.notify_all();
        let opened = self.changed.wait_while(held, |held| !held.opened);
        drop(opened.unwrap());
    }

    /// Waits until somebody is held.
    fn arrived(&self) {
        let held = self.held.lock().unwrap();
        drop(self.changed.wait_while(held, |held| !held.arrived).unwrap());
    }

    fn open(&self) {
        self.held.lock().unwrap().opened = true;
        self.changed.notify_all();
    }
}

fn gated(data: &Path) -> (Registry, Door, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let inside = Arc::clone(&gate);
    let options = Options {
        steps: Steps::calling(move |step| {
            inside.pass(step);
            Ok(())
        }),
        ..options(data)
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    let door = Door::Router(router(Front::new(registry.clone())));
    (registry, door, gate)
}

fn post(repository: &str, content: &[u8]) -> String {
    let digest = sha256(content);
    format!("/v2/{repository}/blobs/uploads/?digest={digest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_uploads_of_one_blob_both_succeed() {
    for step in [
        Step::Writing,
        Step::Synced,
        Step::Staged,
        Step::Committed,
        Step::JournalAppended,
        Step::JournalSynced,
        Step::Published,
    ] {
        let data = tempfile::tempdir().unwrap();
        let (registry, door, gate) = gated(data.path());
        gate.set(step);
        let (one, path) = (door.clone(), post("a", b"same"));
        let first = tokio::spawn(async move { one.send("POST", &path, &[], "same").await });
        block_in_place(|| gate.arrived());
        // The one writer of the index is what is held at these steps.
        let second = if step >= Step::Staged {
            gate.open();
            door.send("POST", &post("b", b"same"), &[], "same").await
        } else {
            let second = door.send("POST", &post("b", b"same"), &[], "same").await;
            gate.open();
            second
        };
        second.expect(201);
        first.await.unwrap().expect(201);
        for repo in ["a", "b"] {
            let path = format!("/v2/{repo}/blobs/{}", sha256(b"same"));
            assert_eq!(door.get(&path).await.expect(200).body, "same", "{step:?}");
        }
        assert_eq!(registry.verify().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_serves_one_request_at_a_time() {
    let data = tempfile::tempdir().unwrap();
    let (_registry, door, gate) = gated(data.path());
    let location = door.start("a").await;
    gate.set(Step::Writing);
    let (one, path) = (door.clone(), location.clone());
    let first = tokio::spawn(async move { one.send("PATCH", &path, &[], "first").await });
    block_in_place(|| gate.arrived());
    let put = format!("{location}?digest={}", sha256(b"second"));
    for (method, path) in [("PATCH", &location), ("PUT", &put), ("DELETE", &location)] {
        let reply = door.send(method, path, &[], "second").await.expect(409);
        assert_eq!(reply.code(), "BLOB_UPLOAD_INVALID", "{method}");
    }
    let status = door.get(&location).await.expect(204);
    assert_eq!(status.header("range"), "0-0");
    gate.open();
    assert_eq!(first.await.unwrap().expect(202).header("range"), "0-4");
    let put = format!("{location}?digest={}", sha256(b"first"));
    door.send("PUT", &put, &[], "").await.expect(201);
}

/// Begins to pull over a socket; answers it with the first bytes of the body still to come.
async fn begin_pull(door: &Door, path: &str) -> TcpStream {
    let Door::Tcp(address) = door else {
        panic!("pulls are slow over sockets only");
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    stream
}

async fn end_pull(mut stream: TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    stream.read_to_end(&mut body).await.unwrap();
    body
}

/// More than sockets and channels hold, so that the pull is still going on.
fn large() -> Vec<u8> {
    (0..24_000_000u32).map(|n| n.to_le_bytes()[1]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_deletion_and_collection() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let content = large();
    let digest = door.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let pull = begin_pull(&door, &path).await;
    door.send("DELETE", &path, &[], "").await.expect(202);
    let swept = registry.store().collect(NO_GRACE, &|_| false).unwrap();
    assert_eq!((swept.blobs, swept.bytes), (1, content.len() as u64));
    door.get(&path).await.expect(404);
    assert!(end_pull(pull).await == content, "the reader gets all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_outlives_quarantine_and_healing() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let content = large();
    let digest = door.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let mut pull = begin_pull(&door, &path).await;
    // What has been read has left the file's pages; what is on its way may still be in them.
    let mut begun = vec![0; 100_000];
    pull.read_exact(&mut begun).await.unwrap();
    damage(data.path(), &digest);
    let done = registry.scrub(&ScrubOptions::default(), &mut |_, _| {
        ControlFlow::Continue(())
    });
    assert_eq!(done.unwrap().quarantined, 1);
    door.get(&path).await.expect(404);
    door.push_blob("a", &content).await;
    begun.extend(end_pull(pull).await);
    assert!(begun == content);
    assert!(door.get(&path).await.expect(200).body == content);
    assert_eq!(quarantined(data.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_takes_nothing_from_a_push() {
    for step in [
        Step::Written,
        Step::Synced,
        Step::Staged,
        Step::Committed,
        Step::JournalAppended,
        Step::JournalSynced,
        Step::Published,
    ] {
        let data = tempfile::tempdir().unwrap();
        let (registry, door, gate) = gated(data.path());
        gate.set(step);
        let (one, path) = (door.clone(), post("a", b"layer"));
        let push = tokio::spawn(async move { one.send("POST", &path, &[], "layer").await });
        block_in_place(|| gate.arrived());
        let collected = registry.clone();
        let collection =
            std::thread::spawn(move || collected.store().collect(NO_GRACE, &|_| false).unwrap());
        // Time for the collection to come to the file; it must not take it before the row is there.
        tokio::time::sleep(Duration::from_millis(30)).await;
        gate.open();
        push.await.unwrap().expect(201);
        assert_eq!(collection.join().unwrap().blobs, 0, "{step:?}");
        let path = format!("/v2/a/blobs/{}", sha256(b"layer"));
        assert_eq!(door.get(&path).await.expect(200).body, "layer");
    }
}

/// Who is told that a mount, a link or a manifest stands must find what it needs.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_deletions_and_collections_agree() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let (mut mounted, mut refused) = (0, 0);
    for round in 0..60 {
        let content = format!("content {round}");
        let digest = door.push_blob("from", content.as_bytes()).await;
        let (from, collecting) = (door.clone(), registry.clone());
        let delete = format!("/v2/from/blobs/{digest}");
        let deletion = tokio::spawn(async move {
            from.send("DELETE", &delete, &[], "").await.expect(202);
            collecting.store().collect(NO_GRACE, &|_| false).unwrap()
        });
        let mount = format!("/v2/to/blobs/uploads/?mount={digest}&from=from");
        let reply = door.send("POST", &mount, &[], "").await;
        deletion.await.unwrap();
        let get = door.get(&format!("/v2/to/blobs/{digest}")).await;
        if reply.status == 201 {
            assert_eq!(get.expect(200).body, content);
            mounted += 1;
        } else {
            reply.expect(202);
            get.expect(404);
            refused += 1;
        }
    }
    println!("{mounted} mounts came first, {refused} deletions did");
    assert_eq!(registry.verify().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_collections_one_does_the_work() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    push_image(&door, "kept", "v1", b"kept").await;
    for number in 0..40u8 {
        let digest = door.push_blob("gone", &[number; 100]).await;
        let path = format!("/v2/gone/blobs/{digest}");
        door.send("DELETE", &path, &[], "").await.expect(202);
    }
    let collect = || {
        let registry = registry.clone();
        std::thread::spawn(move || registry.store().collect(NO_GRACE, &|_| false))
    };
    let (one, two) = (collect(), collect());
    let mut collected = 0;
    for result in [one.join().unwrap(), two.join().unwrap()] {
        match result {
            Ok(swept) => collected += swept.blobs,
            // One runs at a time; the other says so.
            Err(error) => assert!(error.to_string().contains("collection"), "{error}"),
        }
    }
    assert_eq!(collected, 40);
    let left = registry.store().collect(NO_GRACE, &|_| false).unwrap();
    assert_eq!(left.blobs, 0);
    assert_eq!(registry.verify().unwrap(), []);
    door.get("/v2/kept/manifests/v1").await.expect(200);
}

/// Until the new file has its name the blob is absent, from then on it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_heals_is_absent_or_whole() {
    for step in [
        Step::Synced,
        Step::JournalAppended,
        Step::JournalSynced,
        Step::Published,
    ] {
        let data = tempfile::tempdir().unwrap();
        let (registry, door, gate) = gated(data.path());
        let digest = door.push_blob("a", b"content").await;
        damage(data.path(), &digest);
        scrub(&registry, 1);
        gate.set(step);
        let (one, path) = (door.clone(), post("a", b"content"));
        let push = tokio::spawn(async move { one.send("POST", &path, &[], "content").await });
        block_in_place(|| gate.arrived());
        check(
            &door,
            &digest,
            if step == Step::Published { 200 } else { 404 },
        )
        .await;
        gate.open();
        push.await.unwrap().expect(201);
        check(&door, &digest, 200).await;
    }
}

/// A push that comes while the damaged file is taken away is not taken away with it.
#[tokio::test(flavor = "multi_thread")]
async fn quarantine_and_healing_at_once_leave_the_new_file() {
    for step in [Step::Quarantining, Step::Quarantined] {
        let data = tempfile::tempdir().unwrap();
        let (registry, door, gate) = gated(data.path());
        let digest = door.push_blob("a", b"content").await;
        damage(data.path(), &digest);
        gate.set(step);
        let scrubbed = registry.clone();
        let scrubbing = std::thread::spawn(move || scrub(&scrubbed, 1));
        block_in_place(|| gate.arrived());
        let (one, path) = (door.clone(), post("a", b"content"));
        let push = tokio::spawn(async move { one.send("POST", &path, &[], "content").await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.open();
        push.await.unwrap().expect(201);
        scrubbing.join().unwrap();
        check(&door, &digest, 200).await;
        assert_eq!(registry.verify().unwrap(), [], "{step:?}");
    }
}

fn scrub(registry: &Registry, quarantined: u64) {
    let options = ScrubOptions {
        anew: true,
        ..ScrubOptions::default()
    };
    let done = registry.scrub(&options, &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(done.unwrap().quarantined, quarantined);
}

async fn check(door: &Door, digest: &Digest, status: u16) {
    let path = format!("/v2/a/blobs/{digest}");
    door.send("HEAD", &path, &[], "").await.expect(status);
    let reply = door.get(&path).await.expect(status);
    if status == 200 {
        assert_eq!(reply.body, "content");
    }
}
