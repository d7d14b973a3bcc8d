//! Every malformed request that the specification can name, beside those of `refusals`: its status,
//! its code, and the headers that go with it.

use registry::service::{Policy, Registry};

use super::door::{Door, INDEX, MANIFEST, doors, image, open, options, push_image, sha256};

/// Method, path, headers, body; status and code.
type Case<'a> = (
    &'a str,
    String,
    Vec<(&'a str, String)>,
    String,
    u16,
    &'a str,
);

async fn check(door: &Door, cases: Vec<Case<'_>>) {
    for (method, path, headers, body, status, code) in cases {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let reply = door.send(method, &path, &headers, body).await;
        let found = (reply.status.as_u16(), reply.code());
        assert_eq!(found, (status, code.to_owned()), "{method} {path}");
        assert_eq!(reply.header("content-type"), "application/json");
        let error = &reply.json()["errors"][0];
        assert!(error["message"].is_string(), "{error}");
    }
}

fn get<'a>(path: impl Into<String>, status: u16, code: &'a str) -> Case<'a> {
    ("GET", path.into(), vec![], String::new(), status, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_references() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let hash = sha256(b"nothing").to_string();
    let long = "a".repeat(256);
    for door in doors(&registry).await {
        push_image(&door, "a", "v1", b"layer").await;
        let mut cases = Vec::new();
        for name in [
            "A", "a//b", "a/", "-a", "a..b", "a/../b", "a_-b", "%2e%2e", &long,
        ] {
            cases.push(get(format!("/v2/{name}/tags/list"), 400, "NAME_INVALID"));
            cases.push(get(format!("/v2/{name}/manifests/v1"), 400, "NAME_INVALID"));
            cases.push(get(format!("/v2/{name}/blobs/{hash}"), 400, "NAME_INVALID"));
            cases.push(get(
                format!("/v2/{name}/referrers/{hash}"),
                400,
                "NAME_INVALID",
            ));
            let uploads = format!("/v2/{name}/blobs/uploads/");
            cases.push(("POST", uploads, vec![], String::new(), 400, "NAME_INVALID"));
        }
        for digest in [
            "sha256:".to_owned(),
            "sha256:abc".to_owned(),
            hash.to_uppercase(),
            hash.replace("sha256", "md5"),
            hash.replace("sha256", "sha512"),
            format!("{hash}0"),
            hash.replace(':', "-"),
        ] {
            cases.push(get(format!("/v2/a/blobs/{digest}"), 400, "DIGEST_INVALID"));
            cases.push(get(
                format!("/v2/a/referrers/{digest}"),
                400,
                "DIGEST_INVALID",
            ));
        }
        for tag in ["-a", ".a", &"t".repeat(129), "a%20b", "a+b"] {
            cases.push(get(
                format!("/v2/a/manifests/{tag}"),
                400,
                "MANIFEST_INVALID",
            ));
        }
        cases.extend([
            get("/v2/nothing/tags/list", 404, "NAME_UNKNOWN"),
            get("/v2/a/tags/list?n=x", 400, "UNSUPPORTED"),
            get("/v2/a/tags/list?n=-1", 400, "UNSUPPORTED"),
            get("/v2/_catalog?n=1e3", 400, "UNSUPPORTED"),
            get(
                format!("/v2/a/referrers/{hash}?last=x"),
                400,
                "DIGEST_INVALID",
            ),
            get("/v2/a/manifests/v2", 404, "MANIFEST_UNKNOWN"),
            get(format!("/v2/a/manifests/{hash}"), 404, "MANIFEST_UNKNOWN"),
            get(format!("/v2/a/blobs/{hash}"), 404, "BLOB_UNKNOWN"),
            get("/v2/a/blobs/uploads/nothing", 404, "BLOB_UPLOAD_UNKNOWN"),
            get("/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
            get("/v2/a/nothing", 404, "UNSUPPORTED"),
            get(
                format!("/v2/{}/tags/list", "a/".repeat(600)),
                404,
                "UNSUPPORTED",
            ),
        ]);
        for (method, path) in [
            ("POST", "/v2/a/manifests/v1".to_owned()),
            ("PATCH", format!("/v2/a/blobs/{hash}")),
            ("DELETE", "/v2/a/tags/list".to_owned()),
            ("PUT", format!("/v2/a/referrers/{hash}")),
            ("POST", "/v2/_catalog".to_owned()),
            ("TRACE", "/v2/".to_owned()),
        ] {
            cases.push((method, path, vec![], String::new(), 405, "UNSUPPORTED"));
        }
        check(&door, cases).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let text = push_image(&door, "a", "v1", b"layer").await;
        let digest = sha256(text.as_bytes());
        let absent = sha256(b"absent");
        let put = |reference: &str, kind: &str, body: &str, status, code| {
            let path = format!("/v2/a/manifests/{reference}");
            let headers = vec![("content-type", kind.to_owned())];
            ("PUT", path, headers, body.to_owned(), status, code)
        };
        let bad = |body: &str| put("t", MANIFEST, body, 400, "MANIFEST_INVALID");
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{absent}","size":1}}]}}"#
        );
        let many: Vec<_> = (0..33_000)
            .map(|n| format!(r#"{{"digest":"sha256:{n:064x}"}}"#))
            .collect();
        let many = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, many.join(","));
        let tags = "&tag=t".repeat(65);
        check(
            &door,
            vec![
                bad(""),
                bad("null"),
                bad("{\"schemaVersion\":2"),
                bad(r#"{"schemaVersion":1}"#),
                bad(r#"{"schemaVersion":"2"}"#),
                bad("{}"),
                bad(r#"{"schemaVersion":2,"layers":{}}"#),
                bad(r#"{"schemaVersion":2,"layers":[{}]}"#),
                bad(r#"{"schemaVersion":2,"config":{"digest":"sha256:xyz"}}"#),
                bad(r#"{"schemaVersion":2,"subject":{"digest":"md5:00"}}"#),
                bad(&many),
                // The body says what it is.
                put("t", INDEX, &text, 400, "MANIFEST_INVALID"),
                put("t", "application/json", &text, 400, "MANIFEST_INVALID"),
                put(absent.as_ref(), MANIFEST, &text, 400, "DIGEST_INVALID"),
                put("sha256:xyz", MANIFEST, &text, 400, "DIGEST_INVALID"),
                put("t?tag=u", MANIFEST, &text, 400, "MANIFEST_INVALID"),
                put(
                    &format!("{digest}?tag=-"),
                    MANIFEST,
                    &text,
                    400,
                    "MANIFEST_INVALID",
                ),
                put(
                    &format!("{digest}?{tags}"),
                    MANIFEST,
                    &text,
                    414,
                    "UNSUPPORTED",
                ),
                put("t", INDEX, &index, 404, "MANIFEST_BLOB_UNKNOWN"),
                put(
                    "t",
                    MANIFEST,
                    &image(&absent, &[], ""),
                    404,
                    "MANIFEST_BLOB_UNKNOWN",
                ),
                (
                    "DELETE",
                    format!("/v2/a/manifests/{absent}"),
                    vec![],
                    String::new(),
                    404,
                    "MANIFEST_UNKNOWN",
                ),
            ],
        )
        .await;
        door.get("/v2/a/manifests/t").await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        max_blob: 1000,
        max_sessions: 3,
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    for door in doors(&registry).await {
        let location = door.start("a").await;
        let digest = sha256(b"0123456789");
        let patch = |range: &str, body: &str, status, code| {
            let headers = vec![("content-range", range.to_owned())];
            let body = body.to_owned();
            ("PATCH", location.clone(), headers, body, status, code)
        };
        let put = |query: &str| format!("{location}{query}");
        let large = "x".repeat(1001);
        let post = format!("/v2/a/blobs/uploads/?digest={}", sha256(large.as_bytes()));
        check(
            &door,
            vec![
                patch("0", "0123456789", 400, "BLOB_UPLOAD_INVALID"),
                patch("0-", "0123456789", 400, "BLOB_UPLOAD_INVALID"),
                patch("9-0", "0123456789", 400, "BLOB_UPLOAD_INVALID"),
                patch("bytes 0-9/10", "0123456789", 400, "BLOB_UPLOAD_INVALID"),
                patch("0-18446744073709551615", "0", 400, "BLOB_UPLOAD_INVALID"),
                patch("0-8", "0123456789", 400, "SIZE_INVALID"),
                patch("5-14", "0123456789", 416, "BLOB_UPLOAD_INVALID"),
                patch("0-1000", &large, 413, "SIZE_INVALID"),
                (
                    "PATCH",
                    location.clone(),
                    vec![],
                    large.clone(),
                    413,
                    "SIZE_INVALID",
                ),
                ("POST", post, vec![], large.clone(), 413, "SIZE_INVALID"),
                ("PUT", put(""), vec![], String::new(), 400, "DIGEST_INVALID"),
                (
                    "PUT",
                    put("?digest="),
                    vec![],
                    String::new(),
                    400,
                    "DIGEST_INVALID",
                ),
                (
                    "PUT",
                    put("?digest=md5:00"),
                    vec![],
                    String::new(),
                    400,
                    "DIGEST_INVALID",
                ),
                (
                    "PUT",
                    put(&format!("?digest={digest}")),
                    vec![("content-range", "3-12".to_owned())],
                    "0123456789".to_owned(),
                    416,
                    "BLOB_UPLOAD_INVALID",
                ),
                (
                    "POST",
                    location.clone(),
                    vec![],
                    String::new(),
                    405,
                    "UNSUPPORTED",
                ),
            ],
        )
        .await;
        // None of them changed the session, and a 416 says where it stands.
        assert_eq!(door.get(&location).await.expect(204).header("range"), "0-0");
        // Content that is something else ends it.
        let wrong = put(&format!("?digest={digest}"));
        let reply = door.send("PUT", &wrong, &[], "other").await.expect(400);
        assert_eq!(reply.code(), "DIGEST_INVALID");
        door.get(&location).await.expect(404);
        // So many sessions and no more.
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(door.start("a").await);
        }
        let uploads = "/v2/a/blobs/uploads/";
        let reply = door.send("POST", uploads, &[], "").await.expect(429);
        assert_eq!(reply.code(), "TOOMANYREQUESTS");
        assert!(reply.header("retry-after").parse::<u32>().is_ok());
        for location in open {
            door.send("DELETE", &location, &[], "").await.expect(204);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let digest = door.push_blob("a", b"0123456789").await;
        let path = format!("/v2/a/blobs/{digest}");
        for range in ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=10-20"] {
            let reply = door.send("GET", &path, &[("range", range)], "").await;
            assert_eq!(reply.header("content-range"), "bytes */10");
            assert_eq!(reply.expect(416).code(), "SIZE_INVALID", "{range}");
        }
        // No range at all: ignored (RFC 9110, section 14.2).
        for range in [
            "bytes",
            "bytes=",
            "bytes=a-b",
            "bytes=1",
            "lines=1-2",
            "0-1",
        ] {
            let reply = door.send("GET", &path, &[("range", range)], "").await;
            assert_eq!(reply.expect(200).body, "0123456789", "{range}");
        }
    }
}
