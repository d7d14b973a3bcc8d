//! What happens below HTTP: files that go to the socket by themselves, TLS, its reload, and clients
//! with certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use registry::http::tls::{Tls, TlsError, TlsFiles};
use registry::http::{Front, Limits, Transport, router, serve_router};
use registry::service::Registry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::door::{Door, open, tcp};

/// Bytes that are different everywhere, so that no part can stand for another.
fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8))
        .flat_map(|_| next())
        .take(length)
        .collect()
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, requests: &str) -> Vec<u8> {
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

fn bodies(mut answer: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for length in lengths {
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        found.push(answer[end..end + length].to_vec());
        answer = &answer[end + length..];
    }
    assert!(answer.is_empty(), "{} bytes too many", answer.len());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn files_reach_the_socket_whole() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let Door::Tcp(address) = door else {
        unreachable!()
    };
    // More than one piece, and no multiple of it.
    let blob = content(5 * 1024 * 1024 + 4321);
    let digest = door.push_blob("a", &blob).await;
    let small = content(70_000);
    let second = door.push_blob("a", &small).await;
    let get =
        |digest, more: &str| format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    // Several requests at once on one connection: answers keep their order and their bytes.
    let requests = [
        get(&digest, ""),
        get(&second, ""),
        get(&digest, "range: bytes=1048570-3000000\r\n"),
        get(&digest, "range: bytes=-65537\r\nconnection: close\r\n"),
    ];
    let stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(stream, &requests.concat()).await;
    let part = &blob[1_048_570..=3_000_000];
    let tail = &blob[blob.len() - 65_537..];
    let found = bodies(&answer, &[blob.len(), small.len(), part.len(), tail.len()]);
    assert!(found[0] == blob && found[1] == small && found[2] == part && found[3] == tail);
    // A client that goes away in the middle hurts nobody.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(get(&digest, "").as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 1000]).await.unwrap();
    drop(stream);
    let whole = door.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
    assert!(whole.body == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_get_every_byte() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let Door::Tcp(address) = door else {
        unreachable!()
    };
    let blob = content(9 * 1024 * 1024 + 1);
    let digest = door.push_blob("a", &blob).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = vec![0; 300_000];
    loop {
        // The socket's buffers are full again and again.
        tokio::time::sleep(Duration::from_millis(2)).await;
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    assert!(bodies(&answer, &[blob.len()])[0] == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_are_dropped() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections: 1,
        unread: Duration::from_millis(200),
        ..Limits::default()
    };
    let router = router(Front::new(registry.clone()));
    tokio::spawn(serve_router(
        listener,
        router,
        limits,
        std::future::pending(),
    ));
    // More than the socket's buffers hold.
    let blob = content(32 * 1024 * 1024);
    let door = Door::Tcp(address);
    let digest = door.push_blob("a", &blob).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // There is one place only: the next is served once the first has lost it.
    let next = tokio::time::timeout(Duration::from_secs(20), door.get("/v2/"));
    next.await.unwrap().expect(200);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < blob.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_tls_gets_the_same_bytes() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let door = tcp(&registry).await;
    let Door::Tcp(address) = door else {
        unreachable!()
    };
    let blob = content(3 * 1024 * 1024 + 17);
    let digest = door.push_blob("a", &blob).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{address}/v2/a/blobs/{digest}"));
    let request = request.body(Body::empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.into_body().collect().await.unwrap().to_bytes() == blob);
}

/// A registry with one place for a connection.
async fn serve_one(registry: &Registry, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        connections: 1,
        ..limits
    };
    let router = router(Front::new(registry.clone()));
    let never = std::future::pending();
    tokio::spawn(serve_router(listener, router, limits, never));
    address
}

type Sender = hyper::client::conn::http2::SendRequest<Body>;

async fn http2(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    // A client that takes nothing is sent no more than this.
    builder.initial_stream_window_size(1000);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(
    sender: &mut Sender,
    address: SocketAddr,
    path: &str,
) -> http::Response<hyper::body::Incoming> {
    let request = Request::get(format!("http://{address}{path}"));
    let request = request.body(Body::empty()).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_end_their_connection() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let limits = Limits {
        unread: Duration::from_millis(600),
        ..Limits::default()
    };
    let address = serve_one(&registry, limits).await;
    let door = tcp(&registry).await;
    // One of many pieces, one of a single piece, one that is in memory at once.
    for size in [3 << 20, 200 << 10, 3000] {
        let digest = door.push_blob("a", &content(size)).await;
        let mut sender = http2(address).await;
        let blob = format!("/v2/a/blobs/{digest}");
        let stuck = ask(&mut sender, address, &blob).await;
        // Its connection is alive and goes on with other requests meanwhile.
        ask(&mut sender, address, "/v2/").await;
        let next = Door::Tcp(address);
        let next = tokio::time::timeout(Duration::from_secs(20), next.get("/v2/"));
        next.await.expect("the place is free").expect(200);
        assert!(stuck.into_body().collect().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_connections_without_requests_are_let_go() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let limits = Limits {
        headers: Duration::from_millis(400),
        ..Limits::default()
    };
    let address = serve_one(&registry, limits).await;
    let mut sender = http2(address).await;
    for _ in 0..4 {
        let body = ask(&mut sender, address, "/v2/").await.into_body();
        body.collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let next = Door::Tcp(address);
    let next = tokio::time::timeout(Duration::from_secs(20), next.get("/v2/"));
    next.await.expect("the place is free").expect(200);
    assert!(sender.is_closed());
}

/// An authority, with which certificates are made.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// Certificate and key as PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, folder: &Path, mutual: bool) -> TlsFiles {
        let (certificate, key) = self.issue("server");
        let files = TlsFiles {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            client_authority: mutual.then(|| folder.join("clients.pem")),
        };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        if let Some(path) = &files.client_authority {
            std::fs::write(path, self.0.pem()).unwrap();
        }
        files
    }

    async fn connect(
        &self,
        address: SocketAddr,
        identity: Option<(String, String)>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

async fn serve_tls(registry: &Registry, files: TlsFiles) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let transport = Transport {
        limits: Limits::default(),
        tls: Some(Tls::open(files).unwrap()),
        ..Transport::default()
    };
    let router = router(Front::new(registry.clone()));
    tokio::spawn(serve_router(
        listener,
        router,
        transport,
        std::future::pending(),
    ));
    address
}

const PING: &str = "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

async fn ping(stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    exchange(stream, PING).await.starts_with(b"HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_and_takes_up_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(&folder.path().join("data"));
    let old = Authority::new();
    let address = serve_tls(&registry, old.write(folder.path(), false)).await;
    let blob = content(2 * 1024 * 1024);
    let digest = tcp(&registry).await.push_blob("a", &blob).await;
    let get = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(old.connect(address, None).await.unwrap(), &get).await;
    assert!(bodies(&answer, &[blob.len()])[0] == blob);

    // Nonsense changes nothing; a good pair is taken up while the old connections go on.
    let half = old.connect(address, None).await.unwrap();
    std::fs::write(folder.path().join("server.pem"), "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(ping(old.connect(address, None).await.unwrap()).await);
    let new = Authority::new();
    new.write(folder.path(), false);
    let begun = SystemTime::now();
    while new.connect(address, None).await.is_err() {
        assert!(
            begun.elapsed().unwrap() < Duration::from_secs(20),
            "never reloaded"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(old.connect(address, None).await.is_err());
    assert!(ping(half).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_wants_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(&folder.path().join("data"));
    let authority = Authority::new();
    let address = serve_tls(&registry, authority.write(folder.path(), true)).await;
    let known = authority
        .connect(address, Some(authority.issue("alice")))
        .await;
    assert!(ping(known.unwrap()).await);
    for identity in [None, Some(Authority::new().issue("alice"))] {
        // With TLS 1.3 the client learns of the refusal when it reads.
        let Ok(mut stream) = authority.connect(address, identity).await else {
            continue;
        };
        let _ = stream.write_all(PING.as_bytes()).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        assert!(read.is_err() && answer.is_empty(), "{answer:?}");
    }
}

#[test]
fn says_which_file_is_of_no_use() {
    let folder = tempfile::tempdir().unwrap();
    let files = Authority::new().write(folder.path(), true);
    let other = Authority::new().issue("x");
    type Expected = fn(&TlsError) -> bool;
    let cases: [(&str, &str, Expected); 4] = [
        ("server.pem", "", |error| {
            matches!(error, TlsError::Pem { .. })
        }),
        ("server.key", "x", |error| {
            matches!(error, TlsError::Pem { .. })
        }),
        ("server.key", &other.1, |error| {
            matches!(error, TlsError::Certificate { .. })
        }),
        ("clients.pem", "x", |error| {
            matches!(error, TlsError::Pem { .. })
        }),
    ];
    for (name, text, expected) in cases {
        let path = folder.path().join(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let error = Tls::open(files.clone()).unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
        std::fs::write(&path, before).unwrap();
    }
    std::fs::remove_file(&files.key).unwrap();
    let error = Tls::open(files).unwrap_err();
    assert!(matches!(error, TlsError::Read { .. }), "{error:?}");
}
