//! `devpod registry …`, webhooks, metrics, health and logs of a real daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::process::eventually;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(60);

/// Builds an image of one file under a name.
fn build(appliance: &TestAppliance, name: &str, text: &str) {
    let context = Folder::new();
    context.write("Dockerfile", "FROM scratch\nCOPY file /\n");
    context.write("file", text);
    let path = context.path().display().to_string();
    appliance.run(&["build", "-t", name, &path]).ok();
}

/// One request by hand: status, headers and body as they came.
fn send(address: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn rows(appliance: &TestAppliance, arguments: &[&str]) -> Vec<Value> {
    let all = [&["registry"], arguments, &["--output", "json"]].concat();
    let value = appliance.run(&all).ok().json();
    value.as_array().unwrap().clone()
}

#[test]
fn images_are_listed_shown_and_deleted() {
    let appliance = TestAppliance::start();
    assert!(rows(&appliance, &["list"]).is_empty());
    appliance.run(&["registry", "list"]).ok().says("REPOSITORY");
    build(&appliance, "team/app:v1", "one");
    appliance
        .run(&["tag", "team/app:v1", "team/app:stable"])
        .ok();
    build(&appliance, "other:v1", "two");

    let list = rows(&appliance, &["list"]);
    assert_eq!(
        (&list[0]["name"], &list[1]["name"]),
        (&json!("other"), &json!("team/app"))
    );
    assert_eq!(
        (&list[1]["tags"], &list[1]["manifests"]),
        (&json!(2), &json!(1))
    );
    let tags = rows(&appliance, &["tags", "team/app"]);
    assert_eq!(
        (&tags[0]["tag"], &tags[1]["tag"]),
        (&json!("stable"), &json!("v1"))
    );
    assert_eq!(rows(&appliance, &["images"]).len(), 3);
    assert_eq!(rows(&appliance, &["images", "other"]).len(), 1);

    let show = |name: &str| appliance.run(&["registry", "show", name, "--output", "json"]);
    let image = show("team/app:v1").ok().json();
    let digest = image["digest"].as_str().unwrap().to_owned();
    assert_eq!(image["tags"], json!(["stable", "v1"]));
    assert_eq!(image["platforms"][0]["os"], "linux");
    assert_eq!(image["layers"].as_array().unwrap().len(), 1);
    assert_eq!(image["size"], image["uniqueBytes"]);
    assert_eq!(
        show(&format!("team/app@{digest}")).ok().json()["digest"],
        digest
    );
    assert_eq!(show("team/app").ok().json()["name"], "team/app");
    appliance
        .run(&["registry", "show", "team/app:v1"])
        .ok()
        .says(&digest)
        .says("LAYER");

    for (missing, code) in [
        ("none", 3),
        ("none:v1", 3),
        ("team/app:none", 3),
        ("UPPER", 2),
        ("a:", 2),
    ] {
        show(missing).failed(code);
        appliance
            .run(&["registry", "delete", "--force", missing])
            .failed(code);
    }
    appliance.run(&["registry", "tags", "none"]).failed(3);
    appliance
        .run(&["registry", "delete", "team/app:v1"])
        .ok()
        .says("Deleted");
    assert_eq!(rows(&appliance, &["tags", "team/app"]).len(), 1);
    appliance
        .run(&["registry", "delete", &format!("team/app@{digest}")])
        .ok();
    show("team/app:stable").failed(3);
    // Nobody is there to be asked.
    appliance
        .run(&["registry", "delete", "other"])
        .failed(2)
        .says("--force");
    show("other:v1").ok();
    appliance
        .run(&["registry", "delete", "other", "--force"])
        .ok()
        .says("1 images");
    show("other").failed(3);
}

#[test]
fn the_disk_uploads_and_the_description_are_told() {
    let appliance = TestAppliance::start();
    build(&appliance, "app:v1", "one");
    let json = |arguments: &[&str]| {
        let all = [&["registry"], arguments, &["--output", "json"]].concat();
        appliance.run(&all).ok().json()
    };
    let usage = json(&["usage"]);
    assert!(usage["content"]["count"].as_u64().unwrap() >= 3, "{usage}");
    appliance
        .run(&["registry", "usage"])
        .ok()
        .says("reclaimable");
    let would = json(&["collect", "--dry-run"]);
    assert_eq!(json(&["collect"]), would);
    appliance
        .run(&["registry", "collect", "--dry-run"])
        .ok()
        .says("Would remove");

    let address = appliance.registry();
    let (status, _) = send(address, "POST", "/v2/app/blobs/uploads/", "", "");
    assert_eq!(status, 202);
    let uploads = rows(&appliance, &["uploads"]);
    assert_eq!(
        (uploads.len(), &uploads[0]["repository"]),
        (1, &json!("app"))
    );
    let session = uploads[0]["session"].as_str().unwrap();
    appliance.run(&["registry", "cancel", session]).ok();
    appliance.run(&["registry", "cancel", session]).failed(3);
    appliance.run(&["registry", "cancel", "nonsense"]).failed(2);
    assert!(rows(&appliance, &["uploads"]).is_empty());

    let document = appliance.run(&["registry", "openapi"]).ok().json();
    assert!(document["paths"]["/api/v1/images"]["get"].is_object());
    assert_eq!(json(&["events"])["queued"], 0);

    for (path, part) in [
        ("/livez", "ok"),
        ("/readyz", "\"ready\":true"),
        ("/metrics", "devpod_registry_requests_total{"),
        ("/api/v1/images", "\"repository\":\"app\""),
    ] {
        let (status, answer) = send(address, "GET", path, "", "");
        assert!(status == 200 && answer.contains(part), "{path}: {answer}");
    }
}

/// Values that a request brings must not write lines of the log.
#[test]
fn requests_are_logged_each_in_one_line() {
    let place = Place::new();
    let settings = place.home().join(".devpod");
    fs::create_dir_all(&settings).unwrap();
    fs::write(
        settings.join("config.json"),
        json!({"log": {"format": "json"}}).to_string(),
    )
    .unwrap();
    let appliance = TestAppliance::start_at(place);
    let address = appliance.registry();
    let id = "x-request-id: trace-1.a\r\n";
    let (_, answer) = send(address, "POST", "/v2/team/app/blobs/uploads/", id, "");
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("x-request-id: trace-1.a"),
        "{answer}"
    );
    let forged = "/v2/%0a%7B%22level%22:%22ERROR%22,%22forged%22:1%7D/blobs/uploads/";
    let id = "x-request-id: a\tb\r\n";
    assert_eq!(send(address, "POST", forged, id, "").0, 400);
    assert_eq!(send(address, "PUT", "/api/v1/%0aforged", "", "").0, 404);
    let log = appliance.place().path().join("daemon-output");
    let mut lines = Vec::new();
    eventually("three lines", PATIENCE, || {
        let text = fs::read_to_string(&log).unwrap();
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines = events
            .filter(|event| event["message"] == "answered")
            .collect();
        lines.len() == 3
    });
    assert_eq!(lines[0]["request"], "trace-1.a");
    assert_eq!(lines[0]["repository"], "team/app");
    assert_eq!(
        (&lines[0]["status"], &lines[0]["endpoint"]),
        (&json!(202), &json!("upload"))
    );
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        !text
            .lines()
            .any(|line| line.contains("forged") && line.starts_with("{\"level\""))
    );
}

/// A webhook's receiver: answers one request after the other with this status.
struct Receiver {
    address: String,
    taken: Arc<Mutex<Vec<Taken>>>,
    status: Arc<Mutex<u16>>,
}

#[derive(Clone)]
struct Taken {
    head: String,
    body: Vec<u8>,
    status: u16,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (taken, status) = (
            Arc::<Mutex<Vec<Taken>>>::default(),
            Arc::new(Mutex::new(200)),
        );
        let (all, answer) = (Arc::clone(&taken), Arc::clone(&status));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let status = *answer.lock().unwrap();
                if let Some(one) = receive(stream, status) {
                    all.lock().unwrap().push(one);
                }
            }
        });
        Self {
            address,
            taken,
            status,
        }
    }

    fn answer(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }

    fn attempts(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    /// `action subject` of what was taken, each event once.
    fn told(&self) -> Vec<String> {
        let mut ids = Vec::new();
        let mut told = Vec::new();
        for one in self.attempts().iter().filter(|one| one.status == 200) {
            let event: Value = serde_json::from_slice(&one.body).unwrap();
            if !ids.contains(&event["id"]) {
                ids.push(event["id"].clone());
                let action = event["data"]["action"].as_str().unwrap();
                told.push(format!("{action} {}", event["subject"].as_str().unwrap()));
            }
        }
        told
    }
}

fn receive(mut stream: TcpStream, status: u16) -> Option<Taken> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)?
        .split("\r\n")
        .next()?;
    let mut body = vec![0; length.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let answer = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).ok()?;
    Some(Taken { head, body, status })
}

/// RFC 2104, by another implementation than the product's.
fn hmac_sha256(key: &[u8], message: &[u8]) -> String {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn webhooks_are_told_across_a_restart() {
    let receiver = Receiver::start();
    let place = Place::new();
    let settings = place.home().join(".devpod");
    fs::create_dir_all(&settings).unwrap();
    let key = place.home().join("key");
    fs::write(&key, "s3cret\n").unwrap();
    let hook = json!({
        "name": "ci",
        "url": format!("http://{}/hook", receiver.address),
        "repositories": "team/**",
        "secret_file": key,
        "headers": { "X-Team": "a" },
    });
    let config = json!({ "registry": { "webhooks": [hook] } });
    fs::write(settings.join("config.json"), config.to_string()).unwrap();

    let appliance = TestAppliance::start_at(place);
    build(&appliance, "elsewhere:v1", "0");
    build(&appliance, "team/app:v1", "1");
    eventually("told", PATIENCE, || receiver.told() == ["push team/app:v1"]);
    let first = receiver.attempts().remove(0);
    assert!(
        first.head.starts_with("post /hook http/1.1"),
        "{}",
        first.head
    );
    let signature = format!(
        "x-devpod-signature-256: sha256={}",
        hmac_sha256(b"s3cret", &first.body)
    );
    assert!(first.head.contains(&signature), "{}", first.head);
    assert!(first.head.contains("x-team: a"), "{}", first.head);

    receiver.answer(503);
    appliance.run(&["tag", "team/app:v1", "team/app:v2"]).ok();
    appliance.run(&["registry", "delete", "team/app:v1"]).ok();
    eventually("tried in vain", PATIENCE, || receiver.attempts().len() > 1);
    let state = appliance
        .run(&["registry", "events", "--output", "json"])
        .ok()
        .json();
    assert_eq!(state["queued"], 2, "{state}");
    assert_eq!(state["webhooks"][0]["behind"], 2, "{state}");
    appliance
        .run(&["registry", "events"])
        .ok()
        .says("receiver answered 503");

    // Killed, as by a power cut: what waits is told by the next daemon.
    let appliance = TestAppliance::start_at(appliance.kill());
    appliance.run(&["tag", "team/app:v2", "team/app:v3"]).ok();
    receiver.answer(200);
    let expected = [
        "push team/app:v1",
        "push team/app:v2",
        "delete team/app:v1",
        "push team/app:v3",
    ];
    eventually("told in order", PATIENCE, || receiver.told() == expected);
    eventually("nothing waits", PATIENCE, || {
        let state = appliance
            .run(&["registry", "events", "--output", "json"])
            .ok()
            .json();
        state["queued"] == 0
    });
    let log = fs::read_to_string(appliance.place().path().join("daemon-output")).unwrap();
    assert!(!log.contains("s3cret"));
}

#[test]
fn a_webhook_without_its_key_keeps_the_daemon_from_starting() {
    let place = Place::new();
    let settings = place.home().join(".devpod");
    fs::create_dir_all(&settings).unwrap();
    let hook = json!({ "name": "ci", "url": "http://127.0.0.1:9/", "secret_file": "/nowhere/key" });
    let config = json!({ "registry": { "webhooks": [hook] } });
    fs::write(settings.join("config.json"), config.to_string()).unwrap();
    place.run(&["serve"]).failed(2).says("/nowhere/key");
    let broken = config.to_string().replace("\"url\"", "\"uri\"");
    fs::write(settings.join("config.json"), broken).unwrap();
    place
        .run(&["registry", "list"])
        .failed(2)
        .says("did you mean \"url\"");
}

#[test]
fn what_is_kept_is_looked_after_by_command() {
    let appliance = TestAppliance::start();
    build(&appliance, "app:v1", "one");
    let last = ["registry", "scrub", "--last"];
    appliance.run(&last).ok().says("No blob was verified yet");
    let done = ["registry", "scrub", "--output", "json"];
    let state = appliance.run(&done).ok().json();
    assert_eq!(state["quarantined"], 0);
    assert!(state["checked"].as_u64().unwrap() >= 3, "{state}");
    appliance.run(&last).ok().says("are whole");
    let dry = ["registry", "retention", "--dry-run"];
    appliance.run(&dry).ok().says("0 tags would go");
}
