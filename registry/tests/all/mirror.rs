//! Manifests and tags of another registry: how young they are, what is served when it is away, and
//! which names mean it.

use std::sync::atomic::Ordering;

use registry::mirror::upstream::Trouble;

use super::door::{INDEX, image, push_image, sha256};
use super::elsewhere::{Bench, TTL};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_again_when_it_is_old() {
    let bench = Bench::new().await;
    let path = "/v2/docker.io/library/x/manifests/1";
    let first = push_image(&bench.origin, "library/x", "1", b"one").await;
    let reply = bench.door.get(path).await.expect(200);
    assert_eq!(reply.body, first);
    assert_eq!(
        reply.header("docker-content-digest"),
        sha256(first.as_bytes()).to_string()
    );
    assert_eq!(reply.header("warning"), "");
    let second = push_image(&bench.origin, "library/x", "1", b"two").await;
    bench.later(TTL - 1);
    assert_eq!(bench.door.get(path).await.expect(200).body, first);
    assert_eq!(
        (bench.there.asked("digest"), bench.there.asked("manifest")),
        (0, 1)
    );
    bench.later(1);
    assert_eq!(bench.door.get(path).await.expect(200).body, second);
    assert_eq!(
        (bench.there.asked("digest"), bench.there.asked("manifest")),
        (1, 2)
    );
    // It has not moved, so a HEAD is enough, and its age begins anew.
    bench.later(TTL);
    for _ in 0..3 {
        assert_eq!(bench.door.get(path).await.expect(200).body, second);
    }
    assert_eq!(
        (bench.there.asked("digest"), bench.there.asked("manifest")),
        (2, 2)
    );
    // A registry that does not say digests is asked for all.
    bench.there.says_digest.store(false, Ordering::SeqCst);
    bench.later(TTL);
    bench.door.send("HEAD", path, &[], "").await.expect(200);
    assert_eq!(
        (bench.there.asked("digest"), bench.there.asked("manifest")),
        (3, 3)
    );
    // The image that the tag has left is still here by its digest.
    let old = format!(
        "/v2/docker.io/library/x/manifests/{}",
        sha256(first.as_bytes())
    );
    assert_eq!(bench.door.get(&old).await.expect(200).body, first);
    assert_eq!(bench.there.asked("manifest"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_served_while_the_other_registry_is_away() {
    for trouble in [
        Trouble::Unreachable,
        Trouble::Failed,
        Trouble::Limited,
        Trouble::Denied,
        Trouble::Wrong,
    ] {
        let bench = Bench::new().await;
        let text = push_image(&bench.origin, "library/x", "1", b"one").await;
        let path = "/v2/hub/library/x/manifests/1";
        bench.door.get(path).await.expect(200);
        bench.there.fail(trouble);
        bench.later(TTL + 5);
        let reply = bench.door.get(path).await.expect(200);
        assert_eq!(reply.body, text);
        let warning = reply.header("warning");
        assert!(
            warning.starts_with("299 - \"the test says no; "),
            "{warning}"
        );
        assert!(warning.contains("605 seconds ago"), "{warning}");
        // Who has failed a moment ago is not asked again; who has refused is.
        bench.door.get(path).await.expect(200);
        let passes = matches!(
            trouble,
            Trouble::Unreachable | Trouble::Failed | Trouble::Limited
        );
        assert_eq!(bench.there.asked("digest"), if passes { 1 } else { 2 });
        let status = match trouble {
            Trouble::Unreachable => 504,
            Trouble::Denied => 403,
            Trouble::Limited => 429,
            _ => 502,
        };
        let missing = bench.door.get("/v2/hub/library/x/manifests/2").await;
        assert!(missing.expect(status).json()["errors"][0]["message"].is_string());
        bench.there.fail(None);
        bench.later(11);
        let reply = bench.door.get(path).await.expect(200);
        assert_eq!(reply.header("warning"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_remembered_for_a_moment() {
    let bench = Bench::new().await;
    let path = "/v2/hub/library/x/manifests/1";
    for _ in 0..3 {
        let reply = bench.door.get(path).await.expect(404);
        assert_eq!(reply.code(), "MANIFEST_UNKNOWN");
    }
    assert_eq!(bench.there.asked("manifest"), 1);
    let text = push_image(&bench.origin, "library/x", "1", b"one").await;
    let blob = format!("/v2/hub/library/x/blobs/{}", sha256(b"nothing"));
    for _ in 0..3 {
        assert_eq!(
            bench.door.get(&blob).await.expect(404).code(),
            "BLOB_UNKNOWN"
        );
    }
    assert_eq!(bench.there.asked("blob"), 1);
    bench.later(30);
    assert_eq!(bench.door.get(path).await.expect(200).body, text);
    // A tag that is removed there is gone here too, when its age is over.
    bench
        .origin
        .send("DELETE", "/v2/library/x/manifests/1", &[], "")
        .await
        .expect(202);
    bench.door.get(path).await.expect(200);
    bench.later(TTL);
    bench.door.get(path).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_kept_without_its_parts() {
    let bench = Bench::new().await;
    let one = push_image(&bench.origin, "library/x", "one", b"one").await;
    let two = push_image(&bench.origin, "library/x", "two", b"two").await;
    let entries = [&one, &two].map(|text| {
        let (digest, size) = (sha256(text.as_bytes()), text.len());
        format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size}}}"#)
    });
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    bench
        .origin
        .push_manifest("library/x", "all", &index)
        .await
        .expect(201);
    let head = bench
        .door
        .send("HEAD", "/v2/hub/library/x/manifests/all", &[], "")
        .await;
    assert_eq!(head.expect(200).header("content-type"), INDEX);
    let part = format!("/v2/hub/library/x/manifests/{}", sha256(one.as_bytes()));
    assert_eq!(bench.door.get(&part).await.expect(200).body, one);
    assert_eq!(bench.there.asked("manifest"), 2);
    assert!(!bench.has_file(&sha256(two.as_bytes())));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_verified() {
    let bench = Bench::new().await;
    let text = push_image(&bench.origin, "library/x", "1", b"one").await;
    let digest = sha256(text.as_bytes());
    bench.there.lies.store(true, Ordering::SeqCst);
    for target in ["1", digest.as_ref()] {
        let path = format!("/v2/hub/library/x/manifests/{target}");
        let message = bench.door.get(&path).await.expect(502).json();
        assert!(message.to_string().contains("bad manifest"), "{message}");
    }
    assert!(
        bench
            .here
            .repositories(Default::default())
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parameter_ns_says_whose_repository_it_is() {
    let bench = Bench::new().await;
    let text = push_image(&bench.origin, "library/x", "1", b"one").await;
    let path = "/v2/library/x/manifests/1?ns=docker.io";
    let reply = bench.door.get(path).await.expect(200);
    assert_eq!(reply.body, text);
    assert_eq!(reply.header("oci-namespace"), "docker.io");
    let blob = format!("/v2/library/x/blobs/{}?ns=docker.io", sha256(b"one"));
    assert_eq!(bench.door.get(&blob).await.expect(200).body, "one");
    let tags = bench
        .door
        .get("/v2/library/x/tags/list?ns=docker.io")
        .await
        .expect(200);
    assert_eq!(tags.json()["name"], "docker.io/library/x");
    // Our own repository of that name is not meant, and nobody else's is known.
    push_image(&bench.door, "library/x", "1", b"ours").await;
    assert_eq!(bench.door.get(path).await.expect(200).body, text);
    for (ns, status) in [
        ("elsewhere.example", 404),
        ("not%20a%20host", 400),
        ("", 200),
    ] {
        let path = format!("/v2/library/x/manifests/1?ns={ns}");
        let reply = bench.door.get(&path).await.expect(status);
        assert_eq!(reply.header("oci-namespace"), "");
    }
    let put = "/v2/library/x/blobs/uploads/?ns=docker.io";
    bench.door.send("POST", put, &[], "").await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_copy_answers_for_its_namespace_without_any_upstream() {
    let data = tempfile::tempdir().unwrap();
    let registry = super::door::open(data.path());
    let door = super::door::tcp(&registry).await;
    let kept = push_image(&door, "docker.io/library/x", "1", b"kept").await;
    let ours = push_image(&door, "library/x", "1", b"ours").await;
    let path = "/v2/library/x/manifests/1";
    let reply = door.get(&format!("{path}?ns=docker.io")).await.expect(200);
    assert_eq!(
        (reply.body, reply.headers["oci-namespace"].to_str().unwrap()),
        (kept.into(), "docker.io")
    );
    for ns in ["other.example", "%20"] {
        let reply = door.get(&format!("{path}?ns={ns}")).await.expect(200);
        assert_eq!(reply.body, ours);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushing_works_beside_the_mirror() {
    let bench = Bench::new().await;
    let theirs = push_image(&bench.origin, "library/x", "1", b"theirs").await;
    let path = "/v2/library/x/manifests/1";
    // As dockerd asks its registry-mirrors: no namespace, no prefix.
    assert_eq!(bench.door.get(path).await.expect(200).body, theirs);
    // A push asks first what is here; what is elsewhere does not count.
    let layer = format!("/v2/library/x/blobs/{}", sha256(b"theirs"));
    bench.door.send("HEAD", &layer, &[], "").await.expect(404);
    bench.door.get(&layer).await.expect(200);
    let ours = push_image(&bench.door, "library/x", "1", b"theirs, changed").await;
    assert_eq!(bench.door.get(path).await.expect(200).body, ours);
    bench
        .door
        .get("/v2/library/x/manifests/2")
        .await
        .expect(404);
    let asked = bench.there.asked("manifest");
    assert_eq!(
        bench
            .door
            .get("/v2/hub/library/x/manifests/1")
            .await
            .expect(200)
            .body,
        theirs
    );
    assert_eq!(bench.there.asked("manifest"), asked);
    for (method, path) in [
        ("PUT", "/v2/docker.io/library/x/manifests/1"),
        ("DELETE", "/v2/hub/library/x/manifests/1"),
        ("POST", "/v2/hub/library/y/blobs/uploads/"),
    ] {
        bench.door.send(method, path, &[], "").await.expect(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_made_by_hand_stands() {
    let bench = Bench::new().await;
    push_image(&bench.origin, "library/x", "1", b"theirs").await;
    let ours = image(&sha256(b"{}"), &[], "");
    let put = registry::service::ManifestPut {
        target: &"1".parse().unwrap(),
        tags: &[],
        media_type: None,
        bytes: ours.as_bytes(),
        references: registry::service::References::Sparse,
    };
    let name = "docker.io/library/x".parse().unwrap();
    bench.here.put_manifest(&name, &put).unwrap();
    for _ in 0..2 {
        let reply = bench
            .door
            .get("/v2/hub/library/x/manifests/1")
            .await
            .expect(200);
        assert_eq!(reply.body, ours);
        bench.later(10 * TTL);
    }
    assert_eq!(bench.there.asked("digest"), 0);
}
