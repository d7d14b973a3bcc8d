//! Tokens for images that are kept under another name than their clients know.

use config::registry::access::Challenge;
use registry::access::Settings;
use registry::http::{Front, router};

use super::door::{Door, sha256};
use super::guard::{Guarded, rules, users};
use super::tokens::token;

#[tokio::test(flavor = "multi_thread")]
async fn rules_name_what_is_kept_and_clients_what_they_know() {
    let bench = super::elsewhere::Bench::new().await;
    super::door::push_image(&bench.origin, "library/x", "1", b"one").await;
    let mut guarded = Guarded::with(|data| Settings {
        challenge: Some(Challenge::Token),
        rules: rules(&["docker.io/library/x ann pull"]),
        ..users(data)
    });
    let mut front = Front::new(bench.here.clone());
    (front.mirror, front.access) = (bench.mirror.clone(), guarded.access.clone());
    guarded.door = Door::Router(router(front));
    for (asked, path, status) in [
        // dockerd's registry-mirrors, containerd, a prefix, the name as it is kept.
        ("library/x", "library/x/manifests/1", 200),
        ("library/x", "library/x/manifests/1?ns=docker.io", 200),
        ("hub/library/x", "hub/library/x/manifests/1", 200),
        (
            "docker.io/library/x",
            "docker.io/library/x/manifests/1",
            200,
        ),
        ("library/y", "library/y/manifests/1", 403),
        ("hub/library/y", "hub/library/y/manifests/1", 403),
    ] {
        let got = token(&guarded, "ann", &format!("repository:{asked}:pull,push")).await;
        let path = format!("/v2/{path}");
        guarded
            .send(&got, "GET", &path, &[], "")
            .await
            .expect(status);
    }
    // What may only be read is granted for reading only, and to nobody else.
    for (user, granted) in [("ann", "repository:library/x:pull"), ("bob", "")] {
        let path = "/token?service=devpod&scope=repository:library/x:pull,push,delete";
        let reply = guarded.ask(user, "GET", path).await.without_version(200);
        assert_eq!(reply.json()["scope"], granted, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_asked_for_by_the_clients_name_opens_a_mirrored_image() {
    let bench = super::elsewhere::Bench::new().await;
    super::door::push_image(&bench.origin, "library/x", "1", b"one").await;
    for (repositories, status) in [("**", 200), ("library/**", 403)] {
        let guarded = Guarded::with(|data| Settings {
            challenge: Some(Challenge::Token),
            rules: rules(&[&*format!("{repositories} ann pull")]),
            ..users(data)
        });
        let mut front = Front::new(bench.here.clone());
        (front.mirror, front.access) = (bench.mirror.clone(), guarded.access.clone());
        let door = Door::Router(router(front));
        let got = token(&guarded, "ann", "repository:library/x:pull").await;
        let path = "/v2/library/x/manifests/1?ns=docker.io";
        let headers = [("authorization", &*got)];
        door.send("GET", path, &headers, "").await.expect(status);
        // The name of another repository does not become it.
        let path = "/v2/library/y/manifests/1?ns=docker.io";
        let refused = door.send("GET", path, &headers, "").await.status;
        assert!([401, 403].contains(&refused.as_u16()), "{refused}");
    }
}

fn scopes(reply: &super::door::Reply) -> String {
    reply.header("www-authenticate").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_read_a_repository_does_not_learn_whether_it_is_here() {
    let bench = super::elsewhere::Bench::new().await;
    let inside = Door::Router(router(Front::new(bench.here.clone())));
    for name in ["ours/there", "seen/there"] {
        super::door::push_image(&inside, name, "1", b"one").await;
    }
    let text = super::door::image(&sha256(b"{}"), &[], "");
    let put = registry::service::ManifestPut {
        target: &"1".parse().unwrap(),
        tags: &[],
        media_type: None,
        bytes: text.as_bytes(),
        references: registry::service::References::Sparse,
    };
    let name = "private.example/there".parse().unwrap();
    bench.here.put_manifest(&name, &put).unwrap();
    let mut guarded = Guarded::with(|data| Settings {
        challenge: Some(Challenge::Token),
        rules: rules(&[
            "docker.io/** ann pull",
            "seen/** ann,bob pull",
            "private.example/** eve pull",
        ]),
        ..users(data)
    });
    let mut front = Front::new(bench.here.clone());
    (front.mirror, front.access) = (bench.mirror.clone(), guarded.access.clone());
    guarded.door = Door::Router(router(front));
    for user in ["", "ann", "bob"] {
        for path in [
            "ours/NAME/tags/list",
            "ours/NAME/manifests/1",
            "NAME/tags/list?ns=private.example",
            "NAME/manifests/1?ns=private.example",
        ] {
            let mut answers = Vec::new();
            for name in ["there", "gone"] {
                let path = format!("/v2/{}", path.replace("NAME", name));
                let reply = guarded.ask(user, "GET", &path).await;
                let challenge = scopes(&reply).replace(name, "NAME");
                answers.push((reply.status, reply.code(), challenge));
            }
            assert_eq!(answers[0], answers[1], "{user} {path}");
        }
    }
    // Who may read it does learn it.
    for (path, status) in [
        ("/v2/seen/there/manifests/1", 200),
        ("/v2/seen/gone/manifests/1", 403),
    ] {
        guarded.ask("bob", "GET", path).await.expect(status);
    }
    // By what the challenge says, too.
    for (name, status) in [("there", 200), ("gone", 404)] {
        let path = format!("/v2/{name}/manifests/1?ns=private.example");
        let challenge = scopes(&guarded.ask("", "GET", &path).await.expect(401));
        let (_, scope) = challenge.split_once("scope=\"").unwrap();
        let wanted = scope.trim_end_matches('"').replace(' ', "+");
        let got = token(&guarded, "eve", &wanted).await;
        guarded
            .send(&got, "GET", &path, &[], "")
            .await
            .expect(status);
    }
    let reply = guarded.ask("", "GET", "/v2/library/x/manifests/1").await;
    let challenge = scopes(&reply.expect(401));
    let scope = "scope=\"repository:library/x:pull\"";
    assert!(challenge.ends_with(scope), "{challenge}");
}
