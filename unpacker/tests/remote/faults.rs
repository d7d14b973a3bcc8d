//! What a network and a hostile or broken registry do to a transfer.

use std::sync::Arc;
use std::time::Duration;

use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Silent};
use unpacker::pull::{PullError, pull};
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;
use unpacker::remote::download::BlobName;
use unpacker::remote::error::RemoteError;

use crate::clock::TestClock;
use crate::server::{Answer, Request, Server};
use crate::store::Store;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn remote(clock: &TestClock) -> Remote {
    remote_with(clock, Duration::from_secs(10))
}

pub(crate) fn remote_with(clock: &TestClock, stall: Duration) -> Remote {
    unpacker::remote::install_crypto();
    let options = Options {
        stall,
        ..Options::default()
    };
    Remote::with_clock(options, Arc::new(Anonymous), Arc::new(clock.clone())).unwrap()
}

/// Bytes that do not repeat within a piece.
pub(crate) fn payload() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

pub(crate) fn name_of(bytes: &[u8]) -> BlobName {
    BlobName {
        digest: sha256(bytes),
        size: bytes.len() as u64,
    }
}

struct Outcome {
    result: Result<(), RemoteError>,
    slept: Vec<u128>,
    store: Arc<Store>,
    server: Server,
}

/// Downloads `payload()` from a server with `handler`.
async fn download(handler: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Outcome {
    let server = Server::start(handler);
    let clock = TestClock::new();
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let reference: Reference = format!("{}/a/b:t", server.host).parse().unwrap();
    let blob = name_of(&payload());
    let result = remote(&clock)
        .download(&reference, &blob, &content, &Silent)
        .await;
    Outcome {
        result,
        slept: clock.slept(),
        store,
        server,
    }
}

impl Outcome {
    fn arrived(&self) {
        assert!(self.result.is_ok(), "{:?}", self.result);
        let stored = self.store.bytes(&sha256(&payload()));
        assert!(stored == payload(), "other bytes were stored");
    }

    /// Failed at the first attempt, and left nothing behind.
    fn refused(self) -> RemoteError {
        let error = self.result.expect_err("a refusal");
        assert_eq!(self.slept, [0u128; 0], "{error} was tried again");
        assert!(!error.retriable());
        assert_eq!(self.server.requests().len(), 1);
        error
    }
}

pub(crate) fn range_of(request: &Request) -> Option<usize> {
    let range = request.header("range")?.strip_prefix("bytes=")?;
    Some(range.strip_suffix('-')?.parse().unwrap())
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_was() {
    let outcome = download(|request, _| {
        let whole = payload();
        let start = range_of(request).unwrap_or(0);
        let rest = &whole[start..];
        // The connection ends after 400 KiB each time.
        let part = &rest[..rest.len().min(400 * 1024)];
        match start {
            0 => Answer::status(200).cut(rest.len(), part),
            _ => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.cut(rest.len(), part)
            }
        }
    })
    .await;
    outcome.arrived();
    assert_eq!(outcome.slept, [1000, 2000]);
    let requests = outcome.server.requests();
    let starts: Vec<_> = requests.iter().map(range_of).collect();
    assert_eq!(starts, [None, Some(400 * 1024), Some(800 * 1024)]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_again() {
    let outcome = download(|_, earlier| {
        let whole = payload();
        let part = if earlier == 0 { 700_001 } else { whole.len() };
        Answer::status(200).cut(whole.len(), &whole[..part])
    })
    .await;
    outcome.arrived();
    assert_eq!(outcome.slept, [1000]);
}

#[tokio::test]
async fn a_body_without_length_that_ends_early_is_resumed() {
    let outcome = download(|request, _| {
        let whole = payload();
        match range_of(request) {
            None => Answer::status(200).endless(&whole[..5]),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.body(&whole[start..])
            }
        }
    })
    .await;
    outcome.arrived();
}

#[tokio::test]
async fn a_wrong_range_is_not_glued_on() {
    let outcome = download(|request, _| {
        let whole = payload();
        match range_of(request) {
            None => Answer::status(200).cut(whole.len(), &whole[..100_000]),
            Some(_) => Answer::status(206)
                .header("Content-Range", "bytes 7-9/10")
                .body(&whole[7..10]),
        }
    })
    .await;
    let result = outcome.result;
    assert!(
        matches!(result, Err(RemoteError::Protocol { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn patience_is_asked_for() {
    let outcome = download(|_, earlier| match earlier {
        0 => Answer::status(429).header("Retry-After", "7").body("{}"),
        1 => {
            // The test's wall clock stands at 7 s after the epoch now.
            let date = "Thu, 01 Jan 1970 00:00:57 GMT";
            Answer::status(503).header("Retry-After", date).body("")
        }
        _ => Answer::status(200).body(payload()),
    })
    .await;
    outcome.arrived();
    assert_eq!(outcome.slept, [7_000, 50_000]);
}

#[tokio::test]
async fn three_retries_and_no_more() {
    let outcome = download(|_, _| {
        let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"out for lunch"}]}"#;
        Answer::status(503).body(body)
    })
    .await;
    let error = outcome.result.unwrap_err();
    assert!(
        error.to_string().ends_with("(status 503): out for lunch"),
        "{error}"
    );
    assert_eq!(outcome.slept, [1000, 2000, 4000]);
    assert_eq!(outcome.server.requests().len(), 4);
}

#[tokio::test]
async fn a_line_that_brings_something_is_not_given_up() {
    // Five interruptions, each after more than a megabyte; three without would be the end.
    let whole: Vec<u8> = (0..1_600_000u32).flat_map(u32::to_le_bytes).collect();
    let blob = name_of(&whole);
    let server = Server::start(move |request, _| {
        let start = range_of(request).unwrap_or(0);
        let end = (start + 1_100_000).min(whole.len());
        let answer = match start {
            0 => Answer::status(200),
            _ => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                Answer::status(206).header("Content-Range", range)
            }
        };
        answer.cut(whole.len() - start, &whole[start..end])
    });
    let clock = TestClock::new();
    let content: Arc<dyn Content> = Store::new();
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let done = remote(&clock)
        .download(&reference, &blob, &content, &Silent)
        .await;
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(clock.slept(), [1000; 5]);
}

#[tokio::test]
async fn other_bytes_are_refused() {
    let outcome = download(|_, _| {
        let mut bytes = payload();
        bytes[600_000] ^= 1;
        Answer::status(200).body(bytes)
    })
    .await;
    outcome.store.becomes_empty();
    let error = outcome.refused();
    assert!(
        matches!(error, RemoteError::DigestMismatch { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn other_sizes_are_refused() {
    let short = download(|_, _| Answer::status(200).body(&payload()[..10])).await;
    let error = short.refused();
    assert!(
        matches!(error, RemoteError::SizeMismatch { actual: 10, .. }),
        "{error}"
    );
    let long = download(|_, _| {
        let mut bytes = payload();
        bytes.push(0);
        Answer::status(200).endless(bytes)
    })
    .await;
    long.store.becomes_empty();
    let error = long.refused();
    assert!(matches!(error, RemoteError::SizeMismatch { .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let outcome = download(|_, _| Answer::status(404).body("")).await;
    let host = outcome.server.host.clone();
    let digest = sha256(&payload());
    let error = outcome.refused().to_string();
    assert_eq!(
        error,
        format!("blob {digest} of a/b does not exist on {host}")
    );
}

#[tokio::test]
async fn nobody_listens() {
    let server = Server::start(|_, _| Answer::status(200));
    let host = server.host.clone();
    drop(server);
    let clock = TestClock::new();
    let reference: Reference = format!("{host}/a:t").parse().unwrap();
    let error = remote(&clock)
        .resolve(&reference, &Silent)
        .await
        .unwrap_err();
    assert!(matches!(error, RemoteError::Network { .. }), "{error}");
    assert_eq!(error.to_string(), format!("cannot reach {host} for a:t"));
    assert_eq!(clock.slept(), [1000, 2000, 4000]);
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let server = Server::start(|_, _| {
        let whole = payload();
        Answer::status(200)
            .cut(whole.len(), &whole[..50_000])
            .hang()
    });
    let clock = TestClock::new();
    let content: Arc<dyn Content> = Store::new();
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = remote_with(&clock, Duration::from_millis(100));
    let blob = name_of(&payload());
    let result = remote.download(&reference, &blob, &content, &Silent).await;
    assert!(
        matches!(result, Err(RemoteError::Stalled { .. })),
        "{result:?}"
    );
    assert_eq!(clock.slept().first(), Some(&1000));
}

#[tokio::test]
async fn a_cancel_ends_a_silent_pull() {
    let server = Server::start(|_, _| Answer::status(200).cut(100, "").hang());
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let cancel = Cancel::default();
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let task = {
        let cancel = cancel.clone();
        let remote = remote(&TestClock::new());
        tokio::spawn(async move {
            let platform = Platform::host();
            pull(&remote, content, &reference, &platform, &Silent, &cancel).await
        })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    let result = ended.expect("the pull ends").unwrap();
    assert!(matches!(result, Err(PullError::Cancelled(_))), "{result:?}");
    store.becomes_empty();
}

/// What `resolve` says to a manifest answer.
async fn resolve(target: &str, answer: impl Fn() -> Answer + Send + 'static) -> String {
    let server = Server::start(move |_, _| answer());
    let reference = format!("{}/a{target}", server.host);
    let reference: Reference = reference.parse().unwrap();
    let clock = TestClock::new();
    match remote(&clock).resolve(&reference, &Silent).await {
        Ok(fetched) => format!("{} {}", fetched.media_type, fetched.digest),
        Err(error) => error.to_string().replace(&server.host, "HOST"),
    }
}

#[tokio::test]
async fn manifests_are_verified() {
    let body = br#"{"schemaVersion":2, "layers":[] }"#;
    let digest = sha256(body);
    let other = sha256(b"other");
    let good = format!("{MANIFEST} {digest}");
    let typed = move |kind: &'static str| {
        move || Answer::status(200).header("Content-Type", kind).body(body)
    };
    assert_eq!(resolve(":t", typed(MANIFEST)).await, good);
    assert_eq!(resolve(&format!("@{digest}"), typed(MANIFEST)).await, good);
    let wrong = format!("HOST sent other bytes for a@{other}: expected {other}, got {digest}");
    assert_eq!(resolve(&format!("@{other}"), typed(MANIFEST)).await, wrong);
    let header = other.to_string();
    let claimed = resolve(":t", move || {
        typed(MANIFEST)().header("Docker-Content-Digest", &header)
    })
    .await;
    assert_eq!(claimed, wrong.replace(&format!("a@{other}"), "a:t"));
}

#[tokio::test]
async fn documents_with_two_meanings_are_refused() {
    let answer = |kind: &'static str, body: &'static str| {
        move || Answer::status(200).header("Content-Type", kind).body(body)
    };
    let both = r#"{"layers":[],"manifests":[]}"#;
    let said = resolve(":t", answer(MANIFEST, both)).await;
    assert!(said.contains("manifest and an index at once"), "{said}");
    let typed = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let said = resolve(":t", answer(MANIFEST, typed)).await;
    assert!(said.contains("calls itself"), "{said}");
    let said = resolve(":t", answer("application/json", typed)).await;
    assert!(said.starts_with(INDEX), "{said}");
    let said = resolve(":t", answer("text/html", "<html>")).await;
    assert!(said.contains("not a JSON manifest"), "{said}");
}

#[tokio::test]
async fn dockers_first_manifests_are_refused_by_name() {
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let body = r#"{"schemaVersion":1,"name":"a","fsLayers":[],"signatures":[]}"#;
    for kind in [signed, "application/json"] {
        // Its digest is that of the document without its signatures.
        let other = sha256(b"unsigned").to_string();
        let said = resolve(":t", move || {
            let answer = Answer::status(200).header("Content-Type", kind);
            answer.header("Docker-Content-Digest", &other).body(body)
        })
        .await;
        assert!(said.contains("schema version 1"), "{said}");
    }
}

#[tokio::test]
async fn another_encoding_is_not_stored() {
    let outcome = download(|_, _| {
        let answer = Answer::status(200).header("Content-Encoding", "gzip");
        answer.body(payload())
    })
    .await;
    let error = outcome.refused().to_string();
    assert!(error.contains("encoded as"), "{error}");
}

#[tokio::test]
async fn a_huge_manifest_is_not_read() {
    let said = resolve(":t", || {
        Answer::status(200).endless(vec![b' '; 9 * 1024 * 1024])
    })
    .await;
    assert_eq!(said, "a:t of HOST is larger than 8388608 bytes");
}

#[tokio::test]
async fn a_missing_platform_names_those_there_are() {
    let server = Server::start(|_, _| {
        let entry = |arch: &str| {
            format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{arch}"}}}}"#,
                sha256(arch.as_bytes())
            )
        };
        let body = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            entry("s390x"),
            entry("riscv64")
        );
        Answer::status(200).header("Content-Type", INDEX).body(body)
    });
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = remote(&TestClock::new());
    let platform: Platform = "linux/amd64".parse().unwrap();
    let content: Arc<dyn Content> = Store::new();
    let result = pull(
        &remote,
        content,
        &reference,
        &platform,
        &Silent,
        &Cancel::default(),
    )
    .await;
    let Err(PullError::Image { source, .. }) = result else {
        panic!("{result:?}");
    };
    let said = source.to_string();
    assert!(said.contains("linux/s390x, linux/riscv64"), "{said}");
}
