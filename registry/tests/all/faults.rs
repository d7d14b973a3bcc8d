//! A full disk: 507, nothing half-visible, and service as soon as there is space.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use registry::service::{Policy, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};

use super::door::{Door, doors, image, options, sha256};

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
            Step::Renamed,
            Step::Durable,
            Step::Staged,
        ] {
            let repo = format!("full{number}/{}", format!("{step:?}").to_lowercase());
            check(&door, &repo, step, &full).await;
        }
    }
    assert!(registry.verify().unwrap().is_empty());
    let names: Vec<_> = std::fs::read_dir(data.path().join("content/uploads"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.is_empty(), "{names:?}");
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
