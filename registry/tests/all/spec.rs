//! The specification's sentences that no other room tests: every location serves what it names,
//! wrong digests on every way to push, sha512 throughout, warnings, conditions, sparse manifests.

use registry::digest::{Algorithm, Digest, digest_of};
use registry::service::{Policy, Registry};

use super::door::{INDEX, MANIFEST, doors, image, open, options, push_image, sha256, tcp};

fn sha512(content: &[u8]) -> Digest {
    digest_of(Algorithm::Sha512, content)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_location_serves_what_it_names() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("located{number}");
        let content = format!("content {number}");
        for digest in [sha256(content.as_bytes()), sha512(content.as_bytes())] {
            let posted = format!("/v2/{repo}/post/blobs/uploads/?digest={digest}");
            let posted = door.send("POST", &posted, &[], content.clone()).await;
            let session = door.start(&format!("{repo}/put")).await;
            let put = format!("{session}?digest={digest}");
            let put = door.send("PUT", &put, &[], content.clone()).await;
            let mount = format!("/v2/{repo}/to/blobs/uploads/?mount={digest}&from={repo}/put");
            let mounted = door.send("POST", &mount, &[], "").await;
            let anyone = format!("/v2/{repo}/any/blobs/uploads/?mount={digest}");
            let anyone = door.send("POST", &anyone, &[], "").await;
            for reply in [posted, put, mounted, anyone] {
                let reply = reply.expect(201);
                assert_eq!(reply.header("docker-content-digest"), digest.to_string());
                let found = door.get(reply.header("location")).await.expect(200);
                assert_eq!(found.body, content);
                assert_eq!(found.header("docker-content-digest"), digest.to_string());
            }
        }
        let text = push_image(&door, &repo, "v1", b"layer").await;
        let reply = door.push_manifest(&repo, "v2", &text).await.expect(201);
        let found = door.get(reply.header("location")).await.expect(200);
        assert_eq!(found.body, text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_is_refused_on_every_way_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let other = format!("sha256:{}", "0".repeat(64));
    for door in doors(&registry).await {
        for digest in [other.as_str(), "sha256:nonsense", "md5:00", "nonsense", ""] {
            let post = format!("/v2/wrong/blobs/uploads/?digest={digest}");
            let whole = door.send("POST", &post, &[], "content").await;
            assert_eq!(whole.expect(400).code(), "DIGEST_INVALID", "{digest}");
            let put = format!("{}?digest={digest}", door.start("wrong").await);
            let put = door.send("PUT", &put, &[], "content").await;
            assert_eq!(put.expect(400).code(), "DIGEST_INVALID", "{digest}");
            let session = door.start("wrong").await;
            door.send("PATCH", &session, &[("content-range", "0-6")], "content")
                .await
                .expect(202);
            let close = format!("{session}?digest={digest}");
            let closed = door.send("PUT", &close, &[], "").await;
            assert_eq!(closed.expect(400).code(), "DIGEST_INVALID", "{digest}");
        }
        let path = format!("/v2/wrong/blobs/{}", sha256(b"content"));
        door.get(&path).await.expect(404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_as_good_as_sha256() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("long{number}");
        let config = sha512(b"{}");
        let start = format!("/v2/{repo}/blobs/uploads/?digest-algorithm=sha512");
        let session = door.send("POST", &start, &[], "").await.expect(202);
        let location = session.header("location");
        door.send("PATCH", location, &[], "{}").await.expect(202);
        let close = format!("{location}?digest={config}");
        door.send("PUT", &close, &[], "").await.expect(201);
        let text = image(&config, &[], "");
        let digest = sha512(text.as_bytes());
        let pushed = door
            .push_manifest(&repo, &format!("{digest}?tag=one&tag=two"), &text)
            .await
            .expect(201);
        assert_eq!(pushed.header("docker-content-digest"), digest.to_string());
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{}}}]}}"#,
            text.len()
        );
        let of_index = sha512(index.as_bytes());
        door.push_manifest(&repo, of_index.as_ref(), &index)
            .await
            .expect(201);
        for (reference, digest, text) in [
            ("one", &digest, &text),
            ("two", &digest, &text),
            (digest.as_ref(), &digest, &text),
            (of_index.as_ref(), &of_index, &index),
        ] {
            let path = format!("/v2/{repo}/manifests/{reference}");
            for method in ["GET", "HEAD"] {
                let reply = door.send(method, &path, &[], "").await.expect(200);
                assert_eq!(reply.header("docker-content-digest"), digest.to_string());
                assert_eq!(reply.header("content-length"), text.len().to_string());
            }
        }
        door.send("DELETE", &format!("/v2/{repo}/manifests/{digest}"), &[], "")
            .await
            .expect(202);
        for tag in ["one", "two"] {
            door.get(&format!("/v2/{repo}/manifests/{tag}"))
                .await
                .expect(404);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_every_shape_come_back_as_they_are() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("shapes{number}");
        let config = door.push_blob(&repo, b"{}").await;
        let plain = push_image(&door, &repo, "child", b"layer").await;
        let child = sha256(plain.as_bytes());
        let descriptor = |digest: &Digest, size: usize, extra: &str| {
            format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":{size}{extra}}}"#)
        };
        let index = |manifests: &str, extra: &str| {
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{manifests}]{extra}}}"#
            )
        };
        let one = descriptor(&child, plain.len(), "");
        let inner = index(&one, "");
        let nested = format!(
            r#"{{"mediaType":"{INDEX}","digest":"{}","size":{}}}"#,
            sha256(inner.as_bytes()),
            inner.len()
        );
        let data = descriptor(&config, 2, r#","data":"e30=""#);
        let docker = plain
            .replace(
                MANIFEST,
                "application/vnd.docker.distribution.manifest.v2+json",
            )
            .replace('\n', "\r\n\t");
        for (name, text) in [
            ("no-layers", image(&config, &[], "")),
            ("empty-index", index("", "")),
            ("index", inner.clone()),
            ("nested", index(&nested, "")),
            ("data", index(&data, "")),
            (
                "fields",
                index(&one, r#","org.example":{"b":1.50,"a":[null]}"#),
            ),
            ("docker", docker),
        ] {
            door.push_manifest(&repo, name, &text).await.expect(201);
            for reference in [name, sha256(text.as_bytes()).as_ref()] {
                let path = format!("/v2/{repo}/manifests/{reference}");
                let reply = door.get(&path).await.expect(200);
                assert_eq!(reply.body, text, "{name}");
                let typed: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(reply.header("content-type"), typed["mediaType"], "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_manifest_says_how_much_is_missing() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        sparse: vec!["mirror/**".parse().unwrap()],
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("mirror/{number}");
        let text = image(&sha256(b"{}"), &[&sha256(b"layer")], "");
        for (pushed, told) in [(&b""[..], "2 of"), (b"{}", "1 of"), (b"layer", "")] {
            door.push_blob(&repo, pushed).await;
            let reply = door.push_manifest(&repo, "v1", &text).await.expect(201);
            let warning = reply.header("warning");
            assert!(warning.contains(told), "{warning}");
            assert_eq!(warning.is_empty(), told.is_empty(), "{warning}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authors_of_odd_manifests_are_warned() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let typeless = r#"{"schemaVersion":2,"manifests":[]}"#;
    let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[]}}"#);
    let artifact = r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#;
    for door in doors(&registry).await {
        for (text, told) in [
            (typeless, "no mediaType"),
            (typed.as_str(), ""),
            (artifact, "deprecated"),
        ] {
            let parsed: serde_json::Value = serde_json::from_str(text).unwrap();
            let kind = parsed["mediaType"].as_str().unwrap_or(INDEX);
            // Parameters are ignored, and not answered.
            let header = format!("{kind}; charset=utf-8");
            let headers = [("content-type", header.as_str())];
            let path = "/v2/warned/manifests/v1";
            let reply = door.send("PUT", path, &headers, text.to_owned()).await;
            let reply = reply.expect(201);
            assert!(
                reply.header("warning").contains(told),
                "{:?}",
                reply.headers
            );
            assert_eq!(reply.headers.contains_key("warning"), !told.is_empty());
            let found = door.get(path).await.expect(200);
            assert_eq!(found.header("content-type"), kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_follow_the_rules_of_their_descriptors() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("rules{number}");
        let config = door.push_blob(&repo, b"{}").await;
        let later = image(&config, &[], r#","annotations":{"is":"the subject"}"#);
        let subject = sha256(later.as_bytes());
        let of = format!(r#""subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1}}"#);
        // An empty type counts as none: the configuration's is taken. An index has no such.
        let untyped = image(&config, &[], &format!(r#","artifactType":"",{of}"#));
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],{of}}}"#);
        for text in [&untyped, &index] {
            let digest = sha256(text.as_bytes());
            let reply = door.push_manifest(&repo, digest.as_ref(), text).await;
            assert_eq!(reply.expect(201).header("oci-subject"), subject.to_string());
        }
        // A client that knew no referrers API has kept the list itself: both are served.
        let list = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":1}}]}}"#,
            sha256(untyped.as_bytes())
        );
        let tag = subject.to_string().replace(':', "-");
        door.push_manifest(&repo, &tag, &list).await.expect(201);
        // The subject comes last.
        door.push_manifest(&repo, "v1", &later).await.expect(201);
        let path = format!("/v2/{repo}/referrers/{subject}");
        let found = door.get(&path).await.expect(200).json();
        let all = found["manifests"].as_array().unwrap();
        assert_eq!(all.len(), 2, "{found}");
        for descriptor in all {
            let kind = descriptor.get("artifactType");
            if descriptor["mediaType"] == INDEX {
                assert_eq!(kind, None, "{found}");
            } else {
                let expected = "application/vnd.oci.image.config.v1+json";
                assert_eq!(kind.unwrap(), expected, "{found}");
            }
        }
        let kept = door.get(&format!("/v2/{repo}/manifests/{tag}")).await;
        assert_eq!(kept.expect(200).body, list);
        let none = door.get(&format!("{path}?artifactType=other")).await;
        assert_eq!(none.json()["manifests"], serde_json::json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_is_not_sent_again() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let text = push_image(&door, "known", "v1", b"layer").await;
        let blob = format!("/v2/known/blobs/{}", sha256(b"layer"));
        let manifest = "/v2/known/manifests/v1";
        for path in [blob.as_str(), manifest] {
            let etag = door.get(path).await.expect(200).header("etag").to_owned();
            let list = format!("\"x\", W/{etag}");
            for known in [etag.as_str(), "*", &list] {
                for method in ["GET", "HEAD"] {
                    let headers = [("if-none-match", known)];
                    let reply = door.send(method, path, &headers, "").await.expect(304);
                    assert!(reply.body.is_empty());
                    assert_eq!(reply.header("etag"), etag, "{method} {path}");
                }
            }
            let headers = [("if-none-match", "\"other\"")];
            door.send("GET", path, &headers, "").await.expect(200);
        }
        let gone = format!("/v2/known/manifests/{}", sha256(b"nothing"));
        let headers = [("if-none-match", "*")];
        door.send("GET", &gone, &headers, "").await.expect(404);
        drop(text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_told_the_right_ones() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let digest = sha256(b"x");
    for door in doors(&registry).await {
        let session = door.start("methods").await;
        for (path, allowed) in [
            ("/v2/", "GET, HEAD"),
            ("/v2/methods/tags/list", "GET, HEAD"),
            ("/v2/methods/blobs/uploads/", "POST"),
            (&format!("/v2/methods/blobs/{digest}"), "GET, HEAD, DELETE"),
            ("/v2/methods/manifests/v1", "GET, HEAD, PUT, DELETE"),
            (&session, "GET, HEAD, PATCH, PUT, DELETE"),
        ] {
            let reply = door.send("TRACE", path, &[], "").await.expect(405);
            assert_eq!(reply.header("allow"), allowed, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_of_referrers_are_paged() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let subject = sha256(b"popular");
    // Forty descriptors of 100 KB are more than one manifest may have.
    let filler = "x".repeat(100_000);
    let mut pushed = Vec::new();
    for number in 0..40 {
        let kind = ["example/a", "example/b"][number % 2];
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"artifactType":"{kind}",
            "subject":{{"mediaType":"m","digest":"{subject}","size":1}},"annotations":{{"n":"{number}","x":"{filler}"}}}}"#
        );
        let digest = sha256(text.as_bytes()).to_string();
        door.push_manifest("popular", &digest, &text)
            .await
            .expect(201);
        pushed.push(digest);
    }
    pushed.sort();
    for (query, count) in [("", 40), ("?artifactType=example/a", 20)] {
        let mut next = Some(format!("/v2/popular/referrers/{subject}{query}"));
        let (mut found, mut pages) = (Vec::new(), 0);
        while let Some(path) = next.take() {
            let reply = door.get(&path).await.expect(200);
            assert!(reply.body.len() <= 4 * 1024 * 1024);
            assert_eq!(
                reply.header("oci-filters-applied").is_empty(),
                query.is_empty()
            );
            for descriptor in reply.json()["manifests"].as_array().unwrap() {
                found.push(descriptor["digest"].as_str().unwrap().to_owned());
            }
            let link = reply.header("link");
            if !link.is_empty() {
                assert!(link.ends_with("; rel=\"next\""), "{link}");
                let path = link.strip_prefix('<').unwrap().split('>').next();
                next = path.map(str::to_owned);
            }
            pages += 1;
        }
        assert!(pages > 1, "{query}");
        assert_eq!(found.len(), count, "{query}");
        found.sort();
        assert!(found.iter().all(|digest| pushed.contains(digest)));
        found.dedup();
        assert_eq!(found.len(), count, "{query}: one comes twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_uploads_are_told_when_to_come_again() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        max_sessions: 2,
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    for door in doors(&registry).await {
        let (first, second) = (door.start("full").await, door.start("full").await);
        let start = "/v2/full/blobs/uploads/";
        let reply = door.send("POST", start, &[], "").await.expect(429);
        assert_eq!(reply.code(), "TOOMANYREQUESTS");
        assert_eq!(reply.header("retry-after"), "60");
        // A blob in one request needs no session.
        door.push_blob("full", b"whole").await;
        for session in [first, second] {
            door.send("DELETE", &session, &[], "").await.expect(204);
        }
        let session = door.start("full").await;
        door.send("DELETE", &session, &[], "").await.expect(204);
    }
}
