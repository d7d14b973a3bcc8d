//! Clients that go away while their change is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use registry::access::{Access, Settings};
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};
use tokio::sync::Semaphore;

use super::door::{Door, MANIFEST, image, options};
use super::guard::{login, rules, users};

const PATIENCE: Duration = Duration::from_secs(20);

/// A registry whose commits wait, while `held`, until they are let go.
struct Held {
    front: Front,
    data: tempfile::TempDir,
    held: Arc<AtomicBool>,
    reached: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let held = Arc::new(AtomicBool::new(false));
        let reached = Arc::new(Semaphore::new(0));
        let (waits, tell) = (Arc::clone(&held), Arc::clone(&reached));
        let steps = Steps::calling(move |step| {
            if step == Step::JournalSynced && waits.load(Ordering::SeqCst) {
                tell.add_permits(1);
                while waits.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Ok(())
        });
        let options = Options {
            steps,
            ..options(data.path())
        };
        let mut front = Front::new(Registry::open(options, Policy::default()).unwrap());
        let settings = Settings {
            audit_log: Some(data.path().join("audit")),
            rules: rules(&["** ann pull,push,delete,admin"]),
            ..users(data.path())
        };
        let clock = Arc::new(std::time::SystemTime::now);
        front.access = Arc::new(Access::open(&settings, data.path(), clock).unwrap());
        Self {
            front,
            data,
            held,
            reached,
        }
    }

    /// Sends a request by ann and drops it in the middle of its commit.
    async fn drop_in_commit(&self, method: &str, path: &str, body: &str) {
        self.held.store(true, Ordering::SeqCst);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", login("ann"))
            .header("content-type", MANIFEST)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let service = TowerToHyperService::new(router(self.front.clone()));
        let call = tokio::spawn(async move { service.call(request).await });
        let reached = tokio::time::timeout(PATIENCE, self.reached.acquire()).await;
        reached.expect("a commit").unwrap().forget();
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        self.held.store(false, Ordering::SeqCst);
    }

    /// The line of the audit log about this event, once it is there.
    async fn line(&self, event: &str, reference: &str) -> serde_json::Value {
        let found = async {
            loop {
                let text = std::fs::read_to_string(self.data.path().join("audit")).unwrap();
                let lines = text.lines().map(|line| {
                    let value: serde_json::Value = serde_json::from_str(line).unwrap();
                    value
                });
                let mut lines =
                    lines.filter(|line| line["event"] == event && line["reference"] == reference);
                if let Some(line) = lines.next() {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .expect("a line of the audit log")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_its_audit_line_though_nobody_waits_for_the_answer() {
    let held = Held::new();
    let inside = Door::Router(router(Front::new(held.front.registry.clone())));
    let config = inside.push_blob("a", b"{}").await;
    let text = image(&config, &[], "");
    for tag in ["v1", "v2"] {
        let path = format!("/v2/a/manifests/{tag}");
        held.drop_in_commit("PUT", &path, &text).await;
        let line = held.line("push", tag).await;
        assert_eq!(
            (&line["caller"], &line["status"]),
            (&"ann".into(), &201.into())
        );
        assert_eq!(line["repository"], "a");
    }
    held.drop_in_commit("DELETE", "/v2/a/manifests/v1", "")
        .await;
    assert_eq!(held.line("delete", "v1").await["caller"], "ann");
    held.drop_in_commit("DELETE", "/api/v1/repositories/a/tags/v2", "")
        .await;
    assert_eq!(held.line("delete", "v2").await["caller"], "ann");
    // What is counted and logged of them is that nobody saw an answer.
    let scrape = Door::Router(router(held.front.clone()))
        .get("/metrics")
        .await;
    let text = String::from_utf8(scrape.body.to_vec()).unwrap();
    for labels in [
        r#"endpoint="manifest",method="PUT",status="4xx"} 2"#,
        r#"endpoint="manifest",method="DELETE",status="4xx"} 1"#,
        r#"endpoint="management",method="DELETE",status="4xx"} 1"#,
    ] {
        assert!(text.contains(labels), "{labels}: {text}");
    }
}
