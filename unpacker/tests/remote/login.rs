//! Challenges, tokens and who gets to see them.

use std::sync::Arc;
use std::time::Duration;

use config::credentials::{Credential, Secret};
use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::progress::Silent;
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::{Anonymous, Credentials, Fixed};
use unpacker::remote::download::BlobName;
use unpacker::remote::error::RemoteError;
use unpacker::remote::upload::Uploaded;

use crate::clock::TestClock;
use crate::server::{Answer, Request, Server};
use crate::store::Store;

const BASIC_EVE_PW: &str = "Basic ZXZlOnB3";
const MANIFEST: &str = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;

fn client(clock: &TestClock, credentials: impl Credentials + 'static) -> Remote {
    unpacker::remote::install_crypto();
    let clock = Arc::new(clock.clone());
    Remote::with_clock(Options::default(), Arc::new(credentials), clock).unwrap()
}

fn eve(host: &str) -> Fixed {
    Fixed {
        host: host.to_owned(),
        credential: Credential::basic("eve", "pw"),
    }
}

/// A registry that wants a bearer token of its own token service: `token-<n>` for the n-th visit.
fn bearer_registry(expires_in: u64) -> Server {
    Server::start(move |request, earlier| match request.path() {
        "/token" => {
            let body = format!(r#"{{"token":"token-{earlier}","expires_in":{expires_in}}}"#);
            Answer::status(200).body(body)
        }
        _ if request.header("authorization").is_some() => Answer::status(200).body(MANIFEST),
        _ => {
            let host = request.header("host").unwrap();
            let challenge =
                format!(r#"Bearer realm="http://{host}/token",service="reg",scope="x""#);
            Answer::status(401)
                .header("WWW-Authenticate", challenge)
                .body("")
        }
    })
}

fn authorizations(server: &Server, path: &str) -> Vec<Option<String>> {
    let requests = server.requests();
    let of_path = requests.iter().filter(|r| r.path() == path);
    of_path
        .map(|r| r.header("authorization").map(str::to_owned))
        .collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[tokio::test]
async fn tokens_are_fetched_once_per_scope_until_they_expire() {
    let server = bearer_registry(300);
    let clock = TestClock::new();
    let remote = client(&clock, eve(&server.host));
    let at = |name: &str| -> Reference { format!("{}/{name}:t", server.host).parse().unwrap() };
    for _ in 0..2 {
        remote.resolve(&at("a/b"), &Silent).await.unwrap();
    }
    remote.resolve(&at("c"), &Silent).await.unwrap();
    clock.advance(Duration::from_secs(295));
    remote.resolve(&at("a/b"), &Silent).await.unwrap();
    let mut expected = vec![None];
    expected.extend(some(&[
        "Bearer token-0",
        "Bearer token-0",
        "Bearer token-2",
    ]));
    assert_eq!(authorizations(&server, "/v2/a/b/manifests/t"), expected);
    // The challenge is known by now, so no request is wasted.
    let own = authorizations(&server, "/v2/c/manifests/t");
    assert_eq!(own, some(&["Bearer token-1"]));
    assert_eq!(authorizations(&server, "/token"), some(&[BASIC_EVE_PW; 3]));
    let visit = server.requests().into_iter().find(|r| r.path() == "/token");
    let target = "/token?service=reg&scope=repository%3Aa%2Fb%3Apull&account=eve";
    assert_eq!(visit.unwrap().target, target);
}

#[tokio::test]
async fn public_images_need_an_anonymous_token() {
    let server = bearer_registry(300);
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = client(&TestClock::new(), Anonymous);
    remote.resolve(&reference, &Silent).await.unwrap();
    assert_eq!(authorizations(&server, "/token"), [None]);
}

#[tokio::test]
async fn an_identity_token_goes_into_the_body() {
    let server = bearer_registry(300);
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let credentials = Fixed {
        host: server.host.clone(),
        credential: Credential::IdentityToken(Secret::new("refr&sh")),
    };
    let remote = client(&TestClock::new(), credentials);
    remote.resolve(&reference, &Silent).await.unwrap();
    let visits = server.requests();
    let visit = visits.iter().find(|r| r.path() == "/token").unwrap();
    assert_eq!((&*visit.method, &*visit.target), ("POST", "/token"));
    let body = "grant_type=refresh_token&client_id=devpod&service=reg&\
                scope=repository%3Aa%3Apull&refresh_token=refr%26sh";
    assert_eq!(String::from_utf8_lossy(&visit.body), body);
    assert_eq!(visit.header("authorization"), None);
}

#[tokio::test]
async fn a_login_is_asked_for_with_the_places_searched() {
    let server = Server::start(|_, _| {
        Answer::status(401)
            .header("WWW-Authenticate", r#"Basic realm="r""#)
            .body("")
    });
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = client(&TestClock::new(), Anonymous);
    let error = remote.resolve(&reference, &Silent).await.unwrap_err();
    let said = error.to_string();
    for part in [
        "wants a login for pulling a",
        "no place",
        "devpod login 127.0.0.1",
        "DOCKER_USERNAME",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let remote = client(&TestClock::new(), eve(&server.host));
    let error = remote.resolve(&reference, &Silent).await.unwrap_err();
    assert!(
        matches!(error, RemoteError::LoginRefused { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("the given credentials"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("pw\""), "{error:?}");
}

#[tokio::test]
async fn a_password_is_for_one_host() {
    let server = bearer_registry(300);
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = client(&TestClock::new(), eve("registry.example"));
    remote.resolve(&reference, &Silent).await.unwrap();
    assert_eq!(authorizations(&server, "/token"), [None]);
}

/// Basic for everything; blobs and uploads are elsewhere.
fn registry_with_annex(annex: String) -> Server {
    Server::start(move |request: &Request, _| {
        if request.header("authorization") != Some(BASIC_EVE_PW) {
            let challenge = r#"Basic realm="r""#;
            return Answer::status(401)
                .header("WWW-Authenticate", challenge)
                .body("");
        }
        match &*request.method {
            "HEAD" => Answer::status(404),
            "POST" => {
                let location = format!("http://{annex}/session?_state=s%2Fs");
                Answer::status(202).header("Location", location).body("")
            }
            _ => Answer::status(307)
                .header("Location", format!("http://{annex}/signed"))
                .body(""),
        }
    })
}

#[tokio::test]
async fn a_redirect_to_another_host_loses_the_authorization() {
    let annex = Server::start(|_, _| Answer::status(200).body("blob"));
    let server = registry_with_annex(annex.host.clone());
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let blob = BlobName {
        digest: sha256(b"blob"),
        size: 4,
    };
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let remote = client(&TestClock::new(), eve(&server.host));
    let done = remote.download(&reference, &blob, &content, &Silent).await;
    done.unwrap();
    assert_eq!(store.bytes(&blob.digest), b"blob");
    assert_eq!(annex.log(), ["GET /signed"]);
    let request = &annex.requests()[0];
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("referer"), None);
}

#[tokio::test]
async fn another_host_cannot_ask_for_the_password() {
    let annex = Server::start(|request, _| {
        let host = request.header("host").unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/steal",service="s""#);
        Answer::status(401)
            .header("WWW-Authenticate", challenge)
            .body("")
    });
    let server = registry_with_annex(annex.host.clone());
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = client(&TestClock::new(), eve(&server.host));
    let error = remote.resolve(&reference, &Silent).await.unwrap_err();
    assert!(matches!(error, RemoteError::Denied { .. }), "{error:?}");
    assert_eq!(annex.log(), ["GET /signed"]);
}

#[tokio::test]
async fn an_upload_elsewhere_loses_the_authorization() {
    let annex = Server::start(|_, _| Answer::status(201).body(""));
    let server = registry_with_annex(annex.host.clone());
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let content: Arc<dyn Content> = Store::new();
    let (digest, size) = content.put(b"some bytes").unwrap();
    let blob = BlobName { digest, size };
    let remote = client(&TestClock::new(), eve(&server.host));
    let done = remote
        .upload(&reference, &blob, &content, None, &Silent)
        .await;
    assert_eq!(done.unwrap(), Uploaded::Sent);
    let request = &annex.requests()[0];
    let digest = blob.digest.to_string().replace(':', "%3A");
    assert_eq!(
        request.target,
        format!("/session?_state=s%2Fs&digest={digest}")
    );
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("content-length"), Some("10"));
    assert_eq!(request.body, b"some bytes");
}

#[tokio::test]
async fn an_anonymous_token_that_is_not_enough_asks_for_a_login() {
    let server = Server::start(|request, _| {
        let host = request.header("host").unwrap();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s""#);
        match request.path() {
            "/token" => Answer::status(200).body(r#"{"access_token":"weak"}"#),
            _ => Answer::status(401)
                .header("WWW-Authenticate", challenge)
                .body(""),
        }
    });
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let remote = client(&TestClock::new(), Anonymous);
    let error = remote.resolve(&reference, &Silent).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("looked for credentials in no place"),
        "{said}"
    );
    assert_eq!(server.log().len(), 3);
}

#[tokio::test]
async fn a_lost_upload_session_is_opened_again() {
    let server = Server::start(|request, earlier| match (&*request.method, earlier) {
        ("HEAD", _) => Answer::status(404),
        ("POST", _) => Answer::status(202).header("Location", "/session").body(""),
        (_, 0) => Answer::status(404).body(""),
        _ => Answer::status(201).body(""),
    });
    let reference: Reference = format!("{}/a:t", server.host).parse().unwrap();
    let content: Arc<dyn Content> = Store::new();
    let (digest, size) = content.put(b"some bytes").unwrap();
    let blob = BlobName { digest, size };
    let clock = TestClock::new();
    let remote = client(&clock, Anonymous);
    let done = remote
        .upload(&reference, &blob, &content, None, &Silent)
        .await;
    assert_eq!(done.unwrap(), Uploaded::Sent);
    assert_eq!(clock.slept(), [1000]);
    let bodies = server.requests().into_iter().filter(|r| r.method == "PUT");
    assert!(bodies.map(|r| r.body).all(|body| body == b"some bytes"));
}
