//! Clients that are slow on purpose: bodies that stop, or trickle. The test moves the clock.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Frame;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use registry::http::{Front, router};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::advance;

use super::door::{Door, image, open, sha256};

/// A body whose pieces come when the test says so.
struct Dribble(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Dribble {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A request that has begun; its status comes when it ends.
struct Slow {
    pieces: mpsc::Sender<Bytes>,
    status: JoinHandle<StatusCode>,
}

impl Slow {
    fn begin(door: &Door, method: &str, path: &str) -> Self {
        let Door::Router(router) = door else {
            panic!("not the router")
        };
        let (pieces, receiver) = mpsc::channel(1);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::new(Dribble(receiver)))
            .unwrap();
        let service = TowerToHyperService::new(router.clone());
        let status = tokio::spawn(async move { service.call(request).await.unwrap().status() });
        Self { pieces, status }
    }

    async fn send(&self, piece: &str) {
        let piece = Bytes::from(piece.to_owned());
        self.pieces.send(piece).await.unwrap();
        settle().await;
    }

    /// Lets time go by in steps, as it does.
    async fn wait(&self, seconds: u64) {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            settle().await;
        }
    }
}

/// Lets everybody go on who can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn router_door(data: &std::path::Path) -> Door {
    Door::Router(router(Front::new(open(data))))
}

/// The clock is stopped after the registry's own threads have answered: they wait in real time.
#[tokio::test]
async fn a_body_that_stops_ends_its_request_and_keeps_its_bytes() {
    let data = tempfile::tempdir().unwrap();
    let door = router_door(data.path());
    let location = door.start("stopped").await;
    let slow = Slow::begin(&door, "PATCH", &location);
    slow.send("abc").await;
    while door.get(&location).await.header("range") != "0-2" {
        settle().await;
    }
    tokio::time::pause();
    slow.wait(59).await;
    assert!(!slow.status.is_finished(), "a minute of silence is allowed");
    slow.wait(2).await;
    tokio::time::resume();
    assert_eq!(slow.status.await.unwrap(), 400);
    let digest = sha256(b"abcdef");
    let put = format!("{location}?digest={digest}");
    let headers = [("content-range", "3-5")];
    door.send("PUT", &put, &headers, "def").await.expect(201);
}

#[tokio::test]
async fn a_body_that_trickles_is_ended_too() {
    let data = tempfile::tempdir().unwrap();
    let door = router_door(data.path());
    let path = "/v2/trickled/manifests/v1";
    let slow = Slow::begin(&door, "PUT", path);
    slow.send("{").await;
    tokio::time::pause();
    // A byte every half minute is no silence, and no progress either.
    slow.wait(30).await;
    slow.send(" ").await;
    slow.wait(31).await;
    tokio::time::resume();
    assert_eq!(slow.status.await.unwrap(), 400);
    // One that comes slowly but comes is waited for.
    let config = door.push_blob("trickled", b"{}").await;
    let text = image(&config, &[], "");
    let slow = Slow::begin(&door, "PUT", path);
    slow.send(&" ".repeat(100_000)).await;
    tokio::time::pause();
    slow.wait(50).await;
    slow.send(&" ".repeat(100)).await;
    slow.wait(50).await;
    tokio::time::resume();
    slow.send(&text).await;
    drop(slow.pieces);
    assert_eq!(slow.status.await.unwrap(), 201);
}

/// One registry with so many blocking threads; a hundred uploads wait for their clients.
#[test]
fn uploads_that_wait_hold_no_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .unwrap();
    let checked = runtime.block_on(async {
        let data = tempfile::tempdir().unwrap();
        let door = router_door(data.path());
        let checked = async {
            let digest = door.push_blob("waiting", b"here").await;
            let mut slow = Vec::new();
            for _ in 0..100 {
                let location = door.start("waiting").await;
                let one = Slow::begin(&door, "PATCH", &location);
                one.pieces.send(Bytes::from_static(b"abc")).await.unwrap();
                slow.push((location, one));
            }
            for (location, _) in &slow {
                while door.get(location).await.header("range") != "0-2" {
                    settle().await;
                }
            }
            let found = door.get(&format!("/v2/waiting/blobs/{digest}")).await;
            assert_eq!(found.expect(200).body, "here");
            for (location, one) in slow {
                one.pieces.send(Bytes::from_static(b"def")).await.unwrap();
                drop(one.pieces);
                assert_eq!(one.status.await.unwrap(), 202);
                let put = format!("{location}?digest={}", sha256(b"abcdef"));
                door.send("PUT", &put, &[], "").await.expect(201);
            }
        };
        tokio::time::timeout(Duration::from_secs(8), checked).await
    });
    // Threads that still wait must not keep the test.
    runtime.shutdown_background();
    checked.expect("a look at the registry finds a thread");
}
