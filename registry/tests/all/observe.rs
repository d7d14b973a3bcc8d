//! What is seen of requests from outside: ids, metrics, health.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::http::health::Health;
use registry::http::{Front, router};
use registry::store::index::ManifestRow;
use registry::store::index::manifests as rows;
use registry::store::index::manifests::NewManifest;

use super::door::{Door, open, push_image, sha256, unfinished};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    for door in super::door::doors(&registry).await {
        for path in [
            "/v2/",
            "/v2/none/tags/list",
            "/v2/%zz",
            "/api/v1/images",
            "/nothing",
            "/livez",
        ] {
            let reply = door.get(path).await;
            let made = reply.header("x-request-id").to_owned();
            assert!((1..=64).contains(&made.len()), "{path}");
            assert_ne!(door.get(path).await.header("x-request-id"), made);
            let given = [("x-request-id", "build-7.x_1")];
            let reply = door.send("GET", path, &given, "").await;
            assert_eq!(reply.header("x-request-id"), "build-7.x_1", "{path}");
            let forged = [("x-request-id", "a b\tc")];
            let reply = door.send("GET", path, &forged, "").await;
            assert_ne!(reply.header("x-request-id"), "a b\tc", "{path}");
        }
    }
}

/// Values by name and labels. Every line of the text form is looked at.
fn parse(text: &str) -> HashMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut kinds = HashMap::new();
    let mut values = HashMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (word, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&word), "{line}");
            if word == "TYPE" {
                kinds.insert(name.to_owned(), words.next().unwrap().to_owned());
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let base = name.split('{').next().unwrap();
        assert!(
            kinds.keys().any(|kind| base.starts_with(kind.as_str())),
            "{line}"
        );
        let value: f64 = value.parse().unwrap();
        assert!(
            values.insert(name.to_owned(), value).is_none(),
            "twice: {line}"
        );
    }
    values
}

async fn scrape(door: &Door) -> HashMap<String, f64> {
    let reply = door.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    parse(std::str::from_utf8(&reply.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_contents_are_counted() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    let layer = vec![5; 200_000];
    push_image(&door, "secret/name", "v1", &layer).await;
    door.get("/v2/secret/name/manifests/v1").await.expect(200);
    door.get("/v2/secret/name/manifests/none").await.expect(404);
    let blob = format!("/v2/secret/name/blobs/{}", sha256(&layer));
    door.get(&blob).await.expect(200);
    door.send("BREW", "/v2/", &[], "").await.expect(405);
    let _open = door.start("r").await;
    let values = scrape(&door).await;
    let value = |name: &str| values.get(&format!("devpod_registry_{name}")).copied();
    let requests = |endpoint: &str, method: &str, status: &str| {
        value(&format!(
            "requests_total{{endpoint=\"{endpoint}\",method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    assert_eq!(requests("manifest", "GET", "2xx"), Some(1.0));
    assert_eq!(requests("manifest", "GET", "4xx"), Some(1.0));
    assert_eq!(requests("manifest", "PUT", "2xx"), Some(1.0));
    assert_eq!(requests("ping", "other", "4xx"), Some(1.0));
    assert_eq!(requests("upload", "POST", "2xx"), Some(3.0));
    assert!(value("sent_bytes_total").unwrap() > 200_000.0);
    assert!(value("received_bytes_total").unwrap() > 200_000.0);
    let duration = "request_duration_seconds_count{endpoint=\"blob\",method=\"GET\"}";
    assert_eq!(value(duration), Some(1.0));
    assert_eq!(value("repositories"), Some(1.0));
    assert_eq!(
        (value("manifests"), value("tags"), value("blobs")),
        (Some(1.0), Some(1.0), Some(3.0))
    );
    assert!(value("stored_bytes").unwrap() > 200_000.0);
    assert_eq!(value("uploads"), Some(1.0));
    assert!(value("commit_changes_count").unwrap() >= 3.0);
    assert!(value("process_resident_memory_bytes").unwrap() > 1e6);
    assert!(value("process_open_fds").unwrap() > 3.0);
    assert!(value("process_start_time_seconds").unwrap() > 1.6e9);
    assert!(
        !values.keys().any(|name| name.contains("secret")),
        "a name became a label"
    );
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let data = tempfile::tempdir().unwrap();
    let front = Front::new(open(data.path()));
    let (one, _other) = (front.metrics.connection(), front.metrics.connection());
    let door = Door::Router(router(front));
    let open = async || scrape(&door).await["devpod_registry_connections"];
    assert_eq!(open().await, 2.0);
    drop(one);
    assert_eq!(open().await, 1.0);
}

#[tokio::test]
async fn readiness_says_what_is_wrong() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let ready = async |front: Front| {
        let door = Door::Router(router(front));
        assert_eq!(door.get("/livez").await.status, 200);
        let reply = door.get("/readyz").await;
        let failed: Vec<String> = reply.json()["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["ok"] == false)
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(reply.status == 200, failed.is_empty());
        assert_eq!(reply.json()["ready"], failed.is_empty());
        failed
    };
    let mut front = Front::new(registry.clone());
    front.health = Arc::new(Health::new(1, Duration::ZERO));
    assert!(ready(front.clone()).await.is_empty());
    assert_eq!(unfinished(data.path()), [""; 0]);
    let full = Front {
        health: Arc::new(Health::new(u64::MAX, Duration::ZERO)),
        ..front.clone()
    };
    assert_eq!(ready(full).await, ["space"]);
    let uploads = data.path().join("content/uploads");
    std::fs::rename(&uploads, data.path().join("away")).unwrap();
    assert_eq!(ready(front.clone()).await, ["content"]);
    std::fs::rename(data.path().join("away"), &uploads).unwrap();
    assert!(ready(front.clone()).await.is_empty());
    front.health.stop();
    assert_eq!(ready(front).await, ["serving"]);
}

/// Run by hand: `cargo test -p registry --release -- --ignored --nocapture ready_at_once`. Not in a
/// debug build: there redb walks the file at every open, to check itself.
#[test]
#[ignore = "a measurement: seeds 100,000 manifests"]
fn ready_at_once_with_many_manifests() {
    for manifests in [0, 100_000] {
        measure_ready(manifests);
    }
}

fn measure_ready(manifests: usize) {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let index = registry.store().index();
    for batch in 0..manifests / 1000 {
        index
            .write(move |t| {
                for number in 0..1000 {
                    rows::put(t, &seed(batch, number))?;
                }
                Ok(())
            })
            .unwrap();
    }
    drop(registry);
    for _ in 0..5 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let begun = Instant::now();
        let registry = open(data.path());
        let opened = begun.elapsed();
        let door = Door::Router(router(Front::new(registry)));
        let reply = runtime.block_on(door.get("/readyz"));
        let ready = begun.elapsed();
        println!("{manifests} manifests: open after {opened:?}, ready after {ready:?}");
        assert_eq!(reply.status, 200);
    }
}

fn seed(batch: usize, number: usize) -> NewManifest {
    NewManifest {
        repository: format!("team{batch}/app{}", number % 100),
        digest: sha256(format!("{batch}/{number}").as_bytes()),
        row: ManifestRow {
            media_type: super::door::MANIFEST.to_owned(),
            size: 1000,
            subject: None,
            artifact_type: None,
            references: (0..5)
                .map(|n| sha256(format!("{batch}/{number}/{n}").as_bytes()))
                .collect(),
            pushed: 1,
            by_digest: false,
        },
        tags: vec![format!("v{number}")],
        descriptor: None,
        required: Vec::new(),
        notes: registry::events::journal::Notes::default(),
    }
}
