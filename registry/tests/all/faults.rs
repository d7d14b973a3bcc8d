//! A full disk: 507, nothing half-visible, and service as soon as there is space.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::Mutex;

use registry::digest::Algorithm;
use registry::service::{Policy, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};

use super::door::{Door, doors, image, options, sha256, unfinished};

/// A registry whose disk is full at the step in the cell.
fn open(data: &std::path::Path) -> (Registry, Arc<Mutex<Option<Step>>>) {
    let full = Arc::new(Mutex::new(None));
    let cell = Arc::clone(&full);
    let steps = Steps::calling(move |step| match *cell.lock().unwrap() {
        Some(full) if full == step => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let options = Options {
        steps,
        ..options(data)
    };
    (Registry::open(options, Policy::default()).unwrap(), full)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_shows_nothing_and_passes() {
    let data = tempfile::tempdir().unwrap();
    let (registry, full) = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        for step in [
            Step::Writing,
            Step::Written,
            Step::Synced,
            Step::Staged,
            Step::Committed,
            Step::JournalAppended,
            Step::JournalSynced,
        ] {
            let repo = format!("full{number}/{}", format!("{step:?}").to_lowercase());
            check(&door, &repo, step, &full).await;
        }
    }
    assert!(registry.verify().unwrap().is_empty());
    assert_eq!(unfinished(data.path()), Vec::<String>::new());
}

/// An in-process writer's blob is durable when its commit returns, or not there.
#[test]
fn a_full_disk_stops_an_in_process_writer() {
    let data = tempfile::tempdir().unwrap();
    let (registry, full) = open(data.path());
    let blobs = registry.store().blobs();
    for step in [Step::Written, Step::Synced, Step::Renamed, Step::Durable] {
        *full.lock().unwrap() = Some(step);
        blobs.put(b"content", Algorithm::Sha256).unwrap_err();
    }
    *full.lock().unwrap() = None;
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
        let (registry, full) = open(data.path());
        let digest = sha256(&content);
        *full.lock().unwrap() = Some(Step::Published);
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        registry.commit_blob(&name, writer, &digest).unwrap_err();
        *full.lock().unwrap() = None;
        let path = data.path().join("content/blobs/sha256");
        std::fs::remove_file(path.join(digest.digest())).unwrap();
        drop(registry);
        let (registry, _) = open(data.path());
        assert!(registry.stat_blob(&name, &digest).unwrap().is_some());
        assert!(registry.verify().unwrap().is_empty());
    }
}

/// Checkpoints fail: what is sealed is served from memory, and writers go on until the segments
/// are full; then they are told so, and nothing that they were told before is lost.
#[test]
fn a_failing_checkpoint_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (registry, full) = open(data.path());
    let name = "check/point".parse().unwrap();
    *full.lock().unwrap() = Some(Step::Checkpointing);
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
    *full.lock().unwrap() = None;
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

async fn check(door: &Door, repo: &str, step: Step, full: &Mutex<Option<Step>>) {
    let config = door.push_blob(repo, b"{}").await;
    let content = format!("layer of {repo}");
    let layer = sha256(content.as_bytes());
    let blob = format!("/v2/{repo}/blobs/{layer}");
    let post = format!("/v2/{repo}/blobs/uploads/?digest={layer}");

    *full.lock().unwrap() = Some(step);
    door.send("POST", &post, &[], content.clone())
        .await
        .expect(507);
    let location = door.start(repo).await;
    let put = format!("{location}?digest={layer}");
    door.send("PUT", &put, &[], content.clone())
        .await
        .expect(507);
    // A failed write leaves the session to go on with; whatever failed later has ended it.
    let left = if step == Step::Writing { 204 } else { 404 };
    door.send("DELETE", &location, &[], "").await.expect(left);
    door.get(&blob).await.expect(404);

    *full.lock().unwrap() = None;
    door.send("POST", &post, &[], content.clone())
        .await
        .expect(201);
    assert_eq!(door.get(&blob).await.expect(200).body, content);

    let text = image(&config, &[&layer], "");
    *full.lock().unwrap() = Some(step);
    door.push_manifest(repo, "v1", &text).await.expect(507);
    door.get(&format!("/v2/{repo}/manifests/v1"))
        .await
        .expect(404);
    *full.lock().unwrap() = None;
    door.push_manifest(repo, "v1", &text).await.expect(201);
    assert_eq!(
        door.get(&format!("/v2/{repo}/manifests/v1"))
            .await
            .expect(200)
            .body,
        text
    );
}
