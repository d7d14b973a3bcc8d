//! Quotas: exact under races, refused early, and told as what they are.

use std::io::Write;

use config::name::RepositoryName;
use config::registry::quota::Quota;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use registry::digest::Algorithm;
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::quota::{Bounded, Quotas};
use registry::store::{CommitBlobError, Options, StoreError};
use tokio::io::AsyncWriteExt;

use super::door::{Door, Reply, doors, image, options, sha256};

fn open(data: &std::path::Path, store: Option<u64>, repositories: &[(&str, &str)]) -> Registry {
    let repositories = repositories.iter().map(|(pattern, bytes)| Quota {
        repositories: pattern.parse().unwrap(),
        bytes: bytes.parse().unwrap(),
    });
    let quotas = Quotas {
        store,
        repositories: repositories.collect(),
    };
    let options = Options {
        quotas,
        ..options(data)
    };
    Registry::open(options, Policy::default()).unwrap()
}

fn refused(reply: Reply, words: &[&str]) {
    let reply = reply.expect(403);
    assert_eq!(reply.code(), "DENIED");
    let message = reply.json()["errors"][0]["message"].to_string();
    for word in words {
        assert!(message.contains(word), "{message} lacks {word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_meets_the_repositorys_quota() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), None, &[("small*/**", "1000"), ("**", "1Gi")]);
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("small{number}/a");
        let config = door.push_blob(&repo, b"{}").await;
        let layer = door.push_blob(&repo, &[1; 600]).await;
        let more = vec![2_u8; 500];
        let digest = sha256(&more);
        let post = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        let words = ["quota", repo.as_str(), "602 of 1000", "500"];
        refused(door.send("POST", &post, &[], more.clone()).await, &words);
        let location = door.start(&repo).await;
        let put = format!("{location}?digest={digest}");
        refused(door.send("PUT", &put, &[], more.clone()).await, &words);
        refused(
            door.send("PATCH", &location, &[], more.clone()).await,
            &words,
        );
        // The session stands, with what fits it goes on.
        let fits = [3_u8; 100];
        door.send("PATCH", &location, &[], fits.to_vec())
            .await
            .expect(202);
        let put = format!("{location}?digest={}", sha256(&fits));
        door.send("PUT", &put, &[], "").await.expect(201);

        door.push_blob("roomy/a", &more).await;
        let mount = format!("/v2/{repo}/blobs/uploads/?mount={digest}&from=roomy/a");
        refused(door.send("POST", &mount, &[], "").await, &["quota"]);
        let text = image(&config, &[&layer], "");
        refused(door.push_manifest(&repo, "v1", &text).await, &["quota"]);
        door.get(&format!("/v2/{repo}/manifests/v1"))
            .await
            .expect(404);
        // What is here already needs no room.
        door.push_blob(&repo, &[1; 600]).await;
        door.send("DELETE", &format!("/v2/{repo}/blobs/{layer}"), &[], "")
            .await
            .expect(202);
        door.push_blob(&repo, &more).await;
    }
    assert_eq!(super::door::unfinished(data.path()), [""; 0]);
    assert!(registry.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_counts_each_digest_once() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), Some(1000), &[]);
    let door = Door::Router(router(Front::new(registry.clone())));
    for repository in ["a", "b", "c"] {
        door.push_blob(repository, &[1; 600]).await;
    }
    let more = [2_u8; 401];
    let post = format!("/v2/a/blobs/uploads/?digest={}", sha256(&more));
    refused(
        door.send("POST", &post, &[], more.to_vec()).await,
        &["quota of the whole registry", "600 of 1000"],
    );
    door.push_blob("a", &[2; 400]).await;
    for repository in ["a", "b", "c"] {
        let path = format!("/v2/{repository}/blobs/{}", sha256(&[1; 600]));
        door.send("DELETE", &path, &[], "").await.expect(202);
    }
    door.push_blob("b", &[3; 600]).await;
    assert_eq!(registry.bytes_held().unwrap(), 1000);
    let usage = |name: &str| registry.usage(&name.parse().unwrap()).unwrap();
    assert_eq!((usage("a"), usage("b"), usage("c")), (400, 600, 0));
}

/// More pushes at once than there is room for: as many succeed as fit, never one more.
#[test]
fn racing_pushes_never_exceed_a_quota() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), Some(1000), &[("r", "500")]);
    let push = |number: u8| {
        let content = [number; 100];
        let repository: RepositoryName = if number < 16 { "r" } else { "s" }.parse().unwrap();
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        match registry.commit_blob(&repository, writer, &sha256(&content)) {
            Ok(_) => None,
            Err(CommitBlobError::Store(StoreError::Quota(exceeded))) => Some(exceeded.what),
            Err(error) => panic!("{error}"),
        }
    };
    let race = |numbers: std::ops::Range<u8>| -> Vec<Bounded> {
        std::thread::scope(|scope| {
            let push = &push;
            let pushers: Vec<_> = numbers
                .map(|number| scope.spawn(move || push(number)))
                .collect();
            let ended = pushers.into_iter();
            ended.filter_map(|pusher| pusher.join().unwrap()).collect()
        })
    };
    // One after the other: were they to race, either could take all of the store's room.
    let of_r = race(0..16);
    assert_eq!(of_r, vec![Bounded::Repository("r".to_owned()); 11]);
    let of_s = race(16..32);
    assert_eq!(
        of_s,
        vec![Bounded::Store; 11],
        "1000 bytes are ten times a hundred"
    );
    assert_eq!(registry.bytes_held().unwrap(), 1000);
}

/// Two sessions fit each by itself; what is refused at the end is not kept under any name.
#[test]
fn a_session_that_is_refused_at_its_end_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), None, &[("**", "500000")]);
    let repository: RepositoryName = "small".parse().unwrap();
    let uploads = data.path().join("content/uploads");
    // The first stand-ins are made beside the open.
    let start = || loop {
        let session = registry.start_upload(&repository, Algorithm::Sha256);
        let session = session.unwrap();
        if uploads.join(format!("p-{session}")).exists() {
            break session;
        }
        registry.cancel_upload(&repository, &session).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let begun = [1_u8, 2, 3].map(|byte| {
        let content = vec![byte; 300_000];
        let appender = registry.append(&repository, &start(), None, None);
        let mut appender = appender.unwrap();
        appender.write(&content).unwrap();
        (appender, sha256(&content))
    });
    let committed = begun.map(|(appender, digest)| appender.commit(&repository, &digest).is_ok());
    assert_eq!(committed, [true, false, false]);
    let whose = std::fs::read_dir(&uploads).unwrap().map(Result::unwrap);
    let held: Vec<u64> = whose
        .map(|entry| entry.metadata().unwrap())
        .filter(|file| std::os::unix::fs::MetadataExt::nlink(file) == 1)
        .map(|file| file.len())
        .collect();
    assert_eq!(held.iter().sum::<u64>(), 0, "refused content is kept");
}

/// The audit log is about who may do what; a full quota is about nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_no_denial_for_the_audit_log() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), None, &[("**", "10")]);
    let settings = registry::access::Settings {
        audit_log: Some(data.path().join("audit")),
        ..Default::default()
    };
    let clock = std::sync::Arc::new(std::time::SystemTime::now);
    let mut front = Front::new(registry);
    let access = registry::access::Access::open(&settings, data.path(), clock).unwrap();
    front.access = std::sync::Arc::new(access);
    let door = Door::Router(router(front));
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&[1; 20]));
    refused(door.send("POST", &path, &[], vec![1; 20]).await, &["quota"]);
    door.push_blob("a", b"small").await;
    let log = std::fs::read_to_string(data.path().join("audit")).unwrap();
    assert!(log.contains("\"push\"") && !log.contains("denied"), "{log}");
}

/// A body whose length nobody says is refused soon after it has sent too much.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_blob_of_unknown_length_is_refused_on_its_way() {
    const OFFERED: u64 = 96 << 20;
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path(), None, &[("**", "1000")]);
    let (mut pipe, body) = tokio::io::duplex(64 << 10);
    let sender = tokio::spawn(async move {
        let mut sent = 0;
        let piece = vec![0; 64 << 10];
        while sent < OFFERED && pipe.write_all(&piece).await.is_ok() {
            sent += piece.len() as u64;
        }
        sent
    });
    let uri = format!("/v2/r/blobs/uploads/?digest={}", sha256(b"never mind"));
    let request = http::Request::post(uri).header("host", "localhost");
    let body = axum::body::Body::from_stream(tokio_util::io::ReaderStream::new(body));
    let service = TowerToHyperService::new(router(Front::new(registry)));
    let reply = service.call(request.body(body).unwrap()).await.unwrap();
    assert_eq!(reply.status(), 403);
    let sent = sender.await.unwrap();
    assert!(sent < OFFERED / 2, "{sent} bytes were received");
}
