//! Blobs in and out: every way to push, ranges, mounts, deletion.

use registry::digest::{Algorithm, digest_of};

use registry::service::{Policy, Registry};
use registry::store::Options;

use super::door::{Door, doors, open, options, sha256, tcp, unfinished};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_push_ends_in_the_same_blob() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let content: Vec<u8> = (0..300_000u32)
        .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
        .collect();
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        for (bytes, way) in [(&content[..], "large"), (&b""[..], "empty")] {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let digest = digest_of(algorithm, bytes);
                let repo = |how: &str| format!("push{number}/{way}/{}/{how}", algorithm.name());

                let post = format!("/v2/{}/blobs/uploads/?digest={digest}", repo("post"));
                door.send("POST", &post, &[], bytes.to_vec())
                    .await
                    .expect(201);

                let location = door.start(&repo("put")).await;
                let reply = door
                    .send(
                        "PUT",
                        &format!("{location}?digest={digest}"),
                        &[],
                        bytes.to_vec(),
                    )
                    .await
                    .expect(201);
                assert_eq!(
                    reply.header("location"),
                    format!("/v2/{}/blobs/{digest}", repo("put"))
                );

                let location = door.start(&repo("stream")).await;
                door.send("PATCH", &location, &[], bytes.to_vec())
                    .await
                    .expect(202);
                door.send("PUT", &format!("{location}?digest={digest}"), &[], "")
                    .await
                    .expect(201);

                for how in ["post", "put", "stream"] {
                    let path = format!("/v2/{}/blobs/{digest}", repo(how));
                    let reply = door.get(&path).await.expect(200);
                    assert!(reply.body == bytes, "{path}");
                    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
                    let reply = door.send("HEAD", &path, &[], "").await.expect(200);
                    assert_eq!(reply.header("content-length"), bytes.len().to_string());
                    assert!(reply.body.is_empty());
                }
            }
        }
    }
    assert!(registry.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_in_order_or_not_at_all() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let location = door.start("chunks").await;
        let chunk = |range: &'static str| [("content-range", range)];
        let reply = door
            .send("PATCH", &location, &chunk("5-9"), "56789")
            .await
            .expect(416);
        assert_eq!(
            (reply.header("range"), reply.header("location")),
            ("0-0", location.as_str())
        );
        door.send("GET", &location, &[], "").await.expect(204);
        let reply = door
            .send("PATCH", &location, &chunk("0-4"), "01234")
            .await
            .expect(202);
        assert_eq!(reply.header("range"), "0-4");
        door.send("PATCH", &location, &chunk("0-4"), "01234")
            .await
            .expect(416);
        assert_eq!(
            door.send("PATCH", &location, &chunk("5-9"), "567")
                .await
                .expect(400)
                .code(),
            "SIZE_INVALID"
        );
        let reply = door.get(&location).await.expect(204);
        assert_eq!(reply.header("range"), "0-4");
        if matches!(door, Door::Tcp(_)) {
            assert_eq!(reply.header("content-length"), "", "RFC 9110, section 8.6");
        }
        let digest = sha256(b"0123456789");
        let put = format!("{location}?digest={digest}");
        door.send("PUT", &put, &chunk("7-9"), "789")
            .await
            .expect(416);
        door.send("PUT", &put, &chunk("5-9"), "56789")
            .await
            .expect(201);
        door.send("GET", &location, &[], "").await.expect(404);
        assert_eq!(
            door.get(&format!("/v2/chunks/blobs/{digest}")).await.body,
            "0123456789"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_process() {
    let data = tempfile::tempdir().unwrap();
    // No export comes and goes while the folder is copied.
    let quiet = Options {
        export_quiet: std::time::Duration::from_secs(3600),
        ..options(data.path())
    };
    let first = Registry::open(quiet, Policy::default()).unwrap();
    let door = tcp(&first).await;
    let location = door.start("resumed").await;
    let sha512 = door
        .send(
            "POST",
            "/v2/resumed/blobs/uploads/?digest-algorithm=sha512",
            &[],
            "",
        )
        .await
        .expect(202);
    door.send("PATCH", &location, &[("content-range", "0-2")], "abc")
        .await
        .expect(202);
    door.send("PATCH", sha512.header("location"), &[], "abc")
        .await
        .expect(202);
    // A copy of the folder is what another process finds after a kill: nothing was closed.
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(data.path().join("."))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success());
    let second = open(copy.path());
    for door in doors(&second).await.into_iter().take(1) {
        let reply = door.get(&location).await.expect(204);
        assert_eq!(reply.header("range"), "0-2");
        door.send("PATCH", &location, &[("content-range", "3-5")], "def")
            .await
            .expect(202);
        let put = format!("{location}?digest={}", sha256(b"abcdef"));
        door.send("PUT", &put, &[], "").await.expect(201);
        let expected = digest_of(Algorithm::Sha512, b"abcdef");
        let put = format!("{}?digest={expected}", sha512.header("location"));
        door.send("PUT", &put, &[], "def").await.expect(201);
    }
    assert!(second.verify().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_answered() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let content: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[0]).collect();
    for door in doors(&registry).await {
        let digest = door.push_blob("ranges", &content).await;
        let path = format!("/v2/ranges/blobs/{digest}");
        for (range, status, expected) in [
            ("bytes=500-1499", 206, Some(500..1500)),
            ("bytes=500-", 206, Some(500..200_000)),
            ("bytes=-500", 206, Some(199_500..200_000)),
            ("bytes=199000-300000", 206, Some(199_000..200_000)),
            ("bytes=500-0", 416, None),
            ("bytes=200000-300000", 416, None),
            ("bytes=0-1,5-6", 200, Some(0..200_000)),
        ] {
            let reply = door
                .send("GET", &path, &[("range", range)], "")
                .await
                .expect(status);
            let Some(expected) = expected else {
                assert_eq!(reply.header("content-range"), "bytes */200000");
                continue;
            };
            assert!(reply.body == content[expected.clone()], "{range}");
            if status == 206 {
                let text = format!("bytes {}-{}/200000", expected.start, expected.end - 1);
                assert_eq!(reply.header("content-range"), text);
            }
        }
        let stale = [("range", "bytes=0-1"), ("if-range", "\"other\"")];
        door.send("GET", &path, &stale, "").await.expect(200);
        let etag = door.get(&path).await.header("etag").to_owned();
        let known = [("if-none-match", etag.as_str())];
        assert!(
            door.send("GET", &path, &known, "")
                .await
                .expect(304)
                .body
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_deletions_are_per_repository() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let content = format!("mounted {number}");
        let (from, to) = (format!("from{number}"), format!("to{number}"));
        let digest = door.push_blob(&from, content.as_bytes()).await;
        let blob = |repo: &str| format!("/v2/{repo}/blobs/{digest}");
        assert_eq!(
            door.get(&blob(&to)).await.expect(404).code(),
            "BLOB_UNKNOWN"
        );
        let mount =
            |repo: &str, from: &str| format!("/v2/{repo}/blobs/uploads/?mount={digest}{from}");
        let elsewhere = mount(&to, "&from=not/there");
        let reply = door.send("POST", &elsewhere, &[], "").await.expect(202);
        assert!(reply.header("location").contains("/blobs/uploads/"));
        let reply = door
            .send("POST", &mount(&to, &format!("&from={from}")), &[], "")
            .await
            .expect(201);
        assert_eq!(reply.header("location"), blob(&to));
        door.send("DELETE", &blob(&from), &[], "").await.expect(202);
        door.get(&blob(&from)).await.expect(404);
        door.send("DELETE", &blob(&from), &[], "").await.expect(404);
        assert_eq!(door.get(&blob(&to)).await.expect(200).body, content);
        // Without a source any repository that has it will do.
        door.send("POST", &mount("any", ""), &[], "")
            .await
            .expect(201);
        for repo in [to.as_str(), "any"] {
            door.send("DELETE", &blob(repo), &[], "").await.expect(202);
        }
        door.send("POST", &mount("any", ""), &[], "")
            .await
            .expect(202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_push_one_blob() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let content = vec![42u8; 2_000_000];
    let pushes: Vec<_> = (0..16)
        .map(|n| {
            let (door, content) = (door.clone(), content.clone());
            tokio::spawn(async move { door.push_blob(&format!("many/r{}", n % 4), &content).await })
        })
        .collect();
    let mut digest = None;
    for push in pushes {
        digest = Some(push.await.unwrap());
    }
    let digest = digest.unwrap();
    for n in 0..4 {
        let reply = door
            .get(&format!("/v2/many/r{n}/blobs/{digest}"))
            .await
            .expect(200);
        assert!(reply.body == content);
    }
    assert!(registry.verify().unwrap().is_empty());
    assert_eq!(unfinished(data.path()), Vec::<String>::new());
}
