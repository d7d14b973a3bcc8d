//! Mirrors: asked in order, passed over when they cannot, never asked to take anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::credentials::Credential;
use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::progress::{Event, Silent};
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Fixed;
use unpacker::remote::error::RemoteError;
use unpacker::remote::upload::Uploaded;

use crate::clock::TestClock;
use crate::faults::{MANIFEST, name_of, payload, range_of};
use crate::server::{Answer, Server};
use crate::store::Store;

const BODY: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// A client that asks `mirrors` before `origin`, whose password it knows.
fn client(clock: &TestClock, origin: &str, mirrors: &[&str]) -> Remote {
    unpacker::remote::install_crypto();
    let addresses = mirrors.iter().map(|mirror| mirror.parse().unwrap());
    let options = Options {
        mirrors: HashMap::from([(origin.to_owned(), addresses.collect())]),
        ..Options::default()
    };
    let credentials = Fixed {
        host: origin.to_owned(),
        credential: Credential::basic("eve", "pw"),
    };
    Remote::with_clock(options, Arc::new(credentials), Arc::new(clock.clone())).unwrap()
}

fn manifest() -> Answer {
    let answer = Answer::status(200).header("Content-Type", MANIFEST);
    answer.body(BODY)
}

fn missing() -> Answer {
    Answer::status(404).body("{}")
}

/// A place where nobody listens.
fn nobody() -> String {
    Server::start(|_, _| missing()).host.clone()
}

#[tokio::test]
async fn the_first_that_has_it_is_enough() {
    let empty = Server::start(|_, _| missing());
    let good = Server::start(|_, _| manifest());
    let origin = Server::start(|_, _| manifest());
    let addresses = [
        format!("http://{}/hub", empty.host),
        format!("http://{}", good.host),
    ];
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let clock = TestClock::new();
    let remote = client(&clock, &origin.host, &addresses);
    let reference: Reference = format!("{}/a/b:t", origin.host).parse().unwrap();
    let found = remote.resolve(&reference, &Silent).await.unwrap();
    assert_eq!(found.digest, sha256(BODY.as_bytes()));
    assert_eq!(empty.log(), ["GET /v2/hub/a/b/manifests/t"]);
    assert_eq!(good.log(), ["GET /v2/a/b/manifests/t"]);
    assert!(origin.log().is_empty());
    assert!(clock.slept().is_empty(), "a mirror was waited for");
}

#[tokio::test]
async fn a_mirror_that_is_down_rests_and_says_so_once() {
    let down = format!("http://{}", nobody());
    let origin = Server::start(|_, _| manifest());
    let clock = TestClock::new();
    let remote = client(&clock, &origin.host, &[&down]);
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    let warnings = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&warnings);
    let progress = move |event: Event| {
        *counted.lock().unwrap() += u32::from(matches!(event, Event::Warning { .. }));
    };
    for _ in 0..2 {
        remote.resolve(&reference, &progress).await.unwrap();
    }
    assert_eq!(*warnings.lock().unwrap(), 1);
    clock.advance(Duration::from_secs(61));
    remote.resolve(&reference, &progress).await.unwrap();
    assert_eq!(*warnings.lock().unwrap(), 2);
    assert!(clock.slept().is_empty());
}

#[tokio::test]
async fn what_a_mirror_sent_is_not_asked_for_again() {
    let broken = Server::start(|_, _| {
        let whole = payload();
        Answer::status(200).cut(whole.len(), &whole[..500_000])
    });
    let origin = Server::start(|request, _| {
        let whole = payload();
        let start = range_of(request).unwrap_or(0);
        let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
        let answer = Answer::status(206).header("Content-Range", range);
        answer.body(&whole[start..])
    });
    let remote = client(
        &TestClock::new(),
        &origin.host,
        &[&format!("http://{}", broken.host)],
    );
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let blob = name_of(&payload());
    let done = remote.download(&reference, &blob, &content, &Silent).await;
    assert!(done.is_ok(), "{done:?}");
    let starts: Vec<_> = origin.requests().iter().map(range_of).collect();
    assert_eq!(starts, [Some(500_000)]);
}

#[tokio::test]
async fn a_mirror_that_lies_is_found_out() {
    let liar = Server::start(|_, _| Answer::status(200).body(vec![7; payload().len()]));
    let cut = Server::start(|_, _| {
        let whole = payload();
        Answer::status(200).cut(whole.len(), vec![7; 500_000])
    });
    let origin = Server::start(|request, _| {
        let whole = payload();
        match range_of(request) {
            None => Answer::status(200).body(whole),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                let answer = Answer::status(206).header("Content-Range", range);
                answer.body(&whole[start..])
            }
        }
    });
    let addresses = [
        format!("http://{}", liar.host),
        format!("http://{}", cut.host),
    ];
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let remote = client(&TestClock::new(), &origin.host, &addresses);
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let blob = name_of(&payload());
    let done = remote.download(&reference, &blob, &content, &Silent).await;
    assert!(done.is_ok(), "{done:?}");
    assert!(store.bytes(&blob.digest) == payload());
    // The second liar's bytes were gone on with, and then given up.
    let starts: Vec<_> = origin.requests().iter().map(range_of).collect();
    assert_eq!(starts, [Some(500_000), None]);
}

#[tokio::test]
async fn a_mirror_never_sees_the_registrys_password() {
    let curious = Server::start(|_, _| {
        Answer::status(401)
            .header("WWW-Authenticate", "Basic realm=\"x\"")
            .body("")
    });
    let origin = Server::start(|request, _| match request.header("authorization") {
        Some(_) => manifest(),
        None => Answer::status(401)
            .header("WWW-Authenticate", "Basic realm=\"x\"")
            .body(""),
    });
    let mirror = format!("http://{}", curious.host);
    let remote = client(&TestClock::new(), &origin.host, &[&mirror]);
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    remote.resolve(&reference, &Silent).await.unwrap();
    assert!(!curious.requests().is_empty());
    for request in curious.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn pushes_go_to_the_registry_itself() {
    let mirror = Server::start(|_, _| Answer::status(200).body(""));
    let origin = Server::start(|_, _| Answer::status(200).body(""));
    let address = format!("http://{}", mirror.host);
    let remote = client(&TestClock::new(), &origin.host, &[&address]);
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    let store = Store::new();
    let content: Arc<dyn Content> = store;
    let blob = name_of(b"x");
    let sent = remote
        .upload(&reference, &blob, &content, None, &Silent)
        .await;
    assert!(matches!(sent, Ok(Uploaded::Existed)), "{sent:?}");
    assert!(mirror.log().is_empty());
}

#[tokio::test]
async fn the_registrys_own_refusal_counts() {
    let empty = Server::start(|_, _| missing());
    let origin = Server::start(|_, _| missing());
    let address = format!("http://{}", empty.host);
    let remote = client(&TestClock::new(), &origin.host, &[&address]);
    let reference: Reference = format!("{}/a:t", origin.host).parse().unwrap();
    match remote.resolve(&reference, &Silent).await {
        Err(RemoteError::NotFound { host, .. }) => assert_eq!(host, origin.host),
        other => panic!("{other:?}"),
    }
}
