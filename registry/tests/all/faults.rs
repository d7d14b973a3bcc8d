//! A disk that is full, gives errors, or takes a part of a write: 507 or 500, nothing half-visible,
//! and service as soon as it is well again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use registry::digest::Algorithm;
use registry::service::{Policy, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};

use super::door::{Door, doors, image, options, push_image, sha256, unfinished};
use super::heal::copied;
use super::verifier::{Excuses, faults};

type Broken = Arc<Mutex<Option<(Step, io::ErrorKind)>>>;

/// A registry whose disk fails at the step in the cell.
fn open(data: &std::path::Path) -> (Registry, Broken) {
    let broken = Broken::default();
    let cell = Arc::clone(&broken);
    let steps = Steps::calling(move |step| match *cell.lock().unwrap() {
        Some((broken, kind)) if broken == step => Err(kind.into()),
        _ => Ok(()),
    });
    let options = Options {
        steps,
        ..options(data)
    };
    (Registry::open(options, Policy::default()).unwrap(), broken)
}

/// Of a push, up to the sync of the journal, which decides.
const STEPS: [Step; 7] = [
    Step::Writing,
    Step::Written,
    Step::Synced,
    Step::Staged,
    Step::Committed,
    Step::JournalAppended,
    Step::JournalSynced,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_shows_nothing_and_passes() {
    for (kind, status) in [
        (io::ErrorKind::StorageFull, 507),
        (io::ErrorKind::QuotaExceeded, 507),
        (io::ErrorKind::Other, 500),
    ] {
        let data = tempfile::tempdir().unwrap();
        let (registry, broken) = open(data.path());
        for (number, door) in doors(&registry).await.into_iter().enumerate() {
            for step in STEPS {
                let repo = format!("full{number}/{}", format!("{step:?}").to_lowercase());
                check(&door, &repo, (step, kind), status, &broken).await;
            }
        }
        assert!(registry.verify().unwrap().is_empty());
        assert_eq!(unfinished(data.path()), [""; 0]);
        // No checkpoint may write while the files are copied.
        *broken.lock().unwrap() = Some((Step::Checkpointing, kind));
        let copy = copied(data.path());
        assert_eq!(faults(copy.path(), Excuses::default()), [""; 0]);
    }
}

/// An in-process writer's blob is durable when its commit returns, or not there.
#[test]
fn a_full_disk_stops_an_in_process_writer() {
    let data = tempfile::tempdir().unwrap();
    let (registry, broken) = open(data.path());
    let blobs = registry.store().blobs();
    for step in [Step::Written, Step::Synced, Step::Renamed, Step::Durable] {
        *broken.lock().unwrap() = Some((step, io::ErrorKind::StorageFull));
        blobs.put(b"content", Algorithm::Sha256).unwrap_err();
    }
    *broken.lock().unwrap() = None;
    blobs.put(b"content", Algorithm::Sha256).unwrap();
    assert_eq!(unfinished(data.path()), Vec::<String>::new());
}

/// The batch is durable but a blob of it did not get its name: the client is told that it failed,
/// and the next checkpoint, here that of the close, gives the blob its name.
#[test]
fn a_blob_without_its_name_gets_it_from_the_journal() {
    let data = tempfile::tempdir().unwrap();
    let name = "named".parse().unwrap();
    for content in [vec![1; 100], vec![2; 100_000]] {
        let (registry, broken) = open(data.path());
        let digest = sha256(&content);
        *broken.lock().unwrap() = Some((Step::Published, io::ErrorKind::StorageFull));
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        registry.commit_blob(&name, writer, &digest).unwrap_err();
        *broken.lock().unwrap() = None;
        let path = data.path().join("content/blobs/sha256");
        std::fs::remove_file(path.join(digest.digest())).unwrap();
        drop(registry);
        let (registry, _) = open(data.path());
        assert!(registry.stat_blob(&name, &digest).unwrap().is_some());
        assert!(registry.verify().unwrap().is_empty());
    }
}

/// Checkpoints fail, at their begin or at a write or sync of theirs: what is sealed is served from memory, and writers go on until the segments
/// are full; then they are told so, and nothing that they were told before is lost.
#[test]
fn a_failing_checkpoint_loses_nothing() {
    for step in [Step::Checkpointing, Step::IndexWriting, Step::IndexSyncing] {
        check_checkpoints(step);
    }
}

fn check_checkpoints(step: Step) {
    let data = tempfile::tempdir().unwrap();
    let (registry, broken) = open(data.path());
    let name = "check/point".parse().unwrap();
    *broken.lock().unwrap() = Some((step, io::ErrorKind::StorageFull));
    let push = |number: u32| {
        let content = [number.to_le_bytes().as_slice(), &[7; 60_000]].concat();
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        let digest = sha256(&content);
        registry.commit_blob(&name, writer, &digest).map(|_| digest)
    };
    let mut pushed = Vec::new();
    let error = loop {
        match push(pushed.len() as u32) {
            Ok(digest) => pushed.push(digest),
            Err(error) => break error,
        }
        assert!(pushed.len() < 2000, "the journal has no end");
    };
    assert!(format!("{error:?}").contains("StorageFull"), "{error:?}");
    let all = |registry: &Registry| {
        for digest in &pushed {
            assert!(registry.stat_blob(&name, digest).unwrap().is_some());
        }
    };
    all(&registry);
    *broken.lock().unwrap() = None;
    let mut tries = 0;
    while push(5000).is_err() {
        tries += 1;
        assert!(tries < 1000, "no checkpoint succeeds");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(registry);
    let registry = Registry::open(options(data.path()), Policy::default()).unwrap();
    all(&registry);
    assert!(registry.verify().unwrap().is_empty());
}

async fn check(
    door: &Door,
    repo: &str,
    failure: (Step, io::ErrorKind),
    status: u16,
    broken: &Mutex<Option<(Step, io::ErrorKind)>>,
) {
    let config = door.push_blob(repo, b"{}").await;
    let content = format!("layer of {repo}");
    let layer = sha256(content.as_bytes());
    let blob = format!("/v2/{repo}/blobs/{layer}");
    let post = format!("/v2/{repo}/blobs/uploads/?digest={layer}");

    *broken.lock().unwrap() = Some(failure);
    door.send("POST", &post, &[], content.clone())
        .await
        .expect(status);
    let location = door.start(repo).await;
    let put = format!("{location}?digest={layer}");
    door.send("PUT", &put, &[], content.clone())
        .await
        .expect(status);
    // A failed write leaves the session to go on with. Whatever failed later has ended it: after a
    // sync that failed nobody can know what of the file is on the disk.
    let left = if failure.0 == Step::Writing { 204 } else { 404 };
    let reply = door.send("DELETE", &location, &[], "").await;
    assert_eq!(reply.status, left, "{failure:?} {reply:?}");
    *broken.lock().unwrap() = None;
    door.get(&blob).await.expect(404);
    door.send("POST", &post, &[], content.clone())
        .await
        .expect(201);
    assert_eq!(door.get(&blob).await.expect(200).body, content);

    let text = image(&config, &[&layer], "");
    *broken.lock().unwrap() = Some(failure);
    door.push_manifest(repo, "v1", &text).await.expect(status);
    *broken.lock().unwrap() = None;
    door.get(&format!("/v2/{repo}/manifests/v1"))
        .await
        .expect(404);
    door.push_manifest(repo, "v1", &text).await.expect(201);
    assert_eq!(
        door.get(&format!("/v2/{repo}/manifests/v1"))
            .await
            .expect(200)
            .body,
        text
    );
}

/// What a disk takes of a write before it is full is the session's; the client goes on behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_write_counts_for_what_it_took() {
    let data = tempfile::tempdir().unwrap();
    let space = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&space);
    let steps = Steps::default().shortening(move |length| {
        let most = left.load(Ordering::SeqCst).min(length);
        left.fetch_sub(most, Ordering::SeqCst);
        match most {
            0 if length > 0 => Err(io::ErrorKind::StorageFull.into()),
            most => Ok(most),
        }
    });
    let options = Options {
        steps,
        ..options(data.path())
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let content = vec![u8::try_from(number).unwrap() + 1; 100_000];
        let digest = sha256(&content);
        let location = door.start("short").await;
        for (sent, taken) in [(0, 30_000), (30_000, 70_001)] {
            space.store(taken - sent, Ordering::SeqCst);
            let rest = content[sent..].to_vec();
            let range = format!("{sent}-{}", content.len() - 1);
            let headers = [("content-range", range.as_str())];
            door.send("PATCH", &location, &headers, rest)
                .await
                .expect(507);
            let status = door.get(&location).await.expect(204);
            assert_eq!(status.header("range"), format!("0-{}", taken - 1));
        }
        space.store(1_000_000, Ordering::SeqCst);
        let put = format!("{location}?digest={digest}");
        let rest = content[70_001..].to_vec();
        let headers = [("content-range", "70001-99999")];
        door.send("PUT", &put, &headers, rest).await.expect(201);
        let path = format!("/v2/short/blobs/{digest}");
        assert!(door.get(&path).await.expect(200).body == content);
        // The same in one request leaves nothing.
        space.store(5, Ordering::SeqCst);
        let post = format!("/v2/short/blobs/uploads/?digest={}", sha256(b"longer"));
        door.send("POST", &post, &[], "longer").await.expect(507);
        space.store(0, Ordering::SeqCst);
        let text = image(&digest, &[], "");
        door.push_manifest("short", "v1", &text).await.expect(507);
        door.get("/v2/short/manifests/v1").await.expect(404);
    }
    assert_eq!(unfinished(data.path()), [""; 0]);
}

/// An index that cannot be written is opened again; who reads meanwhile is not told of it.
#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_while_the_index_fails() {
    let data = tempfile::tempdir().unwrap();
    // Once is enough for redb to give a file up; the disk takes the next write.
    let broken = Arc::new(Mutex::new(None));
    let cell = Arc::clone(&broken);
    let steps = Steps::calling(move |step| {
        let hit = cell.lock().unwrap().take_if(|broken| *broken == step);
        hit.map_or(Ok(()), |_| Err(io::ErrorKind::StorageFull.into()))
    });
    let options = Options {
        steps,
        ..options(data.path())
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    let door = doors(&registry).await[0].clone();
    let text = push_image(&door, "read", "v1", b"layer").await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (door, done, text) = (door.clone(), Arc::clone(&done), text.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !done.load(Ordering::SeqCst) {
                    let reply = door.get("/v2/read/manifests/v1").await.expect(200);
                    assert_eq!(reply.body, text);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for step in [
        Step::JournalAppended,
        Step::JournalSynced,
        Step::Committed,
        Step::Staged,
    ]
    .repeat(20)
    {
        *broken.lock().unwrap() = Some(step);
        door.push_manifest("read", "v2", &text).await.expect(507);
        door.push_manifest("read", "v3", &text).await.expect(201);
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    door.get("/v2/read/manifests/v2").await.expect(404);
}

/// Retention decides upon pulls: those of a failed flush are recorded by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_loses_no_pulls() {
    let data = tempfile::tempdir().unwrap();
    let (registry, broken) = open(data.path());
    let [door, _] = doors(&registry).await;
    let text = push_image(&door, "pulled", "v1", b"layer").await;
    let (name, tag) = ("pulled".parse().unwrap(), "v1".parse().unwrap());
    for count in 1..3 {
        registry.note_pull(&name, &sha256(text.as_bytes()), Some(&tag));
        *broken.lock().unwrap() = Some((Step::JournalAppended, io::ErrorKind::StorageFull));
        registry.record_pulls().unwrap_err();
        *broken.lock().unwrap() = None;
        registry.record_pulls().unwrap();
        let pulls = registry.pulls_of_tag(&name, &tag).unwrap();
        assert_eq!(pulls.unwrap().count, count);
    }
}
