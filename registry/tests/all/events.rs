//! Events: what is told, in which order, and what a receiver that fails or a restart does to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::registry::webhook::{EventFormat, EventKind, Webhook};
use registry::events::envelope::{EVENT_ID, SIGNATURE, sign};
use registry::events::sender::{
    Deliver, DeliverError, Delivered, Delivery, Hook, Schedule, Senders,
};
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::index::events as rows;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::door::{Door, image, open, options, push_image, sha256};

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes what it is told, or refuses it as it was set to.
#[derive(Debug, Default)]
struct Receiver(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    taken: Vec<Delivery>,
    /// Attempts that failed.
    refused: usize,
    answer: Option<u16>,
    /// Refuses when it has taken so many.
    full: Option<usize>,
}

impl Deliver for Receiver {
    fn deliver(&self, delivery: Delivery) -> Delivered<'_> {
        let mut state = self.0.lock().unwrap();
        let full = state.full.is_some_and(|full| state.taken.len() >= full);
        let answer = match state.answer {
            Some(status) => Err(DeliverError::Status { status }),
            None if full => Err(DeliverError::Status { status: 503 }),
            None => Ok(()),
        };
        match &answer {
            Ok(()) => state.taken.push(delivery),
            Err(_) => state.refused += 1,
        }
        Box::pin(std::future::ready(answer))
    }
}

impl Receiver {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn taken(&self) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let bodies = state
            .taken
            .iter()
            .map(|delivery| serde_json::from_slice(&delivery.body));
        bodies.collect::<Result<_, _>>().unwrap()
    }

    /// `action subject` of each event, the first time that it came.
    fn told(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let taken = self.taken().into_iter();
        let first = taken.filter(|event| seen.insert(event["id"].as_str().unwrap().to_owned()));
        first
            .map(|event| {
                format!(
                    "{} {}",
                    event["data"]["action"].as_str().unwrap(),
                    event["subject"].as_str().unwrap()
                )
            })
            .collect()
    }

    async fn until(&self, what: &str, check: impl Fn(&State) -> bool) {
        let looked = async {
            while !check(&self.0.lock().unwrap()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, looked)
            .await
            .unwrap_or_else(|_| panic!("not {what}: {:?}", self.0));
    }
}

fn webhook(name: &str, events: &[EventKind], repositories: &str) -> Webhook {
    Webhook {
        name: name.to_owned(),
        url: "http://127.0.0.1:1/".to_owned(),
        events: events.iter().copied().collect(),
        repositories: repositories.parse().unwrap(),
        format: EventFormat::CloudEvents,
        headers: vec![("X-Team".to_owned(), "a".to_owned())],
        secret_file: None,
        timeout: Duration::from_secs(1),
    }
}

fn schedule() -> Schedule {
    Schedule {
        delay: |_| Duration::from_millis(2),
        gather: Duration::from_millis(5),
        ..Schedule::patient("//test".to_owned())
    }
}

/// A registry whose webhooks are told by a receiver.
fn start(
    data: &Path,
    webhooks: Vec<Webhook>,
    receiver: &Arc<Receiver>,
    schedule: Schedule,
) -> (Registry, Door, JoinHandle<()>) {
    let registry = open(data);
    let hook = |webhook| Hook {
        webhook,
        secret: Some(b"key".to_vec()),
    };
    let hooks = webhooks.into_iter().map(hook).collect();
    let deliver = Arc::clone(receiver) as Arc<dyn Deliver>;
    let senders = Senders::new(&registry, hooks, deliver, schedule)
        .unwrap()
        .unwrap();
    let sending = tokio::spawn(senders.run());
    let door = Door::Router(router(Front::new(registry.clone())));
    (registry, door, sending)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_pulls_are_told_in_order() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    let hooks = vec![webhook("all", &EventKind::ALL, "team/**")];
    let (_registry, door, _sending) = start(data.path(), hooks, &receiver, schedule());
    push_image(&door, "elsewhere", "v1", b"other").await;
    let text = push_image(&door, "team/app", "v1", b"layer").await;
    let (digest, layer) = (sha256(text.as_bytes()), sha256(b"layer"));
    // What is refused did not happen.
    let refused = image(&sha256(b"nothing"), &[], "");
    door.push_manifest("team/app", "bad", &refused)
        .await
        .expect(404);
    let mount = format!("/v2/team/other/blobs/uploads/?mount={layer}&from=team/app");
    door.send("POST", &mount, &[], "").await.expect(201);
    receiver.until("both", |state| state.taken.len() == 2).await;
    door.send(
        "GET",
        "/v2/team/app/manifests/v1",
        &[("x-request-id", "req-7")],
        "",
    )
    .await
    .expect(200);
    // Not a pull: nobody was given the manifest.
    door.send("HEAD", "/v2/team/app/manifests/v1", &[], "")
        .await
        .expect(200);
    receiver
        .until("the pull", |state| state.taken.len() == 3)
        .await;
    door.send("DELETE", "/v2/team/app/manifests/v1", &[], "")
        .await
        .expect(202);
    door.send("DELETE", "/v2/team/app/manifests/v1", &[], "")
        .await
        .expect(404);
    door.send(
        "DELETE",
        &format!("/v2/team/app/manifests/{digest}"),
        &[],
        "",
    )
    .await
    .expect(202);
    door.send("DELETE", &format!("/v2/team/app/blobs/{layer}"), &[], "")
        .await
        .expect(202);
    receiver.until("all", |state| state.taken.len() == 6).await;
    assert_eq!(
        receiver.told(),
        [
            "push team/app:v1".to_owned(),
            format!("mount team/other@{layer}"),
            "pull team/app:v1".to_owned(),
            "delete team/app:v1".to_owned(),
            format!("delete team/app@{digest}"),
            format!("delete team/app@{layer}"),
        ]
    );
    let events = receiver.taken();
    assert_eq!(events[0]["data"]["digest"], digest.to_string());
    assert_eq!(events[0]["data"]["size"], text.len());
    assert_eq!(events[0]["data"]["actor"], "anonymous");
    assert_eq!(events[1]["data"]["fromRepository"], "team/app");
    assert_eq!(events[2]["data"]["requestId"], "req-7");
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_signed_and_named() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    let hooks = vec![webhook("one", &[EventKind::Push], "**")];
    let (_registry, door, _sending) = start(data.path(), hooks, &receiver, schedule());
    push_image(&door, "a", "b", b"c").await;
    receiver.until("told", |state| state.taken.len() == 1).await;
    let state = receiver.0.lock().unwrap();
    let delivery = &state.taken[0];
    let header = |name: &str| {
        let found = delivery.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    assert_eq!(header(SIGNATURE), sign(b"key", &delivery.body));
    assert_ne!(header(SIGNATURE), sign(b"other", &delivery.body));
    let body: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!(body["id"], header(EVENT_ID));
    assert_eq!(header("x-team"), "a");
    assert_eq!(
        header("content-type"),
        "application/cloudevents+json; charset=utf-8"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_gets_everything_later() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    receiver.set(|state| state.answer = Some(503));
    let hooks = vec![webhook("one", &[EventKind::Push], "**")];
    let (registry, door, _sending) = start(data.path(), hooks, &receiver, schedule());
    for tag in ["1", "2", "3"] {
        push_image(&door, "r", tag, tag.as_bytes()).await;
    }
    receiver.until("tried", |state| state.refused > 3).await;
    let report = registry.event_report().unwrap();
    assert_eq!((report.queue.events, report.queue.behind[0].1), (3, 3));
    assert!(report.hooks["one"].failing > 0);
    assert_eq!(
        report.hooks["one"].last_error.as_deref(),
        Some("receiver answered 503")
    );
    receiver.set(|state| state.answer = None);
    receiver.until("told", |state| state.taken.len() == 3).await;
    assert_eq!(receiver.told(), ["push r:1", "push r:2", "push r:3"]);
    let emptied = async {
        while registry.event_report().unwrap().queue.events > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, emptied).await.unwrap();
    assert_eq!(registry.event_report().unwrap().hooks["one"].failing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    receiver.set(|state| state.full = Some(2));
    let hooks = || vec![webhook("one", &[EventKind::Push], "**")];
    let (registry, door, sending) = start(data.path(), hooks(), &receiver, schedule());
    let tags: Vec<String> = (0..6).map(|number| format!("t{number}")).collect();
    for tag in &tags {
        push_image(&door, "r", tag, tag.as_bytes()).await;
    }
    receiver
        .until("stuck", |state| state.taken.len() == 2 && state.refused > 0)
        .await;
    sending.abort();
    let _ = sending.await;
    drop((registry, door));
    receiver.set(|state| state.full = None);
    timeout(PATIENCE, async {
        // The last read of an aborted sender may still hold the index for a moment.
        while Registry::open(options(data.path()), Policy::default()).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let (_registry, door, _sending) = start(data.path(), hooks(), &receiver, schedule());
    push_image(&door, "r", "last", b"last").await;
    receiver
        .until("told", |state| {
            state
                .taken
                .last()
                .is_some_and(|last| String::from_utf8_lossy(&last.body).contains("r:last"))
        })
        .await;
    let expected: Vec<String> = tags.iter().map(|tag| format!("push r:{tag}")).collect();
    assert_eq!(
        receiver.told(),
        [expected, vec!["push r:last".to_owned()]].concat()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_for_good_does_not_block() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    receiver.set(|state| state.answer = Some(422));
    let hooks = vec![webhook("one", &[EventKind::Push], "**")];
    let (registry, door, _sending) = start(data.path(), hooks, &receiver, schedule());
    push_image(&door, "r", "1", b"1").await;
    receiver.until("refused", |state| state.refused == 1).await;
    receiver.set(|state| state.answer = None);
    push_image(&door, "r", "2", b"2").await;
    receiver.until("told", |state| state.taken.len() == 1).await;
    assert_eq!(receiver.told(), ["push r:2"]);
    assert_eq!(registry.event_report().unwrap().hooks["one"].failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_goes_untold() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    receiver.set(|state| state.answer = Some(503));
    let hooks = vec![webhook("one", &[EventKind::Push, EventKind::Pull], "**")];
    let impatient = Schedule {
        keep: Duration::ZERO,
        ..schedule()
    };
    let (registry, door, _sending) = start(data.path(), hooks, &receiver, impatient);
    push_image(&door, "r", "1", b"1").await;
    receiver.until("tried", |state| state.refused > 0).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    // Rings the one who looks for old events.
    door.get("/v2/r/manifests/1").await.expect(200);
    let dropped = async {
        while registry.event_report().unwrap().queue.dropped == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, dropped).await.unwrap();
    assert!(receiver.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_nobody_listens() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = Door::Router(router(Front::new(registry.clone())));
    push_image(&door, "r", "1", b"1").await;
    assert!(!registry.store().index().read(rows::exist).unwrap());
    drop((registry, door));

    let receiver = Arc::new(Receiver::default());
    receiver.set(|state| state.answer = Some(503));
    let hooks = vec![webhook("one", &[EventKind::Delete], "**")];
    let (registry, door, sending) = start(data.path(), hooks, &receiver, schedule());
    push_image(&door, "r", "2", b"2").await;
    assert_eq!(
        registry.event_report().unwrap().queue.events,
        0,
        "a push was kept"
    );
    door.send("DELETE", "/v2/r/manifests/2", &[], "")
        .await
        .expect(202);
    assert_eq!(registry.event_report().unwrap().queue.events, 1);
    sending.abort();
    let _ = sending.await;
    drop((registry, door));
    tokio::time::sleep(Duration::from_millis(100)).await;

    // The webhook was taken out of the settings: what waited for it goes.
    let registry = open(data.path());
    let deliver = Arc::clone(&receiver) as Arc<dyn Deliver>;
    let none = Senders::new(&registry, Vec::new(), deliver, schedule()).unwrap();
    assert!(none.is_none());
    assert!(!registry.store().index().read(rows::exist).unwrap());
}

#[test]
fn the_queue_is_bounded() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let index = registry.store().index();
    index
        .write(|t| rows::subscribe(t, &["one".to_owned()]))
        .unwrap();
    let many = vec![b"{}".to_vec(); usize::try_from(rows::MAX_EVENTS).unwrap()];
    index.write(move |t| rows::append(t, &many)).unwrap();
    index
        .write(|t| rows::append(t, &[b"1".to_vec(), b"2".to_vec()]))
        .unwrap();
    let queue = index.read(rows::queue).unwrap();
    assert_eq!((queue.events, queue.dropped), (rows::MAX_EVENTS, 2));
    let last = index
        .read(|t| rows::after(t, rows::MAX_EVENTS, 10))
        .unwrap();
    assert_eq!(
        last,
        [
            (rows::MAX_EVENTS + 1, b"1".to_vec()),
            (rows::MAX_EVENTS + 2, b"2".to_vec())
        ]
    );
    // Sequences go on after the queue was emptied.
    index
        .write(|t| rows::told(t, "one", rows::MAX_EVENTS + 2))
        .unwrap();
    assert_eq!(index.read(rows::queue).unwrap().events, 0);
    index.write(|t| rows::append(t, &[b"3".to_vec()])).unwrap();
    let next = index.read(|t| rows::after(t, 0, 10)).unwrap();
    assert_eq!(next, [(rows::MAX_EVENTS + 3, b"3".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_push_of_several_tags_is_one_event() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Arc::new(Receiver::default());
    let mut hook = webhook("docker", &[EventKind::Push], "**");
    hook.format = EventFormat::Docker;
    let cloud = webhook("cloud", &[EventKind::Push], "**");
    let (_registry, door, _sending) = start(data.path(), vec![hook, cloud], &receiver, schedule());
    let config = door.push_blob("r", b"{}").await;
    let text = image(&config, &[], "");
    let path = format!("{}?tag=a&tag=b", sha256(text.as_bytes()));
    door.push_manifest("r", &path, &text).await.expect(201);
    receiver.until("told", |state| state.taken.len() == 2).await;
    let events = receiver.taken();
    let (docker, cloud) = match events[0].get("events") {
        Some(_) => (&events[0], &events[1]),
        None => (&events[1], &events[0]),
    };
    assert_eq!(docker["events"][0]["target"]["tag"], "a");
    assert_eq!(cloud["data"]["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(docker["events"][0]["id"], cloud["id"]);
}
