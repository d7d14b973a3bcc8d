//! The accept loop: silent and slow clients, broken connections, shutdown.

use std::time::Duration;

use registry::http::{Front, Limits, router, serve, serve_router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::door::{Door, open, push_image, sha256, tcp};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_dropped() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        headers: Duration::from_millis(200),
        ..Limits::default()
    };
    tokio::spawn(serve_router(
        listener,
        router(Front::new(registry)),
        limits,
        std::future::pending(),
    ));
    for beginning in [
        "",
        "PRI * HT",
        "GET /v2/ HTTP/1.1\r\nhost: x\r\n",
        "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{beginning:?} is still connected");
        let complete = beginning.ends_with("\r\n\r\n");
        assert_eq!(
            answer.starts_with(b"HTTP/1.1 200"),
            complete,
            "{beginning:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    tokio::spawn(serve_router(
        listener,
        router(Front::new(registry)),
        limits,
        std::future::pending(),
    ));
    let request = b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(request).await.unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(request).await.unwrap();
    let early = timeout(Duration::from_millis(200), second.read_exact(&mut byte)).await;
    assert!(
        early.is_err(),
        "the second connection was served beside the first"
    );
    drop(first);
    timeout(PATIENCE, second.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_keeps_what_came() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let Door::Tcp(address) = door else {
        panic!("not a socket")
    };
    let location = door.start("broken").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc");
    stream.write_all(head.as_bytes()).await.unwrap();
    let received = async {
        while door.get(&location).await.expect(204).header("range") != "0-2" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, received).await.unwrap();
    // While a request holds the session, another one is told so.
    door.send("PATCH", &location, &[], "zzz").await.expect(409);
    drop(stream);
    let put = format!("{location}?digest={}", sha256(b"abcdef"));
    let finished = async {
        while door
            .send("PUT", &put, &[("content-range", "3-5")], "def")
            .await
            .status
            != 201
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, finished).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_running_requests_and_exports() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Front::new(registry.clone()), async {
        let _ = stopped.await;
    }));
    let door = Door::Tcp(address);
    push_image(&door, "last", "words", b"layer").await;
    let location = door.start("last").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let digest = sha256(b"abcdef");
    let head = format!(
        "PUT {location}?digest={digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    while door.get(&location).await.header("range") != "0-2" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send(()).unwrap();
    stream.write_all(b"def").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    let index = std::fs::read_to_string(data.path().join("content/index.json")).unwrap();
    assert!(index.contains("last:words"));
}
