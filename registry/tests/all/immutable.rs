//! Immutable tags: they neither move nor go, whatever is tried.

use registry::access::Settings;

use super::door::{INDEX, MANIFEST, image, sha256};
use super::guard::{Guarded, immutable, login, rules, users};

fn guarded() -> Guarded {
    Guarded::with(|data| Settings {
        immutable: immutable("team/**", &["v*"]),
        rules: rules(&["** ann pull,push,delete", "** root pull,push,delete,admin"]),
        ..users(data)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_set_once() {
    let guarded = guarded();
    let text = guarded.push("team/app", "latest").await;
    let other = image(&sha256(b"{}"), &[], "");
    let path = "/v2/team/app/manifests/v1";
    guarded.put("ann", path, &text).await.expect(201);
    guarded.put("ann", path, &text).await.expect(201);
    for user in ["ann", "root"] {
        let reply = guarded.put(user, path, &other).await.expect(403);
        assert_eq!(reply.code(), "DENIED");
        assert!(
            reply.json()["errors"][0]["message"]
                .as_str()
                .unwrap()
                .contains("v1")
        );
        // The other way to set tags, of which one is free.
        let digest = sha256(other.as_bytes());
        let by_digest = format!("/v2/team/app/manifests/{digest}?tag=free&tag=v1");
        guarded.put(user, &by_digest, &other).await.expect(403);
        let free = "/v2/team/app/manifests/free";
        guarded.ask(user, "GET", free).await.expect(404);
    }
    let reply = guarded.ask("ann", "GET", path).await.expect(200);
    assert_eq!(reply.body, text.as_bytes());
    // Other tags and other repositories move as ever.
    let moved = "/v2/team/app/manifests/latest";
    guarded.put("ann", moved, &other).await.expect(201);
    guarded.push("other", "v1").await;
    let elsewhere = "/v2/other/manifests/v1";
    guarded.put("ann", elsewhere, &other).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_race_for_a_tag_set_it_once() {
    let guarded = guarded();
    guarded.push("team/app", "latest").await;
    let texts: Vec<String> = (0..16)
        .map(|n| {
            image(
                &sha256(b"{}"),
                &[],
                &format!(r#","annotations":{{"n":"{n}"}}"#),
            )
        })
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for text in &texts {
        let (door, text) = (guarded.door.clone(), text.clone());
        tasks.spawn(async move {
            let login = login("ann");
            let headers = [("content-type", MANIFEST), ("authorization", &*login)];
            let path = "/v2/team/app/manifests/v1";
            let reply = door.send("PUT", path, &headers, text.clone()).await;
            (reply.status.as_u16(), text)
        });
    }
    let ends = tasks.join_all().await;
    let winners: Vec<_> = ends.iter().filter(|(status, _)| *status == 201).collect();
    assert_eq!(winners.len(), 1);
    assert!(ends.iter().all(|(status, _)| [201, 403].contains(status)));
    let reply = guarded.ask("ann", "GET", "/v2/team/app/manifests/v1").await;
    assert_eq!(reply.expect(200).body, winners[0].1.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_it_can_be_deleted_but_by_an_admin() {
    let guarded = guarded();
    let child = guarded.push("team/app", "child").await;
    let child_digest = sha256(child.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{child_digest}","size":{}}}]}}"#,
        child.len()
    );
    let headers = [("content-type", INDEX)];
    let path = "/v2/team/app/manifests/v1";
    let ann = login("ann");
    let put = guarded.send(&ann, "PUT", path, &headers, index.clone());
    put.await.expect(201);
    let layer = sha256(b"team/app");
    let held = [
        path.to_owned(),
        format!("/v2/team/app/manifests/{}", sha256(index.as_bytes())),
        format!("/v2/team/app/manifests/{child_digest}"),
        format!("/v2/team/app/blobs/{layer}"),
    ];
    for path in &held {
        let reply = guarded.ask("ann", "DELETE", path).await.expect(403);
        assert_eq!(reply.code(), "DENIED", "{path}");
        guarded.ask("ann", "GET", path).await.expect(200);
    }
    for absent in [
        "/v2/team/app/manifests/v2".to_owned(),
        format!("/v2/team/app/manifests/{}", sha256(b"absent")),
        format!("/v2/team/app/blobs/{}", sha256(b"absent")),
    ] {
        guarded.ask("ann", "DELETE", &absent).await.expect(404);
    }
    // A tag that is not immutable goes, and so does a blob that nothing needs.
    let free = "/v2/team/app/manifests/child";
    guarded.ask("ann", "DELETE", free).await.expect(202);
    let upload = format!("/v2/team/app/blobs/uploads/?digest={}", sha256(b"loose"));
    let put = guarded.send(&ann, "POST", &upload, &[], "loose");
    put.await.expect(201);
    let loose = format!("/v2/team/app/blobs/{}", sha256(b"loose"));
    guarded.ask("ann", "DELETE", &loose).await.expect(202);
    guarded.ask("root", "DELETE", path).await.expect(202);
    for path in &held[1..] {
        guarded.ask("ann", "DELETE", path).await.expect(202);
    }
    guarded.push("team/app", "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_name_is_an_admin() {
    let guarded = Guarded::with(|_| Settings {
        immutable: immutable("**", &["v*"]),
        ..Settings::default()
    });
    let text = guarded.push("a", "latest").await;
    let path = "/v2/a/manifests/v1";
    guarded.put("", path, &text).await.expect(201);
    guarded.ask("", "DELETE", path).await.expect(403);
    // In-process callers own the data folder.
    let name = "a".parse().unwrap();
    let tag = "v1".parse().unwrap();
    assert!(guarded.registry.delete_tag(&name, &tag).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_is_no_way_around_it() {
    let open = Guarded::with(|_| Settings {
        immutable: immutable("**", &["v*"]),
        ..Settings::default()
    });
    for (guarded, nobody, path) in [(open, true, "a"), (guarded(), false, "team/app")] {
        let text = guarded.push(path, "latest").await;
        guarded.push(path, "v1").await;
        let digest = sha256(text.as_bytes());
        let repository = format!("/api/v1/repositories/{}", path.replace('/', "%2F"));
        for held in [
            format!("{repository}/tags/v1"),
            format!("{repository}/images/v1"),
            format!("{repository}/images/{digest}"),
            repository.clone(),
        ] {
            let user = if nobody { "" } else { "ann" };
            let reply = guarded.ask(user, "DELETE", &held).await;
            assert_eq!(reply.without_version(403).code(), "DENIED", "{held}");
        }
        let free = format!("{repository}/tags/latest");
        let (user, rest) = if nobody { ("", 403) } else { ("root", 200) };
        guarded
            .ask(user, "DELETE", &free)
            .await
            .without_version(204);
        guarded
            .ask(user, "DELETE", &repository)
            .await
            .without_version(rest);
    }
}
