//! Manifests, tags, listings, referrers, and the folder as an image layout.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use config::name::{RepositoryName, Tag, Target};
use registry::access::immutable::Immutable;
use registry::service::{Deleted, Listing, ManifestPut, Policy, References, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};

use super::guard::immutable;

use super::door::{INDEX, doors, image, open, options, push_image, sha256};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_type_come_back_as_they_were_pushed() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let text = push_image(&door, "team/app", "v1", b"layer").await;
        let digest = sha256(text.as_bytes());
        for reference in ["v1".to_owned(), digest.to_string()] {
            let path = format!("/v2/team/app/manifests/{reference}");
            let accept = [(
                "accept",
                "application/vnd.docker.distribution.manifest.v2+json",
            )];
            let reply = door.send("GET", &path, &accept, "").await.expect(200);
            assert_eq!(reply.body, text);
            assert_eq!(reply.header("content-type"), super::door::MANIFEST);
            let head = door.send("HEAD", &path, &[], "").await.expect(200);
            assert_eq!(head.header("content-length"), text.len().to_string());
            assert_eq!(head.header("docker-content-digest"), digest.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_push_by_digest_sets_many_tags() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let text = push_image(&door, "many", "first", b"layer").await;
        let digest = sha256(text.as_bytes());
        let reply = door
            .push_manifest("many", &format!("{digest}?tag=a&tag=b.1"), &text)
            .await
            .expect(201);
        let tags: Vec<_> = reply.headers.get_all("oci-tag").iter().collect();
        assert_eq!(tags, ["a", "b.1"]);
        for tag in ["a", "b.1"] {
            door.get(&format!("/v2/many/manifests/{tag}"))
                .await
                .expect(200);
        }
        door.push_manifest("many", "x?tag=a", &text)
            .await
            .expect(400);
        let flood = "&tag=t".repeat(65);
        door.push_manifest("many", &format!("{digest}?{flood}"), &text)
            .await
            .expect(414);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_needs_what_it_names() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let other = door.push_blob("elsewhere", b"only there").await;
        let repo = format!("needs{number}");
        let config = door.push_blob(&repo, b"{}").await;
        let text = image(&config, &[&other], "");
        let reply = door.push_manifest(&repo, "v1", &text).await.expect(404);
        assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(
            reply.json()["errors"][0]["detail"]["digests"][0],
            other.to_string()
        );
        door.get(&format!("/v2/{repo}/manifests/v1"))
            .await
            .expect(404);
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"m","digest":"{other}","size":1}}]}}"#
        );
        door.push_manifest(&repo, "v1", &index).await.expect(404);
        let foreign = text.replace(
            r#""size":1"#,
            r#""size":1,"urls":["https://example.com/l"]"#,
        );
        door.push_manifest(&repo, "v1", &foreign).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let doors = doors(&registry).await;
    for tag in ["b", "a", "c", "B"] {
        push_image(&doors[0], "paged/tags", tag, b"layer").await;
    }
    for repo in ["z", "m/n"] {
        doors[0].push_blob(repo, b"x").await;
    }
    for door in &doors {
        for (query, tags, link) in [
            ("", vec!["B", "a", "b", "c"], ""),
            (
                "?n=2",
                vec!["B", "a"],
                "</v2/paged/tags/tags/list?n=2&last=a>; rel=\"next\"",
            ),
            ("?n=2&last=a", vec!["b", "c"], ""),
            ("?last=aa", vec!["b", "c"], ""),
            ("?n=0", vec![], ""),
            ("?n=99999", vec!["B", "a", "b", "c"], ""),
        ] {
            let reply = door
                .get(&format!("/v2/paged/tags/tags/list{query}"))
                .await
                .expect(200);
            let expected = serde_json::json!({"name": "paged/tags", "tags": tags});
            assert_eq!(
                (reply.json(), reply.header("link")),
                (expected, link),
                "{query}"
            );
        }
        door.get("/v2/paged/tags/tags/list?n=-1").await.expect(400);
        assert_eq!(
            door.get("/v2/unknown/tags/list").await.expect(404).code(),
            "NAME_UNKNOWN"
        );
        let reply = door.get("/v2/_catalog?n=2").await.expect(200);
        assert_eq!(
            reply.json(),
            serde_json::json!({"repositories": ["m/n", "paged/tags"]})
        );
        assert_eq!(
            reply.header("link"),
            "</v2/_catalog?n=2&last=paged%2Ftags>; rel=\"next\""
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_digest_takes_its_tags_with_it() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in doors(&registry).await {
        let text = push_image(&door, "deleted", "one", b"layer").await;
        push_image(&door, "deleted", "two", b"layer").await;
        push_image(&door, "deleted", "other", b"another layer").await;
        let digest = sha256(text.as_bytes());
        let manifest = |reference: &str| format!("/v2/deleted/manifests/{reference}");
        door.send("DELETE", &manifest("one"), &[], "")
            .await
            .expect(202);
        door.get(&manifest("one")).await.expect(404);
        door.get(&manifest("two")).await.expect(200);
        door.send("DELETE", &manifest(digest.as_ref()), &[], "")
            .await
            .expect(202);
        for reference in ["two", digest.as_ref()] {
            let reply = door.get(&manifest(reference)).await.expect(404);
            assert_eq!(reply.code(), "MANIFEST_UNKNOWN");
        }
        let reply = door.get("/v2/deleted/tags/list").await.expect(200);
        assert_eq!(reply.json()["tags"], serde_json::json!(["other"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_by_subject_and_type() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for (number, door) in doors(&registry).await.into_iter().enumerate() {
        let repo = format!("refer{number}");
        let config = door.push_blob(&repo, b"{}").await;
        let subject = sha256(b"not pushed at all");
        let empty = door
            .get(&format!("/v2/{repo}/referrers/{subject}"))
            .await
            .expect(200);
        assert_eq!(empty.json()["manifests"], serde_json::json!([]));
        let of = format!(r#","subject":{{"mediaType":"m","digest":"{subject}","size":1}}"#);
        let plain = image(&config, &[], &of);
        let typed = image(
            &config,
            &[],
            &format!(r#"{of},"artifactType":"example/sbom+json","annotations":{{"k":"v"}}"#),
        );
        for text in [&plain, &typed] {
            let digest = sha256(text.as_bytes());
            let reply = door
                .push_manifest(&repo, digest.as_ref(), text)
                .await
                .expect(201);
            assert_eq!(reply.header("oci-subject"), subject.to_string());
        }
        let path = format!("/v2/{repo}/referrers/{subject}");
        let all = door.get(&path).await.expect(200);
        assert_eq!(all.header("content-type"), INDEX);
        assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
        let one = door
            .get(&format!("{path}?artifactType=example%2Fsbom%2Bjson"))
            .await
            .expect(200);
        assert_eq!(one.header("oci-filters-applied"), "artifactType");
        let expected = serde_json::json!([{
            "mediaType": super::door::MANIFEST, "digest": sha256(typed.as_bytes()),
            "size": typed.len(), "artifactType": "example/sbom+json", "annotations": {"k": "v"},
        }]);
        assert_eq!(one.json()["manifests"], expected);
        let gone = format!("/v2/{repo}/manifests/{}", sha256(typed.as_bytes()));
        door.send("DELETE", &gone, &[], "").await.expect(202);
        assert_eq!(
            door.get(&path).await.json()["manifests"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_an_image_layout() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let [door, _] = doors(&registry).await;
    let text = push_image(&door, "team/app", "v1", b"layer").await;
    drop(door);
    registry.store().export().unwrap();
    let content = data.path().join("content");
    let marker = std::fs::read_to_string(content.join("oci-layout")).unwrap();
    assert_eq!(marker, r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(content.join("index.json")).unwrap()).unwrap();
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        "team/app:v1"
    );
    let digest = entry["digest"].as_str().unwrap().replace(':', "/");
    assert_eq!(
        std::fs::read_to_string(content.join("blobs").join(digest)).unwrap(),
        text
    );
    let images = registry.images().unwrap();
    assert_eq!((images.len(), images[0].tag.as_str()), (1, "v1"));
}

#[tokio::test]
async fn only_named_repositories_take_sparse_manifests() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        sparse: vec!["mirror/**".parse().unwrap()],
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    for door in doors(&registry).await {
        let absent = sha256(b"nobody pushed this");
        let text = image(&absent, &[&absent], "");
        let refused = door.push_manifest("mine/a", "t", &text).await.expect(404);
        assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
        door.push_manifest("mirror/a", "t", &text).await.expect(201);
        let found = door.get("/v2/mirror/a/manifests/t").await.expect(200);
        assert_eq!(found.body, text);
        door.get(&format!("/v2/mirror/a/blobs/{absent}"))
            .await
            .expect(404);
    }
}

/// Nobody waits for the removal of all tags at once; both ways to remove their manifest do so.
#[test]
fn very_many_tags_go_in_several_transactions() {
    let data = tempfile::tempdir().unwrap();
    let commits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&commits);
    let steps = Steps::calling(move |step| {
        if step == Step::Committed {
            count.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    });
    let registry = Registry::open(
        Options {
            steps,
            ..options(data.path())
        },
        Policy::default(),
    )
    .unwrap();
    let name: RepositoryName = "many".parse().unwrap();
    let rules = immutable("**", &["v*"]);
    let tags: Vec<Tag> = (0..2500)
        .map(|n| format!("t{n}").parse().unwrap())
        .collect();
    let text = r#"{"schemaVersion":2,"layers":[]}"#;
    let digest = sha256(text.as_bytes());
    let put = ManifestPut {
        target: &Target::Digest(digest.clone()),
        tags: &tags,
        media_type: None,
        bytes: text.as_bytes(),
        references: References::Required,
    };
    let delete = |keep: &Immutable| registry.delete_manifest_keeping(&name, &digest, keep);
    for keep in [Immutable::default(), Immutable::new(&rules)] {
        registry.put_manifest(&name, &put).unwrap();
        commits.store(0, Ordering::SeqCst);
        assert_eq!(delete(&keep).unwrap(), Deleted::Done);
        assert_eq!(commits.load(Ordering::SeqCst), 3);
        assert_eq!(delete(&keep).unwrap(), Deleted::Absent);
        assert!(registry.tags(&name, Listing::default()).unwrap().is_none());
    }
    let held = "v1".parse::<Tag>().unwrap();
    registry.put_manifest(&name, &put).unwrap();
    assert!(registry.tag(&name, &held, &digest).unwrap());
    let refused = delete(&Immutable::new(&rules)).unwrap();
    assert!(matches!(refused, Deleted::Held { .. }));
    assert_eq!(registry.tag_rows(&name).unwrap().len(), 2501);
}
