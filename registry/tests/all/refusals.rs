//! What is refused, with which status and code; as a table.

use registry::digest::{Algorithm, digest_of};
use registry::service::{Policy, Registry};

use super::door::{doors, open, options};

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let hash = format!("sha256:{}", "0".repeat(64));
    let session = "/v2/a/blobs/uploads/00000000-0000-4000-a000-000000000000";
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    for door in doors(&registry).await {
        let location = door.start("a").await;
        for (method, path, headers, body, status, code) in [
            ("GET", "/v2/a", vec![], "", 404, "UNSUPPORTED"),
            ("DELETE", "/v2/", vec![], "", 405, "UNSUPPORTED"),
            ("PUT", "/v2/a/tags/list", vec![], "", 405, "UNSUPPORTED"),
            (
                "POST",
                "/v2/A/blobs/uploads/",
                vec![],
                "",
                400,
                "NAME_INVALID",
            ),
            (
                "GET",
                "/v2/a/blobs/sha256:xyz",
                vec![],
                "",
                400,
                "DIGEST_INVALID",
            ),
            (
                "GET",
                &format!("/v2/a/blobs/{hash}"),
                vec![],
                "",
                404,
                "BLOB_UNKNOWN",
            ),
            (
                "DELETE",
                &format!("/v2/a/blobs/{hash}"),
                vec![],
                "",
                404,
                "BLOB_UNKNOWN",
            ),
            (
                "GET",
                &format!("/v2/a/manifests/{hash}"),
                vec![],
                "",
                404,
                "MANIFEST_UNKNOWN",
            ),
            (
                "DELETE",
                "/v2/a/manifests/tag",
                vec![],
                "",
                404,
                "MANIFEST_UNKNOWN",
            ),
            (
                "GET",
                "/v2/a/referrers/nonsense",
                vec![],
                "",
                400,
                "DIGEST_INVALID",
            ),
            (
                "POST",
                "/v2/a/blobs/uploads/?digest=nonsense",
                vec![],
                "x",
                400,
                "DIGEST_INVALID",
            ),
            (
                "POST",
                &format!("/v2/a/blobs/uploads/?digest={hash}"),
                vec![],
                "x",
                400,
                "DIGEST_INVALID",
            ),
            (
                "POST",
                "/v2/a/blobs/uploads/?digest-algorithm=md5",
                vec![],
                "",
                400,
                "DIGEST_INVALID",
            ),
            (
                "POST",
                "/v2/a/blobs/uploads/?mount=nonsense",
                vec![],
                "",
                400,
                "DIGEST_INVALID",
            ),
            ("PATCH", session, vec![], "x", 404, "BLOB_UPLOAD_UNKNOWN"),
            (
                "PUT",
                &format!("{session}?digest={hash}"),
                vec![],
                "x",
                404,
                "BLOB_UPLOAD_UNKNOWN",
            ),
            ("DELETE", session, vec![], "", 404, "BLOB_UPLOAD_UNKNOWN"),
            (
                "GET",
                &location.replace("/v2/a/", "/v2/b/"),
                vec![],
                "",
                404,
                "BLOB_UPLOAD_UNKNOWN",
            ),
            ("PUT", &location, vec![], "x", 400, "DIGEST_INVALID"),
            (
                "PATCH",
                &location,
                vec![("content-range", "x")],
                "x",
                400,
                "BLOB_UPLOAD_INVALID",
            ),
            (
                "PUT",
                "/v2/a/manifests/-",
                vec![],
                "{}",
                400,
                "MANIFEST_INVALID",
            ),
            (
                "PUT",
                "/v2/a/manifests/t",
                vec![("content-type", manifest)],
                "no json",
                400,
                "MANIFEST_INVALID",
            ),
            (
                "PUT",
                "/v2/a/manifests/t",
                vec![("content-type", "text/plain")],
                r#"{"schemaVersion":2}"#,
                400,
                "MANIFEST_INVALID",
            ),
            (
                "PUT",
                &format!("/v2/a/manifests/{hash}"),
                vec![("content-type", manifest)],
                r#"{"schemaVersion":2}"#,
                400,
                "DIGEST_INVALID",
            ),
        ] {
            let reply = door.send(method, path, &headers, body.to_owned()).await;
            assert_eq!(
                (reply.status.as_u16(), reply.code().as_str()),
                (status, code),
                "{method} {path}"
            );
        }
        door.send("DELETE", &location, &[], "").await.expect(204);
        door.get(&location).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_have_a_size_limit() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let sized = |bytes: usize| {
            let frame = r#"{"schemaVersion":2,"annotations":{"a":""}}"#.len();
            format!(
                r#"{{"schemaVersion":2,"annotations":{{"a":"{}"}}}}"#,
                "x".repeat(bytes - frame)
            )
        };
        door.push_manifest("sized", "fits", &sized(4 * 1024 * 1024))
            .await
            .expect(201);
        let reply = door
            .push_manifest("sized", "not", &sized(5 * 1024 * 1024))
            .await
            .expect(413);
        assert_eq!(reply.code(), "SIZE_INVALID");
    }
}

/// Names that only the process itself writes: pulls go on, everything else is denied.
#[tokio::test(flavor = "multi_thread")]
async fn guarded_names_are_read_only() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        guard: |name| name.as_str().starts_with("kept/").then_some("hands off"),
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    let bytes = b"bytes";
    let digest = digest_of(Algorithm::Sha256, bytes);
    registry
        .store()
        .blobs()
        .put(bytes, Algorithm::Sha256)
        .unwrap();
    let kept = "kept/a".parse().unwrap();
    assert!(registry.link_blob(&kept, &digest).unwrap());
    let session = registry.start_upload(&kept, Algorithm::Sha256).unwrap();
    for door in doors(&registry).await {
        let blob = format!("/v2/kept/a/blobs/{digest}");
        for (method, path) in [
            ("POST", "/v2/kept/a/blobs/uploads/".to_owned()),
            (
                "POST",
                format!("/v2/kept/a/blobs/uploads/?mount={digest}&from=x"),
            ),
            ("POST", format!("/v2/kept/a/blobs/uploads/?digest={digest}")),
            ("PATCH", format!("/v2/kept/a/blobs/uploads/{session}")),
            (
                "PUT",
                format!("/v2/kept/a/blobs/uploads/{session}?digest={digest}"),
            ),
            ("DELETE", format!("/v2/kept/a/blobs/uploads/{session}")),
            ("PUT", "/v2/kept/a/manifests/latest".to_owned()),
            ("DELETE", "/v2/kept/a/manifests/latest".to_owned()),
            ("DELETE", blob.clone()),
        ] {
            let reply = door.send(method, &path, &[], bytes.to_vec()).await;
            assert_eq!(reply.status, 403, "{method} {path}");
            let text = String::from_utf8_lossy(&reply.body);
            assert!(
                text.contains("DENIED") && text.contains("hands off"),
                "{text}"
            );
        }
        let reply = door.send("GET", &blob, &[], Vec::new()).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &bytes[..]));
        door.start("other").await;
    }
}
