//! Scrubs and retention through the management API.

use registry::http::{Front, router};
use serde_json::{Value, json};

use super::door::{Door, Reply, open, push_image, sha256};
use super::heal::damage;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn post(door: &Door, path: &str, body: &str) -> Reply {
    door.send("POST", path, &JSON, body.to_owned()).await
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_is_damaged_and_is_remembered() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry)));
    let before = json_of(&door.get("/api/v1/scrub").await);
    assert!(before.get("started").is_none(), "{before}");
    push_image(&door, "a", "1", b"layer").await;
    damage(data.path(), &sha256(b"layer"));
    let done = json_of(&post(&door, "/api/v1/scrub", r#"{"rate":0}"#).await);
    assert_eq!(
        (&done["checked"], &done["quarantined"]),
        (&json!(2), &json!(1))
    );
    // Not before this was written.
    let finished = done["finished"].as_str().unwrap_or_default();
    assert!(finished > "2025", "{done}");
    assert_eq!(json_of(&door.get("/api/v1/scrub").await), done);
    let path = format!("/v2/a/blobs/{}", sha256(b"layer"));
    door.get(&path).await.expect(404);
    door.push_blob("a", b"layer").await;
    let again = json_of(&post(&door, "/api/v1/scrub", "{}").await);
    assert_eq!(
        (&again["checked"], &again["missing"]),
        (&json!(3), &json!(0))
    );
    for wrong in ["", "1", r#"{"speed":1}"#, r#"{"rate":-1}"#] {
        assert_eq!(
            post(&door, "/api/v1/scrub", wrong).await.status,
            400,
            "{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_tells_before_it_acts() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let rule = config::registry::retention::Rule {
        repositories: "history".parse().unwrap(),
        tags: "t*".parse().unwrap(),
        keep_last: Some(1),
        keep_for: None,
        keep_pulled_for: None,
    };
    let front = Front {
        retention: [rule].into(),
        ..Front::new(registry)
    };
    let door = Door::Router(router(front));
    for tag in ["t1", "t2", "t3", "keep"] {
        push_image(&door, "history", tag, tag.as_bytes()).await;
    }
    let path = "/api/v1/retention";
    let told = json_of(&post(&door, path, r#"{"dryRun":true}"#).await);
    assert_eq!(told["tags"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["tags"][0]["rule"], 1);
    let tags = |list: Value| list["tags"].as_array().unwrap().len();
    assert_eq!(tags(door.get("/v2/history/tags/list").await.json()), 4);
    let done = json_of(&post(&door, path, "{}").await);
    assert_eq!(done, told);
    assert_eq!(tags(door.get("/v2/history/tags/list").await.json()), 2);
    assert_eq!(tags(json_of(&post(&door, path, "{}").await)), 0);
}
