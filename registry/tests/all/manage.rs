//! The management API through the router: lists, one image, removal, the disk, and its document.

use config::name::Target;
use registry::http::manage::{self, Reach};
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use serde_json::{Value, json};

use super::door::{Door, INDEX, Reply, image, open, options, push_image, sha256};

fn door(registry: &Registry) -> Door {
    Door::Router(router(Front::new(registry.clone())))
}

fn json_of(reply: &Reply, status: u16) -> Value {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status.as_u16(), status, "{text}");
    reply.json()
}

async fn get(door: &Door, path: &str) -> Value {
    json_of(&door.get(path).await, 200)
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items
        .map(|item| item[key].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn repositories_and_tags_are_listed_in_pages() {
    let data = tempfile::tempdir().unwrap();
    let door = door(&open(data.path()));
    assert_eq!(
        get(&door, "/api/v1/repositories").await,
        json!({ "repositories": [] })
    );
    assert_eq!(get(&door, "/api/v1/images").await, json!({ "images": [] }));
    for name in ["a", "team/b", "team/c"] {
        for tag in ["1", "2", "3"] {
            push_image(&door, name, tag, format!("{name}{tag}").as_bytes()).await;
        }
    }
    for (path, list, key, count) in [
        ("/api/v1/repositories", "repositories", "name", 3),
        ("/api/v1/repositories/team%2Fb/tags", "tags", "tag", 3),
        ("/api/v1/repositories/team%2Fb/images", "images", "tag", 3),
        ("/api/v1/images", "images", "digest", 9),
    ] {
        let whole = names(&get(&door, path).await[list], key);
        assert_eq!(whole.len(), count, "{path}");
        let mut found = Vec::new();
        let mut next = Some(format!("{path}?n=2"));
        while let Some(path) = next {
            let reply = door.get(&path).await;
            let part = json_of(&reply, 200);
            assert!(part[list].as_array().unwrap().len() <= 2);
            found.extend(names(&part[list], key));
            let link = reply.header("link").to_owned();
            assert_eq!(link.is_empty(), part["next"].is_null(), "{path}");
            let target = link.strip_prefix('<').and_then(|rest| rest.split_once('>'));
            next = target.map(|(target, _)| target.to_owned());
        }
        assert_eq!(found, whole, "{path}");
    }
    let row = get(&door, "/api/v1/repositories/team%2Fb").await;
    assert_eq!(
        (&row["tags"], &row["manifests"], &row["blobs"]),
        (&json!(3), &json!(3), &json!(4))
    );
    assert!(row["pushed"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn an_image_tells_its_parts_and_what_it_shares() {
    let data = tempfile::tempdir().unwrap();
    let door = door(&open(data.path()));
    let config =
        br#"{"created":"2024-05-06T07:08:09Z","os":"linux","architecture":"arm64","variant":"v8"}"#;
    let config = door.push_blob("r", config).await;
    let base = door.push_blob("r", &[1; 1000]).await;
    let own = door.push_blob("r", &[2; 300]).await;
    let text = image(&config, &[&base, &own], "");
    door.push_manifest("r", "one", &text).await.expect(201);
    door.push_manifest("r", "again", &text).await.expect(201);
    let path = "/api/v1/repositories/r/images/one";
    let alone = get(&door, path).await;
    let size = text.len() as u64 + 85 + 1300;
    assert_eq!(alone["size"], size);
    assert_eq!(
        (&alone["uniqueBytes"], &alone["sharedBytes"]),
        (&json!(size), &json!(0))
    );
    assert_eq!(alone["created"], "2024-05-06T07:08:09Z");
    assert_eq!(
        alone["platforms"],
        json!([{"os":"linux","architecture":"arm64","variant":"v8"}])
    );
    assert_eq!(alone["tags"], json!(["again", "one"]));
    assert_eq!(
        names(&alone["layers"], "digest"),
        [base.to_string(), own.to_string()]
    );
    assert_eq!(alone["layers"][0]["size"], 1000);

    // Another image of the repository needs the first layer.
    let other = image(&config, &[&base], r#","annotations":{"n":"1"}"#);
    door.push_manifest("r", "two", &other).await.expect(201);
    let beside = get(&door, path).await;
    assert_eq!(beside["sharedBytes"], 1085);
    assert_eq!(beside["layers"][0]["shared"], true);
    assert_eq!(beside["layers"][1]["shared"], false);

    // Another repository has the second one.
    let mount = format!("/v2/else/blobs/uploads/?mount={own}&from=r");
    door.send("POST", &mount, &[], "").await.expect(201);
    assert_eq!(get(&door, path).await["uniqueBytes"], text.len());
    let by_digest = format!("/api/v1/repositories/r/images/{}", sha256(text.as_bytes()));
    let found = get(&door, &by_digest).await;
    assert!(found["tag"].is_null() && found["digest"] == alone["digest"]);
}

/// An index of one image that is here and one that is not, in a sparse registry.
#[tokio::test]
async fn an_index_tells_its_platforms_and_counts_children() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        sparse: vec!["**".parse().unwrap()],
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    let door = door(&registry);
    let text = push_image(&door, "r", "child", &[7; 500]).await;
    let (child, absent) = (sha256(text.as_bytes()), sha256(b"absent"));
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[
        {{"mediaType":"m","digest":"{child}","size":1,"platform":{{"os":"linux","architecture":"amd64"}}}},
        {{"mediaType":"m","digest":"{absent}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}}]}}"#
    );
    door.push_manifest("r", "multi", &index).await.expect(201);
    let found = get(&door, "/api/v1/repositories/r/images/multi").await;
    assert_eq!(found["platforms"][1]["architecture"], "s390x");
    assert_eq!(found["manifests"][0]["present"], true);
    assert_eq!(found["manifests"][1]["present"], false);
    let parts = (index.len() + text.len() + 2 + 500) as u64;
    assert_eq!(found["size"], parts);
    // The child has a tag of its own, so it would stay.
    assert_eq!(found["uniqueBytes"], index.len());
    door.send("DELETE", "/v2/r/manifests/child", &[], "")
        .await
        .expect(202);
    let found = get(&door, "/api/v1/repositories/r/images/multi").await;
    assert_eq!(found["uniqueBytes"], parts);
}

#[tokio::test]
async fn tags_images_and_repositories_are_removed() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = door(&registry);
    let text = push_image(&door, "a/b", "one", b"1").await;
    door.push_manifest("a/b", "two", &text).await.expect(201);
    let digest = sha256(text.as_bytes());
    let delete = async |path: &str| door.send("DELETE", path, &[], "").await;
    let path = "/api/v1/repositories/a%2Fb";
    assert_eq!(delete(&format!("{path}/tags/one")).await.status, 204);
    assert_eq!(
        json_of(&delete(&format!("{path}/tags/one")).await, 404)["errors"][0]["code"],
        "MANIFEST_UNKNOWN"
    );
    door.get("/v2/a/b/manifests/two").await.expect(200);
    assert_eq!(delete(&format!("{path}/images/{digest}")).await.status, 204);
    door.get("/v2/a/b/manifests/two").await.expect(404);
    for number in 0..300 {
        push_image(&door, "a/b", &format!("t{number}"), &[number as u8; 3]).await;
    }
    let removed = json_of(&delete(path).await, 200);
    assert_eq!(
        (&removed["name"], &removed["manifests"]),
        (&json!("a/b"), &json!(256))
    );
    assert_eq!(
        json_of(&delete(path).await, 404)["errors"][0]["code"],
        "NAME_UNKNOWN"
    );
    door.get("/v2/a/b/tags/list").await.expect(404);
    assert_eq!(registry.images().unwrap(), []);
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let door = door(&open(data.path()));
    for (method, path, body, status) in [
        ("GET", "/api/v1/repositories/UPPER", "", 400),
        ("GET", "/api/v1/repositories/..%2F..%2Fetc", "", 400),
        ("GET", "/api/v1/repositories/none", "", 404),
        ("GET", "/api/v1/repositories/none/tags", "", 404),
        ("GET", "/api/v1/repositories/none/images", "", 404),
        ("GET", "/api/v1/repositories/none/images/x", "", 404),
        ("GET", "/api/v1/repositories/a/images/sha256:12", "", 400),
        ("GET", "/api/v1/images?n=x", "", 400),
        ("GET", "/api/v1/nothing", "", 404),
        ("PUT", "/api/v1/images", "", 405),
        ("DELETE", "/api/v1/uploads/x", "", 404),
        (
            "DELETE",
            "/api/v1/uploads/01234567-89ab-4def-a123-456789abcdef",
            "",
            404,
        ),
        ("POST", "/api/v1/collections", "{\"dryrun\":true}", 400),
        ("POST", "/api/v1/collections", "nonsense", 400),
    ] {
        let headers = [("content-type", "application/json")];
        let reply = door.send(method, path, &headers, body).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}");
        assert!(!reply.code().is_empty(), "{method} {path}");
        assert_eq!(status == 405, !reply.header("allow").is_empty(), "{path}");
    }
    // A page of the web can post a form to us, but not JSON.
    let form = [("content-type", "text/plain")];
    let reply = door.send("POST", "/api/v1/collections", &form, "{}").await;
    assert_eq!(reply.status.as_u16(), 400);
}

#[tokio::test]
async fn the_network_and_guarded_names_are_kept_out() {
    let data = tempfile::tempdir().unwrap();
    let policy = Policy {
        guard: |name| name.as_str().starts_with("kept/").then_some("kept here"),
        ..Policy::default()
    };
    let registry = Registry::open(options(data.path()), policy).unwrap();
    let inside = door(&registry);
    push_image(&inside, "mine", "1", b"1").await;
    let target: Target = "1".parse().unwrap();
    let put = registry::service::ManifestPut {
        target: &target,
        tags: &[],
        media_type: None,
        bytes: br#"{"schemaVersion":2,"layers":[]}"#,
        references: registry::service::References::Required,
    };
    registry
        .put_manifest(&"kept/x".parse().unwrap(), &put)
        .unwrap();
    get(&inside, "/api/v1/repositories/kept%2Fx").await;
    for path in ["", "/tags/1", "/images/1"] {
        let path = format!("/api/v1/repositories/kept%2Fx{path}");
        let reply = inside.send("DELETE", &path, &[], "").await;
        assert_eq!(
            json_of(&reply, 403)["errors"][0]["message"],
            "kept here",
            "{path}"
        );
    }
    // Over the control socket the owner may.
    let owner = Door::Router(manage::owned(Front::new(registry.clone())));
    let reply = owner
        .send("DELETE", "/api/v1/repositories/kept%2Fx", &[], "")
        .await;
    assert_eq!(reply.status.as_u16(), 200);

    let mut front = Front::new(registry.clone());
    front.reach = Reach::Network;
    let outside = Door::Router(router(front.clone()));
    for path in [
        "/api/v1/images",
        "/api/v1/usage",
        "/api/v1/repositories/mine",
    ] {
        json_of(&outside.get(path).await, 403);
    }
    let reply = outside
        .send("DELETE", "/api/v1/repositories/mine", &[], "")
        .await;
    assert_eq!(reply.status.as_u16(), 403);
    let owner = Door::Router(manage::owned(front));
    get(&owner, "/api/v1/repositories/mine").await;
}

#[tokio::test]
async fn the_disk_and_uploads_are_told() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = door(&registry);
    push_image(&door, "r", "1", &[1; 5000]).await;
    let location = door.start("team/up").await;
    door.send("PATCH", &location, &[], "abc").await.expect(202);
    let usage = get(&door, "/api/v1/usage").await;
    assert_eq!(usage["content"]["count"], 3);
    assert!(usage["content"]["bytes"].as_u64().unwrap() > 5000);
    assert_eq!(usage["uploads"]["count"], 1);
    assert!(usage["indexBytes"].as_u64().unwrap() > 0 && usage["freeBytes"].as_u64().unwrap() > 0);
    let uploads = get(&door, "/api/v1/uploads").await;
    let one = &uploads["uploads"][0];
    assert_eq!(
        (&one["repository"], &one["received"]),
        (&json!("team/up"), &json!(3))
    );
    let session = one["session"].as_str().unwrap();
    assert!(location.ends_with(session));
    let path = format!("/api/v1/uploads/{session}");
    assert_eq!(door.send("DELETE", &path, &[], "").await.status, 204);
    door.get(&location).await.expect(404);
    assert_eq!(door.send("DELETE", &path, &[], "").await.status, 404);
    for dry in [true, false] {
        let headers = [("content-type", "application/json")];
        let body = json!({ "dryRun": dry }).to_string();
        let reply = door
            .send("POST", "/api/v1/collections", &headers, body)
            .await;
        let collected = json_of(&reply, 200);
        assert_eq!(
            collected,
            json!({"manifests":0,"links":0,"blobs":0,"bytes":0,"sessions":0})
        );
    }
    let events = get(&door, "/api/v1/events").await;
    assert_eq!(events, json!({"queued":0,"dropped":0,"webhooks":[]}));
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// A path of the document with something in its braces.
fn example(path: &str) -> String {
    path.replace("{repository}", "none")
        .replace("{reference}", "tag")
        .replace("{tag}", "tag")
        .replace("{session}", "01234567-89ab-4def-a123-456789abcdef")
}

#[tokio::test]
async fn the_document_describes_what_is_served_and_nothing_else() {
    let data = tempfile::tempdir().unwrap();
    let door = door(&open(data.path()));
    let document = get(&door, manage::OPENAPI).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(!document["info"]["title"].as_str().unwrap().is_empty());
    let mut documented = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for method in METHODS {
            let headers = [("content-type", "application/json")];
            let upper = method.to_uppercase();
            let reply = door.send(&upper, &example(path), &headers, "{}").await;
            let text = String::from_utf8_lossy(&reply.body);
            let served = reply.status != 405 && !text.contains("is no endpoint");
            assert_eq!(
                served,
                item.get(method).is_some(),
                "{method} {path}: {}",
                reply.status
            );
            documented += usize::from(served);
        }
        for (method, operation) in item.as_object().unwrap() {
            check_operation(&document, path, operation);
            assert!(METHODS.contains(&method.as_str()), "{method} {path}");
        }
    }
    // Every handler that has a description is registered.
    let sources = [
        include_str!("../../src/http/manage/mod.rs"),
        include_str!("../../src/http/manage/care.rs"),
        include_str!("../../src/http/manage/images.rs"),
        include_str!("../../src/http/manage/repositories.rs"),
        include_str!("../../src/http/manage/storage.rs"),
    ];
    let described: usize = sources
        .iter()
        .map(|text| text.matches("#[utoipa::path(").count())
        .sum();
    assert_eq!(documented, described);
}

fn check_operation(document: &Value, path: &str, operation: &Value) {
    assert!(!operation["summary"].as_str().unwrap().is_empty(), "{path}");
    assert!(
        !operation["operationId"].as_str().unwrap().is_empty(),
        "{path}"
    );
    let parameters = operation["parameters"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let in_path: Vec<&str> = parameters
        .iter()
        .filter(|parameter| parameter["in"] == "path")
        .map(|parameter| parameter["name"].as_str().unwrap())
        .collect();
    for segment in path.split('/').filter_map(|s| s.strip_prefix('{')) {
        assert!(in_path.contains(&segment.trim_end_matches('}')), "{path}");
    }
    for (status, response) in operation["responses"].as_object().unwrap() {
        let content = &response["content"]["application/json"]["schema"];
        if status == "204" {
            assert!(content.is_null());
            continue;
        }
        check_schema(document, content);
    }
}

/// Every reference leads somewhere.
fn check_schema(document: &Value, schema: &Value) {
    let text = schema.to_string();
    assert!(schema.is_object(), "{text}");
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
