//! The token service and API tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::registry::access::{Anonymous, Challenge};
use registry::access::api_token::NewToken;
use registry::access::{Action, Settings};
use serde_json::{Value, json};

use super::door::{Door, Reply, sha256};
use super::guard::{Guarded, basic, login, rules, users};

const FORM: &str = "application/x-www-form-urlencoded";

fn guarded() -> Guarded {
    Guarded::with(|data| Settings {
        challenge: Some(Challenge::Token),
        rules: rules(&[
            "a/** ann pull,push,delete",
            "a/** eve pull",
            "b eve pull,push",
        ]),
        ..users(data)
    })
}

fn bearer(reply: &Reply) -> String {
    let json = reply.json();
    assert_eq!(json["token"], json["access_token"]);
    format!("Bearer {}", json["token"].as_str().unwrap())
}

pub(crate) async fn token(guarded: &Guarded, user: &str, scopes: &str) -> String {
    let path = format!("/token?service=devpod&scope={scopes}");
    let reply = guarded
        .door
        .send("GET", &path, &[("authorization", &login(user))], "")
        .await;
    assert_eq!(reply.status, 200);
    bearer(&reply)
}

async fn form(guarded: &Guarded, text: &str) -> Reply {
    let headers = [("content-type", FORM)];
    guarded
        .send("", "POST", "/token", &headers, text.to_owned())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_leads_to_a_token_that_opens() {
    let guarded = guarded();
    guarded.push("a/b", "1").await;
    let ping = guarded.ask("", "GET", "/v2/").await.expect(401);
    assert_eq!(
        ping.header("www-authenticate"),
        "Bearer realm=\"http://localhost/token\",service=\"devpod\""
    );
    let path = "/v2/a/b/manifests/1";
    let reply = guarded.ask("", "GET", path).await.expect(401);
    assert_eq!(
        reply.header("www-authenticate"),
        "Bearer realm=\"http://localhost/token\",service=\"devpod\",scope=\"repository:a/b:pull\""
    );
    let reply = guarded.ask("", "POST", "/v2/a/b/blobs/uploads/").await;
    let challenge = reply.expect(401).header("www-authenticate").to_owned();
    assert!(
        challenge.ends_with("scope=\"repository:a/b:pull,push\""),
        "{challenge}"
    );
    let got = token(&guarded, "ann", "repository:a/b:pull,push").await;
    guarded.send(&got, "GET", "/v2/", &[], "").await.expect(200);
    guarded.send(&got, "GET", path, &[], "").await.expect(200);
    let post = "/v2/a/b/blobs/uploads/";
    guarded.send(&got, "POST", post, &[], "").await.expect(202);
    // Five minutes later it is none any more, and the client learns what to ask for.
    guarded.pass(300);
    let reply = guarded.send(&got, "GET", path, &[], "").await.expect(401);
    let challenge = reply.header("www-authenticate");
    assert!(challenge.contains("scope=\"repository:a/b:pull\",error=\"invalid_token\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_what_was_asked_for_and_allowed() {
    let guarded = guarded();
    guarded.push("a/b", "1").await;
    guarded.push("b", "1").await;
    for (user, scopes, granted) in [
        (
            "ann",
            "repository:a/b:pull,push",
            "repository:a/b:pull,push",
        ),
        ("ann", "repository:a/b:*", "repository:a/b:pull,push,delete"),
        (
            "eve",
            "repository:a/b:pull,push,delete",
            "repository:a/b:pull",
        ),
        ("eve", "repository:c:pull", ""),
        (
            "eve",
            "repository:a/b:pull&scope=repository:b:push",
            "repository:a/b:pull repository:b:push",
        ),
        (
            "eve",
            "repository:a/b:pull+repository:b:push",
            "repository:a/b:pull repository:b:push",
        ),
        ("eve", "registry:catalog:*", "registry:catalog:*"),
        ("eve", "", ""),
    ] {
        let path = format!("/token?service=devpod&account={user}&scope={scopes}");
        let reply = guarded.ask(user, "GET", &path).await.without_version(200);
        assert_eq!(reply.json()["scope"], granted, "{user} {scopes}");
        assert_eq!(reply.json()["expires_in"], 300);
        assert_eq!(reply.json()["issued_at"], "2027-01-15T08:00:00Z");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(reply.json().get("refresh_token").is_none());
    }
    // A token opens its repository only, and only for what it was asked for.
    let got = token(&guarded, "ann", "repository:a/b:pull").await;
    for (method, path, status) in [
        ("GET", "/v2/a/b/manifests/1", 200),
        ("POST", "/v2/a/b/blobs/uploads/", 401),
        ("DELETE", "/v2/a/b/manifests/1", 401),
        ("GET", "/v2/a/c/manifests/1", 401),
        ("GET", "/v2/b/manifests/1", 403),
        ("GET", "/v2/_catalog", 401),
    ] {
        let reply = guarded
            .send(&got, method, path, &[], "")
            .await
            .expect(status);
        if status == 401 {
            let challenge = reply.header("www-authenticate");
            assert!(
                challenge.contains("error=\"insufficient_scope\""),
                "{challenge}"
            );
        }
    }
    // Nor does it mount from elsewhere what its owner could read; it can be asked for with that.
    let wide = token(&guarded, "eve", "repository:b:pull,push").await;
    let mount = format!("/v2/b/blobs/uploads/?mount={}&from=a/b", sha256(b"a/b"));
    let reply = guarded.send(&wide, "POST", &mount, &[], "").await;
    let reply = reply.expect(401);
    let challenge = reply.header("www-authenticate");
    let scopes = "scope=\"repository:b:pull,push repository:a/b:pull\"";
    assert!(challenge.contains(scopes), "{challenge}");
    let (anywhere, _) = mount.split_once('&').unwrap();
    for path in [anywhere, &format!("{anywhere}&from=secret")] {
        let reply = guarded.send(&wide, "POST", path, &[], "").await;
        reply.expect(202);
    }
    let both = token(
        &guarded,
        "eve",
        "repository:b:pull,push&scope=repository:a/b:pull",
    )
    .await;
    guarded
        .send(&both, "POST", &mount, &[], "")
        .await
        .expect(201);
    let listed = token(&guarded, "eve", "registry:catalog:*").await;
    let reply = guarded.send(&listed, "GET", "/v2/_catalog", &[], "").await;
    assert_eq!(
        reply.expect(200).json()["repositories"],
        json!(["a/b", "b"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_token_without_the_right_password() {
    let guarded = guarded();
    for authorization in [
        "",
        &basic("ann", "x"),
        &basic("nobody", "x"),
        "Basic x",
        "Bearer x",
    ] {
        let reply = guarded
            .send(authorization, "GET", "/token?scope=", &[], "")
            .await;
        let reply = reply.without_version(401);
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"devpod\"");
    }
    // A token is no password: it cannot be prolonged by itself.
    let got = token(&guarded, "ann", "repository:a/b:pull").await;
    let again = guarded
        .send(&got, "GET", "/token?scope=repository:a/b:push", &[], "")
        .await;
    again.without_version(401);
    for (path, status) in [
        ("/token?service=other", 400),
        (
            &*format!("/token?{}", "scope=repository:a:pull&".repeat(33)),
            400,
        ),
    ] {
        guarded
            .ask("ann", "GET", path)
            .await
            .without_version(status);
    }
    guarded
        .ask("ann", "DELETE", "/token")
        .await
        .without_version(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn nameless_callers_get_tokens_for_what_they_may() {
    let guarded = Guarded::with(|data| Settings {
        anonymous: Some(Anonymous::Pull),
        ..users(data)
    });
    guarded.push("a", "1").await;
    let reply = guarded
        .ask(
            "",
            "GET",
            "/token?service=devpod&scope=repository:a:pull,push",
        )
        .await;
    let reply = reply.without_version(200);
    assert_eq!(reply.json()["scope"], "repository:a:pull");
    let got = bearer(&reply);
    // docker pings with it, and must not be sent away.
    guarded.send(&got, "GET", "/v2/", &[], "").await.expect(200);
    guarded
        .send(&got, "GET", "/v2/a/manifests/1", &[], "")
        .await
        .expect(200);
    guarded
        .send(&got, "POST", "/v2/a/blobs/uploads/", &[], "")
        .await
        .expect(401);
    let got = token(&guarded, "ann", "repository:a:push").await;
    let reply = guarded.send(&got, "POST", "/v2/a/blobs/uploads/", &[], "");
    reply.await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_containerd_log_in_by_form() {
    let guarded = guarded();
    let login = "grant_type=password&client_id=docker&service=devpod&access_type=offline\
                 &scope=repository%3Aa%2Fb%3Apull+repository%3Aa%2Fb%3Apush&username=ann&password=ann-pw";
    let reply = form(&guarded, login).await.without_version(200);
    assert_eq!(
        reply.json()["scope"],
        "repository:a/b:pull repository:a/b:push"
    );
    let refresh = reply.json()["refresh_token"].as_str().unwrap().to_owned();
    // The refresh token is no access token.
    let header = format!("Bearer {refresh}");
    guarded
        .send(&header, "GET", "/v2/", &[], "")
        .await
        .expect(401);
    let again = format!(
        "grant_type=refresh_token&service=devpod&scope=repository:a/b:push&refresh_token={refresh}"
    );
    guarded.pass(7 * 24 * 3600);
    let reply = form(&guarded, &again).await.without_version(200);
    assert_eq!(reply.json()["scope"], "repository:a/b:push");
    assert_eq!(reply.json()["refresh_token"], refresh);
    // An access token refreshes nothing.
    let access = reply.json()["token"].as_str().unwrap().to_owned();
    form(&guarded, &again.replace(&refresh, &access))
        .await
        .without_version(401);
    for wrong in [
        "grant_type=password&username=ann&password=x",
        "grant_type=refresh_token&refresh_token=x.y.z",
        "grant_type=refresh_token",
    ] {
        form(&guarded, wrong).await.without_version(401);
    }
    form(&guarded, "grant_type=client_credentials")
        .await
        .without_version(400);
    form(&guarded, &"x".repeat(100_000))
        .await
        .without_version(413);
    // It does not prolong itself: thirty days after the password it is over.
    let offline = format!("{again}&access_type=offline");
    guarded.pass(23 * 24 * 3600 - 1);
    let reply = form(&guarded, &offline).await.without_version(200);
    assert_eq!(reply.json()["refresh_token"], refresh);
    guarded.pass(1);
    form(&guarded, &offline).await.without_version(401);
    let reply = form(&guarded, login).await.without_version(200);
    let renewed = reply.json()["refresh_token"].as_str().unwrap().to_owned();
    let again = again.replace(&refresh, &renewed);
    form(&guarded, &again).await.without_version(200);
    // With the password, the login that was kept instead of it ends.
    let path = guarded.data.path().join("users");
    let hash = bcrypt::hash("new", 4).unwrap();
    std::fs::write(path, format!("ann:{hash}\n")).unwrap();
    guarded.pass(1);
    form(&guarded, &again).await.without_version(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_removed_loses_their_tokens_at_once() {
    let guarded = guarded();
    guarded.push("a/b", "1").await;
    let got = token(&guarded, "ann", "repository:a/b:pull").await;
    let path = "/v2/a/b/manifests/1";
    guarded.send(&got, "GET", path, &[], "").await.expect(200);
    std::fs::write(guarded.data.path().join("users"), "").unwrap();
    guarded.pass(1);
    guarded.send(&got, "GET", path, &[], "").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_open_nothing() {
    let guarded = guarded();
    guarded.push("a/b", "1").await;
    let got = token(&guarded, "eve", "repository:a/b:pull").await;
    let text = got.strip_prefix("Bearer ").unwrap();
    let [header, payload, signature]: [&str; 3] =
        text.split('.').collect::<Vec<_>>().try_into().unwrap();
    let json = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let kid = json(header)["kid"].clone();
    let mut claims = json(payload);
    claims["sub"] = json!("ann");
    claims["access"] = json!([{"type": "repository", "name": "a/b", "actions": ["*"]}]);
    let claims = encode(&claims);
    // A key that anybody can know is no key.
    let by_kid = {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, kid.as_str().unwrap().as_bytes());
        let signed = format!("{header}.{claims}");
        let signature = ring::hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    for forged in [
        format!("{header}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!(
            "{}.{claims}.",
            encode(&json!({"alg": "none", "typ": "JWT", "kid": kid}))
        ),
        format!("{}.{claims}.", encode(&json!({"alg": "none"}))),
        format!(
            "{}.{payload}.{signature}",
            encode(&json!({"alg": "HS256", "typ": "JWT", "kid": "../../x"}))
        ),
        format!(
            "{}.{payload}.{signature}",
            encode(&json!({"alg": "RS256", "typ": "JWT", "kid": kid}))
        ),
        by_kid,
    ] {
        let header = format!("Bearer {forged}");
        let reply = guarded
            .send(&header, "GET", "/v2/a/b/manifests/1", &[], "")
            .await;
        assert_eq!(reply.status, 401, "{forged}");
    }
    guarded
        .send(&got, "GET", "/v2/a/b/manifests/1", &[], "")
        .await
        .expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_gets_into_a_challenge() {
    let guarded = guarded();
    let door = guarded.tcp().await;
    let Door::Tcp(address) = door else {
        panic!("not a socket");
    };
    for (host, realm) in [
        ("registry.test:5000", "http://registry.test:5000/token"),
        ("[::1]:5000", "http://[::1]:5000/token"),
        ("x\",evil=\"y", ""),
        ("x\\", ""),
        ("user:secret@evil.test", ""),
        ("evil.test/path?", ""),
    ] {
        let text = raw(
            address,
            &format!("GET /v2/ HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        )
        .await;
        let text = text.to_ascii_lowercase();
        if realm.is_empty() {
            assert!(!text.contains("evil") && !text.contains("bearer"), "{text}");
        } else {
            assert!(
                text.contains(&format!("bearer realm=\"{realm}\"")),
                "{text}"
            );
        }
        assert!(text.starts_with("http/1.1 4"), "{text}");
    }
}

async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = request.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

// API tokens.

fn new_token(name: &str, repositories: &str, actions: &[Action], expires: Option<u64>) -> NewToken {
    NewToken {
        name: name.to_owned(),
        repositories: vec![repositories.parse().unwrap()],
        actions: actions.to_vec(),
        expires,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_may_do_what_it_was_made_for() {
    let guarded = guarded();
    guarded.push("a/b", "1").await;
    guarded.push("b", "1").await;
    let (tokens, now) = (guarded.access.api_tokens(), guarded.access.now());
    let expires = Some(guarded.now() + 3600);
    let new = new_token("ci", "a/*", &[Action::Pull, Action::Push], expires);
    let (_, secret) = tokens.create(new, now).unwrap();
    let as_bearer = format!("Bearer {}", secret.expose());
    let as_password = basic("whoever", secret.expose());
    let asked = guarded
        .send(
            &as_password,
            "GET",
            "/token?service=devpod&scope=repository:a/b:*",
            &[],
            "",
        )
        .await
        .without_version(200);
    assert_eq!(asked.json()["scope"], "repository:a/b:pull,push");
    let as_token = bearer(&asked);
    for authorization in [&as_bearer, &as_password, &as_token] {
        let send = |method: &'static str, path: &'static str| {
            guarded.send(authorization, method, path, &[], "")
        };
        send("GET", "/v2/").await.expect(200);
        send("GET", "/v2/a/b/manifests/1").await.expect(200);
        send("POST", "/v2/a/b/blobs/uploads/").await.expect(202);
        send("DELETE", "/v2/a/b/manifests/1").await.expect(403);
        send("GET", "/v2/b/manifests/1").await.expect(403);
        if authorization != &as_token {
            let reply = send("GET", "/v2/_catalog").await.expect(200);
            assert_eq!(reply.json()["repositories"], json!(["a/b"]));
        }
    }
    let offline = format!(
        "grant_type=password&access_type=offline&username=x&password={}",
        secret.expose()
    );
    let reply = form(&guarded, &offline).await.without_version(200);
    assert!(reply.json().get("refresh_token").is_none());
    guarded.pass(100);
    assert!(tokens.revoke("ci").unwrap().is_some());
    for authorization in [&as_bearer, &as_password, &as_token] {
        let reply = guarded.send(authorization, "GET", "/v2/a/b/manifests/1", &[], "");
        reply.await.expect(401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_ends_and_counts_in_an_open_registry_too() {
    let guarded = Guarded::with(|_| Settings::default());
    guarded.push("a", "1").await;
    let expires = Some(guarded.now() + 10);
    let new = new_token("ci", "b", &[Action::Pull], expires);
    let created = guarded
        .access
        .api_tokens()
        .create(new, guarded.access.now());
    let text = format!("Bearer {}", created.unwrap().1.expose());
    let path = "/v2/a/manifests/1";
    guarded.ask("", "GET", path).await.expect(200);
    guarded.send(&text, "GET", path, &[], "").await.expect(403);
    guarded.pass(10);
    guarded.send(&text, "GET", path, &[], "").await.expect(401);
    guarded.ask("", "GET", path).await.expect(200);
}
