//! The protocol below the requests, byte by byte: chunked bodies, pipelining, `Expect`, HTTP/2 without
//! negotiation, heads that are too large, resets, and what smugglers send.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::door::{Door, open, push_image, sha256, tcp};

const PATIENCE: Duration = Duration::from_secs(20);

async fn serve(data: &std::path::Path) -> (Door, SocketAddr) {
    let door = tcp(&open(data)).await;
    let Door::Tcp(address) = door else {
        panic!("not a socket")
    };
    (door, address)
}

/// Sends bytes over one connection and reads until the server closes it.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses may reset the connection after its answer.
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads from a connection until the text ends so.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !text.ends_with(end.as_bytes()) {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            text.push(byte[0]);
        }
    };
    timeout(PATIENCE, read).await.expect("an answer");
    String::from_utf8(text).unwrap()
}

fn statuses(answer: &str) -> Vec<&str> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.map(|rest| rest.get(..3).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_a_length_are_taken() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let digest = sha256(b"abcdef");
    let location = door.start("chunked").await;
    let head = "HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n";
    let sent = format!(
        "PATCH {location} {head}\r\n3\r\nabc\r\n0\r\n\r\n\
         PUT {location}?digest={digest} {head}connection: close\r\n\r\n1\r\nd\r\n2;ext=1\r\nef\r\n0\r\ntrailer: x\r\n\r\n"
    );
    let answer = exchange(address, sent.as_bytes()).await;
    assert_eq!(statuses(&answer), ["202", "201"], "{answer}");
    let found = door.get(&format!("/v2/chunked/blobs/{digest}")).await;
    assert_eq!(found.expect(200).body, "abcdef");
    // A chunk with a place is as long as it says, whatever carries it.
    let location = door.start("chunked").await;
    let sent = format!(
        "PATCH {location} {head}content-range: 0-9\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    let answer = exchange(address, sent.as_bytes()).await;
    assert_eq!(statuses(&answer), ["400"], "{answer}");
    // A manifest that never says how long it is has a limit all the same.
    let mut sent =
        format!("PUT /v2/chunked/manifests/v1 {head}connection: close\r\n\r\n").into_bytes();
    for _ in 0..5 {
        sent.extend(format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20)).bytes());
    }
    sent.extend(b"0\r\n\r\n");
    let answer = exchange(address, &sent).await;
    assert_eq!(statuses(&answer), ["413"], "{answer}");
    assert!(answer.contains("SIZE_INVALID"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    push_image(&door, "piped", "v1", b"layer").await;
    let sent = "GET /v2/piped/tags/list HTTP/1.1\r\nhost: x\r\n\r\n\
                GET /v2/piped/manifests/none HTTP/1.1\r\nhost: x\r\n\r\n\
                HEAD /v2/piped/manifests/v1 HTTP/1.1\r\nhost: x\r\n\r\n\
                GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(address, sent.as_bytes()).await;
    assert_eq!(statuses(&answer), ["200", "404", "200", "200"], "{answer}");
    assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_to_send_is_given_only_where_the_body_is_wanted() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let location = door.start("expect").await;
    let digest = sha256(b"abc");
    let ask = |place: &str| {
        format!(
            "PUT {place}?digest={digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(ask(&location).as_bytes()).await.unwrap();
    let leave = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(statuses(&leave), ["100"], "{leave}");
    stream.write_all(b"abc").await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["201"], "{answer}");
    // The session is over: nobody wants these bytes.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(ask(&location).as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["404"], "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_works_without_negotiation() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    push_image(&door, "two", "v1", b"layer").await;
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let content = vec![3; 3 << 20];
    let digest = sha256(&content);
    let send = |method: &str, path: String, body: Vec<u8>| {
        let mut sender = sender.clone();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .body(Body::from(body))
            .unwrap();
        async move {
            let response = sender.send_request(request).await.unwrap();
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status.as_u16(), body)
        }
    };
    let push = format!("/v2/two/blobs/uploads/?digest={digest}");
    assert_eq!(send("POST", push, content.clone()).await.0, 201);
    // Many streams of one connection at once.
    let blob = format!("/v2/two/blobs/{digest}");
    let pulls: Vec<_> = (0..16)
        .map(|_| tokio::spawn(send("GET", blob.clone(), Vec::new())))
        .collect();
    let tags = send("GET", "/v2/two/tags/list".to_owned(), Vec::new()).await;
    assert_eq!(
        (tags.0, &tags.1[..]),
        (200, &br#"{"name":"two","tags":["v1"]}"#[..])
    );
    for pull in pulls {
        let (status, body) = timeout(PATIENCE, pull).await.unwrap().unwrap();
        assert!(status == 200 && body == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_limits_and_one_meaning() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let location = door.start("heads").await;
    let long = "x".repeat(300 * 1024);
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    for (sent, expected) in [
        (
            format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
            "431",
        ),
        (format!("GET /v2/ HTTP/1.1\r\nhost: x\r\n{many}\r\n"), "431"),
        (format!("GET /v2/{long} HTTP/1.1\r\nhost: x\r\n\r\n"), "4"),
        ("GET /v2/ HTTP/1.1\r\nhost: x\0y\r\n\r\n".to_owned(), "400"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (
            format!(
                "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"
            ),
            "400",
        ),
        (
            format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nabc"),
            "400",
        ),
        (
            format!(
                "PATCH {location} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            ),
            "400",
        ),
    ] {
        let answer = exchange(address, sent.as_bytes()).await;
        let shown = sent.get(..60).unwrap_or(&sent);
        let found = statuses(&answer);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{shown:?}: {answer}"
        );
    }
    // Nothing of this reached the session, and the server goes on.
    let reply = door.get(&location).await.expect(204);
    assert_eq!(reply.header("range"), "0-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_smuggle_nothing() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let location = door.start("smuggled").await;
    let hidden = format!("DELETE {location} HTTP/1.1\r\nhost: x\r\n\r\n");
    let sent = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n{hidden}"
    );
    let answer = exchange(address, sent.as_bytes()).await;
    assert_eq!(statuses(&answer).len(), 1, "{answer}");
    door.get(&location).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_leaves_a_session_to_go_on_with() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let location = door.start("reset").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let came = async {
        while door.get(&location).await.expect(204).header("range") != "0-3" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, came).await.expect("the bytes are there");
    // Zero linger: the kernel answers with a reset in place of an orderly end.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    let put = format!("{location}?digest={}", sha256(b"abcdef"));
    let finished = async {
        let rest = [("content-range", "4-5")];
        while door.send("PUT", &put, &rest, "ef").await.status != 201 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, finished)
        .await
        .expect("the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_may_not_push_to_an_open_registry() {
    let data = tempfile::tempdir().unwrap();
    let (door, address) = serve(data.path()).await;
    let path = format!("/v2/page/blobs/uploads/?digest={}", sha256(b"abc"));
    for (headers, expected) in [
        ("host: evil.example:5000\r\n", "403"),
        (
            "host: localhost:5000\r\norigin: http://evil.example\r\n",
            "403",
        ),
        ("host: localhost:5000\r\norigin: null\r\n", "403"),
        (
            "host: localhost:5000\r\norigin: http://localhost:5000\r\n",
            "201",
        ),
        ("host: localhost:5000\r\n", "201"),
        ("host: 127.0.0.1\r\n", "201"),
        ("host: registry:5000\r\n", "201"),
    ] {
        let sent = format!(
            "POST {path} HTTP/1.1\r\n{headers}content-length: 3\r\nconnection: close\r\n\r\nabc"
        );
        let answer = exchange(address, sent.as_bytes()).await;
        assert_eq!(statuses(&answer), [expected], "{headers} {answer}");
        assert_eq!(answer.contains("DENIED"), expected == "403", "{answer}");
    }
    for path in ["/v2/", "/v2/_catalog", "/api/v1/repositories"] {
        let reply = door.send("GET", path, &[("origin", "http://evil.example")], "");
        assert_eq!(reply.await.status, 403, "{path}");
    }
    // HTTP/2 names its host otherwise.
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    for (host, expected) in [("evil.example", 403), ("localhost:5000", 200)] {
        let request = Request::get(format!("http://{host}/v2/"));
        let request = request.body(Body::empty()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), expected, "{host}");
    }
}
