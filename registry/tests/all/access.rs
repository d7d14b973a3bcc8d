//! Who may do what, from outside: passwords, rules, mounts, the catalog, the audit log.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use config::registry::access::{Anonymous, Challenge};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use registry::access::Settings;
use registry::http::tls::ClientCertificate;
use registry::http::{Front, Limits, Readers, router, serve_router};
use registry::service::Registry;
use tokio::net::TcpListener;

use super::door::{Door, doors, open, push_image, sha256};
use super::guard::{Guarded, basic, login, open_access, rules, users};

#[tokio::test(flavor = "multi_thread")]
async fn without_settings_everybody_may_do_everything() {
    let data = tempfile::tempdir().unwrap();
    for door in doors(&open(data.path())).await {
        for header in ["", "Basic zzz", "Bearer x.y.z", "Basic YTpi", "Strange"] {
            let headers = [("authorization", header)];
            let headers = &headers[usize::from(header.is_empty())..];
            door.send("GET", "/v2/", headers, "").await.expect(200);
            door.send("GET", "/v2/_catalog", headers, "")
                .await
                .expect(200);
            let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"x"));
            door.send("POST", &path, headers, "x").await.expect(201);
            let path = format!("/v2/a/blobs/{}", sha256(b"x"));
            door.send("DELETE", &path, headers, "").await.expect(202);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_asked_for_their_password() {
    let guarded = Guarded::with(users);
    let text = guarded.push("a/b", "1").await;
    let digest = sha256(text.as_bytes());
    let paths = [
        "/v2/".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/a/b/manifests/1".to_owned(),
        format!("/v2/a/b/manifests/{digest}"),
        format!("/v2/a/b/blobs/{}", sha256(b"{}")),
        "/v2/a/b/tags/list".to_owned(),
        format!("/v2/a/b/referrers/{digest}"),
    ];
    for path in &paths {
        guarded.ask("ann", "GET", path).await.expect(200);
        let reply = guarded.ask("", "GET", path).await.expect(401);
        assert_eq!(reply.code(), "UNAUTHORIZED");
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"devpod\"");
        for wrong in [
            basic("ann", "wrong"),
            basic("ann", ""),
            basic("nobody", "ann-pw"),
            basic("", ""),
            "Basic !!!".to_owned(),
            "Basic".to_owned(),
            "Digest username=\"ann\"".to_owned(),
            "Bearer a.b.c".to_owned(),
        ] {
            let reply = guarded.send(&wrong, "GET", path, &[], "").await;
            // Some of these were one guess too many for one address.
            assert!(
                [401, 429].contains(&reply.status.as_u16()),
                "{wrong} {path}"
            );
        }
        guarded.pass(60);
    }
    // What is not there is refused to nobody in the same words as what is.
    let there = guarded.ask("", "GET", "/v2/a/b/manifests/1").await;
    let absent = guarded.ask("", "GET", "/v2/a/x/manifests/1").await;
    assert_eq!((there.status, there.body), (absent.status, absent.body));
    for (method, path) in [
        ("POST", "/v2/a/b/blobs/uploads/"),
        ("PUT", "/v2/a/b/manifests/2"),
        ("DELETE", "/v2/a/b/manifests/1"),
        ("PATCH", "/v2/a/b/manifests/1"),
    ] {
        guarded.ask("", method, path).await.expect(401);
    }
    guarded
        .ask("ann", "PATCH", "/v2/a/b/manifests/1")
        .await
        .expect(405);
    guarded
        .ask("ann", "DELETE", "/v2/a/b/manifests/1")
        .await
        .expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_counts_within_a_second_and_a_broken_one_does_not() {
    let guarded = Guarded::with(users);
    let path = guarded.data.path().join("users");
    guarded.ask("ann", "GET", "/v2/").await.expect(200);
    let hash = bcrypt::hash("new", 4).unwrap();
    std::fs::write(&path, format!("ann:{hash}\n")).unwrap();
    guarded.pass(1);
    guarded.ask("ann", "GET", "/v2/").await.expect(401);
    guarded.ask("bob", "GET", "/v2/").await.expect(401);
    let new = basic("ann", "new");
    guarded.send(&new, "GET", "/v2/", &[], "").await.expect(200);
    std::fs::write(&path, "ann:plain\n").unwrap();
    guarded.pass(1);
    guarded.send(&new, "GET", "/v2/", &[], "").await.expect(200);
    std::fs::remove_file(&path).unwrap();
    guarded.pass(1);
    guarded.send(&new, "GET", "/v2/", &[], "").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_say_who_may_do_what() {
    let guarded = Guarded::with(|data| Settings {
        rules: rules(&[
            "public/** anonymous pull",
            "team/** * pull",
            "team/** ann push,pull",
            "team/** bob delete",
        ]),
        ..users(data)
    });
    let text = guarded.push("team/app", "1").await;
    guarded.push("public/app", "1").await;
    guarded.push("secret", "1").await;
    for (user, method, path, status) in [
        ("", "GET", "/v2/public/app/manifests/1", 200),
        ("", "DELETE", "/v2/public/app/manifests/1", 401),
        ("", "GET", "/v2/team/app/manifests/1", 401),
        ("eve", "GET", "/v2/team/app/manifests/1", 200),
        ("eve", "GET", "/v2/public/app/manifests/1", 200),
        ("eve", "DELETE", "/v2/team/app/manifests/1", 403),
        ("eve", "POST", "/v2/team/app/blobs/uploads/", 403),
        ("eve", "GET", "/v2/secret/manifests/1", 403),
        ("eve", "GET", "/v2/absent/manifests/1", 403),
        ("ann", "POST", "/v2/team/app/blobs/uploads/", 202),
        ("ann", "DELETE", "/v2/team/app/manifests/1", 403),
        ("ann", "POST", "/v2/team/blobs/uploads/", 403),
    ] {
        let reply = guarded.ask(user, method, path).await;
        assert_eq!(reply.status.as_u16(), status, "{user} {method} {path}");
        if status == 403 {
            assert_eq!(reply.code(), "DENIED");
        }
    }
    let there = guarded.ask("eve", "GET", "/v2/secret/manifests/1").await;
    let absent = guarded.ask("eve", "GET", "/v2/absent/manifests/1").await;
    assert_eq!(there.body, absent.body, "a refusal tells what exists");
    let put = guarded.put("eve", "/v2/team/app/manifests/2", &text).await;
    put.expect(403);
    let put = guarded.put("ann", "/v2/team/app/manifests/2", &text).await;
    put.expect(201);
    let path = "/v2/team/app/manifests/2";
    guarded.ask("bob", "DELETE", path).await.expect(202);
    // A session belongs to its repository, and needs the right to push there at every step.
    let session = guarded
        .ask("ann", "POST", "/v2/team/app/blobs/uploads/")
        .await;
    let session = session.expect(202).header("location").to_owned();
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        guarded.ask("eve", method, &session).await.expect(403);
        guarded.ask("", method, &session).await.expect(401);
    }
    guarded.ask("ann", "DELETE", &session).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_its_caller() {
    let guarded = Guarded::with(|_| Settings {
        rules: rules(&["team/** eve pull"]),
        ..Settings::default()
    });
    guarded.push("team/app", "1").await;
    let Door::Router(router) = &guarded.door else {
        panic!("not a router");
    };
    for (name, status) in [("eve", 200), ("bob", 403), ("anonymous", 403), ("*", 403)] {
        let mut request = http::Request::new(axum::body::Body::empty());
        *request.uri_mut() = "/v2/team/app/manifests/1".parse().unwrap();
        let name = name.to_owned();
        let certificate = ClientCertificate { name };
        request.extensions_mut().insert(certificate.clone());
        let service = TowerToHyperService::new(router.clone());
        let response = service.call(request).await.unwrap();
        assert_eq!(response.status(), status, "{certificate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_mounted_from_what_one_may_not_read() {
    let guarded = Guarded::with(|data| Settings {
        rules: rules(&[
            "secret/** ann pull,push",
            "eve/** eve pull,push",
            "shared ann,eve pull",
        ]),
        ..users(data)
    });
    guarded.push("secret/app", "1").await;
    guarded.push("shared", "1").await;
    let (hidden, shared) = (sha256(b"secret/app"), sha256(b"shared"));
    let mount = |user: &'static str, digest: &registry::digest::Digest, from: &str| {
        let path = format!("/v2/eve/app/blobs/uploads/?mount={digest}{from}");
        let guarded = &guarded;
        async move { guarded.ask(user, "POST", &path).await.status.as_u16() }
    };
    // As if it were not there: a session to push it with.
    for from in [
        "&from=secret/app",
        "",
        "&from=",
        "&from=absent",
        "&from=../x",
    ] {
        assert_eq!(mount("eve", &hidden, from).await, 202, "{from}");
    }
    let blob = format!("/v2/eve/app/blobs/{hidden}");
    guarded.ask("eve", "GET", &blob).await.expect(404);
    assert_eq!(mount("eve", &shared, "").await, 201);
    let blob = format!("/v2/eve/app/blobs/{shared}");
    guarded.ask("eve", "GET", &blob).await.expect(200);
    assert_eq!(mount("eve", &shared, "&from=shared").await, 201);
    // The right to read the source is no right to write the target.
    assert_eq!(mount("ann", &hidden, "&from=secret/app").await, 403);
    let own = format!("/v2/secret/other/blobs/uploads/?mount={hidden}");
    guarded.ask("ann", "POST", &own).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_shows_what_one_may_pull_page_by_page() {
    let guarded = Guarded::with(|data| Settings {
        rules: rules(&["a* eve pull", "**/open eve pull", "** ann pull"]),
        ..users(data)
    });
    let digest = sha256(b"x");
    let mut all = Vec::new();
    for number in 0..40 {
        for name in [
            format!("a{number:02}"),
            format!("b{number:02}"),
            format!("c/{number:02}/open"),
        ] {
            let name: config::name::RepositoryName = name.parse().unwrap();
            let mut writer = guarded.registry.blob_writer(Default::default()).unwrap();
            std::io::Write::write_all(&mut writer, b"x").unwrap();
            guarded
                .registry
                .commit_blob(&name, writer, &digest)
                .unwrap();
            all.push(name.to_string());
        }
    }
    all.sort();
    let mine: Vec<_> = all.iter().filter(|name| !name.starts_with('b')).collect();
    for n in [1, 7, 39, 40, 80, 81] {
        let mut path = format!("/v2/_catalog?n={n}");
        let mut found = Vec::new();
        loop {
            let reply = guarded.ask("eve", "GET", &path).await.expect(200);
            let names: Vec<String> =
                serde_json::from_value(reply.json()["repositories"].clone()).unwrap();
            let link = reply.header("link").to_owned();
            assert!(names.len() == n || link.is_empty(), "a short page goes on");
            assert!(!link.contains("b0") && !link.contains("b39"), "{link}");
            found.extend(names);
            let Some(next) = link.strip_prefix('<').and_then(|l| l.split_once('>')) else {
                break;
            };
            path = next.0.to_owned();
        }
        assert!(found.iter().eq(mine.iter().copied()), "n={n}: {found:?}");
    }
    let reply = guarded.ask("ann", "GET", "/v2/_catalog").await.expect(200);
    assert_eq!(reply.json()["repositories"].as_array().unwrap().len(), 120);
    let reply = guarded.ask("bob", "GET", "/v2/_catalog").await.expect(200);
    assert_eq!(reply.json()["repositories"], serde_json::json!([]));
    guarded.ask("", "GET", "/v2/_catalog").await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_settings_do_what_they_say() {
    for (anonymous, pull, push) in [
        (Anonymous::None, 401, 401),
        (Anonymous::Pull, 200, 401),
        (Anonymous::Push, 200, 202),
    ] {
        let guarded = Guarded::with(|_| Settings {
            anonymous: Some(anonymous),
            ..Settings::default()
        });
        guarded.push("a", "1").await;
        let get = guarded.ask("", "GET", "/v2/a/manifests/1").await;
        let post = guarded.ask("", "POST", "/v2/a/blobs/uploads/").await;
        let found = (get.status.as_u16(), post.status.as_u16());
        assert_eq!(found, (pull, push), "{anonymous}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ping_challenges_where_a_login_would_change_something() {
    let guarded = Guarded::with(|data| Settings {
        anonymous: Some(Anonymous::Pull),
        ..users(data)
    });
    guarded.push("a", "1").await;
    let ping = guarded.ask("", "GET", "/v2/").await.expect(401);
    let challenge = ping.header("www-authenticate");
    assert_eq!(
        challenge,
        "Bearer realm=\"http://localhost/token\",service=\"devpod\""
    );
    guarded
        .ask("", "GET", "/v2/a/manifests/1")
        .await
        .expect(200);
    guarded.ask("ann", "GET", "/v2/").await.expect(200);
    let basic = Guarded::with(|data| Settings {
        anonymous: Some(Anonymous::Pull),
        challenge: Some(Challenge::Basic),
        ..users(data)
    });
    let ping = basic.ask("", "GET", "/v2/").await.expect(401);
    assert!(ping.header("www-authenticate").starts_with("Basic "));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_changes_and_refusals() {
    let guarded = Guarded::with(|data| Settings {
        audit_log: Some(data.join("audit")),
        audit_pulls: true,
        rules: rules(&["team/** ann pull,push,delete"]),
        ..users(data)
    });
    let door = guarded.tcp().await;
    let text = guarded.push("team/app", "0").await;
    let (ann, eve) = (login("ann"), login("eve"));
    let send = |method, path: String, authorization: String, body: String| {
        let door = door.clone();
        async move {
            let mut headers = vec![
                ("content-type", super::door::MANIFEST),
                ("x-request-id", "id-1"),
            ];
            if !authorization.is_empty() {
                headers.push(("authorization", &authorization));
            }
            door.send(method, &path, &headers, body).await
        }
    };
    let manifest = "/v2/team/app/manifests/1".to_owned();
    send("GET", "/v2/".into(), String::new(), String::new())
        .await
        .expect(401);
    send("PUT", manifest.clone(), ann.clone(), text.clone())
        .await
        .expect(201);
    send("GET", manifest.clone(), ann.clone(), String::new())
        .await
        .expect(200);
    send("HEAD", manifest.clone(), ann.clone(), String::new())
        .await
        .expect(200);
    send("GET", manifest.clone(), eve, String::new())
        .await
        .expect(403);
    send(
        "GET",
        manifest.clone(),
        basic("ev\ne", "hush-hush"),
        String::new(),
    )
    .await
    .expect(401);
    let api = "/api/v1/repositories/team%2Fapp".to_owned();
    let refused = send("DELETE", api, ann.clone(), String::new()).await;
    assert_eq!(refused.status, 403);
    send("DELETE", manifest.clone(), ann, String::new())
        .await
        .expect(202);
    let counted = door.get("/metrics").await;
    let counted = String::from_utf8_lossy(&counted.body);
    for decision in ["{result=\"denied\"} 4", "{result=\"allowed\"} "] {
        let line = format!("devpod_registry_access_decisions_total{decision}");
        assert!(counted.contains(&line), "{line}\n{counted}");
    }
    let log = std::fs::read_to_string(guarded.data.path().join("audit")).unwrap();
    assert!(!log.contains("hush") && !log.contains("-pw"), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {}",
                text("event"),
                text("caller"),
                text("repository"),
                line["status"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "push ann team/app 201",
            "pull ann team/app 200",
            "denied eve team/app 403",
            "login_failed ev\u{fffd}e team/app 401",
            "denied ann team/app 403",
            "delete ann team/app 202",
        ]
    );
    assert_eq!(lines[0]["reference"], "1");
    assert_eq!(lines[0]["digest"], sha256(text.as_bytes()).to_string());
    assert_eq!(lines[0]["address"], "127.0.0.1");
    assert_eq!(lines[0]["request"], "id-1");
    assert_eq!(lines[0]["time"], "2027-01-15T08:00:00Z");
}

#[test]
fn what_cannot_be_used_is_told_at_start() {
    let data = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = data.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let clock = Arc::new(AtomicU64::new(1_800_000_000));
    let htpasswd = |htpasswd| Settings {
        htpasswd,
        ..Settings::default()
    };
    for (settings, expected) in [
        (htpasswd(Some(data.path().join("absent"))), "cannot read "),
        (
            htpasswd(file("md5", "\nann:$apr1$x$hush\n")),
            "md5:2: the hash is not bcrypt",
        ),
        (
            Settings {
                token_keys: file("keys", "x"),
                ..Settings::default()
            },
            "registry.token_keys needs",
        ),
        (
            Settings {
                token_issuer: Some("them".to_owned()),
                ..Settings::default()
            },
            "registry.token_issuer means nothing",
        ),
        (
            Settings {
                audit_log: Some(data.path().join("absent/audit")),
                ..Settings::default()
            },
            "cannot open the audit log",
        ),
    ] {
        let error = open_access(&settings, data.path(), &clock).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(expected) && !error.contains("hush"),
            "{error}"
        );
    }
}

/// A port where everybody, or who has logged in, may do everything but the readers.
async fn door_for(guarded: Option<&Guarded>, registry: &Registry, readers: &str) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut front = Front::new(registry.clone());
    if let Some(guarded) = guarded {
        front.access = Arc::clone(&guarded.access);
    }
    front.readers = Some(Readers {
        address: readers.parse().unwrap(),
        why: "readers read",
    });
    let never = std::future::pending();
    tokio::spawn(serve_router(
        listener,
        router(front),
        Limits::default(),
        never,
    ));
    Door::Tcp(address)
}

/// Every kind of change, and its answer to somebody who may make it.
fn changes() -> [(&'static str, String, u16); 6] {
    let digest = sha256(b"{}");
    [
        ("POST", "/v2/a/blobs/uploads/".to_owned(), 202),
        ("PUT", "/v2/a/manifests/2".to_owned(), 400),
        ("DELETE", "/v2/a/manifests/1".to_owned(), 202),
        ("DELETE", format!("/v2/a/blobs/{digest}"), 202),
        ("DELETE", "/api/v1/repositories/a/tags/2".to_owned(), 404),
        ("DELETE", "/api/v1/repositories/a".to_owned(), 200),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_pull_and_nothing_more() {
    let data = tempfile::tempdir().unwrap();
    let registry = open(data.path());
    let readers = door_for(None, &registry, "127.0.0.1").await;
    let others = door_for(None, &registry, "127.77.0.1").await;
    push_image(&others, "a", "1", b"layer").await;
    for (method, path, _) in changes() {
        let reply = readers.send(method, &path, &[], "").await;
        let said = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, 403, "{method} {path}: {said}");
        assert!(said.contains("DENIED"), "{method} {path}: {said}");
        assert!(said.contains("readers read"), "{method} {path}: {said}");
    }
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/tags/list",
        "/v2/a/manifests/1",
        "/api/v1/repositories",
    ] {
        assert_eq!(readers.get(path).await.status, 200, "{path}");
    }
    for (method, path, status) in changes() {
        let reply = others.send(method, &path, &[], "").await;
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_with_a_name_are_readers() {
    let guarded = Guarded::with(users);
    guarded.push("a", "1").await;
    let readers = door_for(Some(&guarded), &guarded.registry, "127.0.0.1").await;
    let headers = [("authorization", &*login("ann"))];
    let get = readers.send("GET", "/v2/a/manifests/1", &headers, "").await;
    get.expect(200);
    let delete = readers.send("DELETE", "/v2/a/manifests/1", &headers, "");
    delete.await.expect(403);
    // Without a name there is nothing to read here, and one can still be given.
    let get = readers.send("GET", "/v2/a/manifests/1", &[], "").await;
    get.expect(401);
}
