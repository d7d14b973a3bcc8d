//! What is refused, with which status and code; as a table.

use super::door::{doors, open};

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
