//! Tags whose time is over, and what is known of pulls.

use std::time::{Duration, SystemTime};

use config::name::{RepositoryName, Tag};
use config::registry::retention::Rule;
use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::Options;
use registry::store::index::tags::{self, TagRow};

use super::door::{Door, options, push_image, sha256};

const DAY: Duration = Duration::from_secs(86_400);

fn at(data: &std::path::Path, clock: fn() -> SystemTime) -> (Registry, Door) {
    let options = Options {
        clock,
        untagged_keep: Some(Duration::ZERO),
        ..options(data)
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    let door = Door::Router(router(Front::new(registry.clone())));
    (registry, door)
}

fn rule(repositories: &str, tags: &str) -> Rule {
    Rule {
        repositories: repositories.parse().unwrap(),
        tags: tags.parse().unwrap(),
        keep_last: None,
        keep_for: None,
        keep_pulled_for: None,
    }
}

fn expire(registry: &Registry, rules: &[Rule]) -> Vec<String> {
    let expected = registry.expire_tags(rules, true).unwrap();
    let expired = registry.expire_tags(rules, false).unwrap();
    assert_eq!(expired, expected, "a dry run tells the truth");
    expired
        .iter()
        .map(|expired| format!("{}:{}", expired.repository, expired.tag))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tags_go_by_count_age_and_pulls() {
    let data = tempfile::tempdir().unwrap();
    let (first, door) = at(data.path(), SystemTime::now);
    for tag in ["20260101", "20260102", "20260103", "latest"] {
        push_image(&door, "workspace/7", tag, tag.as_bytes()).await;
    }
    let other = push_image(&door, "other", "20260101", b"other").await;
    push_image(&door, "other", "20260102", b"another").await;
    drop((first, door));

    let (second, door) = at(data.path(), || SystemTime::now() + 10 * DAY);
    // Pulled by its digest, as docker does after a HEAD of the tag.
    let path = format!("/v2/other/manifests/{}", sha256(other.as_bytes()));
    door.get(&path).await.expect(200);
    let history = Rule {
        keep_last: Some(2),
        ..rule("workspace/*", "2*")
    };
    let pulled = Rule {
        keep_for: Some("1d".parse().unwrap()),
        keep_pulled_for: Some("7d".parse().unwrap()),
        ..rule("other", "**")
    };
    assert!(expire(&second, &[]).is_empty());
    assert_eq!(
        expire(&second, &[history.clone(), pulled.clone()]),
        ["other:20260102", "workspace/7:20260101"]
    );
    assert!(expire(&second, &[history.clone(), pulled.clone()]).is_empty());
    let swept = second.sweep(Duration::from_secs(3600), &|_| false).unwrap();
    assert_eq!(swept.manifests, 2);
    door.get("/v2/workspace/7/manifests/20260103")
        .await
        .expect(200);
    drop((second, door));

    let (third, _door) = at(data.path(), || SystemTime::now() + 30 * DAY);
    assert_eq!(expire(&third, &[history, pulled]), ["other:20260101"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_are_counted_and_outlive_the_process() {
    let data = tempfile::tempdir().unwrap();
    let (first, door) = at(data.path(), SystemTime::now);
    let text = push_image(&door, "a", "v1", b"layer").await;
    let digest = sha256(text.as_bytes());
    let repository: RepositoryName = "a".parse().unwrap();
    let tag: Tag = "v1".parse().unwrap();
    door.send("HEAD", "/v2/a/manifests/v1", &[], "")
        .await
        .expect(200);
    for _ in 0..3 {
        door.get("/v2/a/manifests/v1").await.expect(200);
    }
    door.get(&format!("/v2/a/manifests/{digest}"))
        .await
        .expect(200);
    assert_eq!(first.pulls_of_tag(&repository, &tag).unwrap(), None);
    drop((first, door));
    let (second, door) = at(data.path(), SystemTime::now);
    let counts = |registry: &Registry| {
        let by_tag = registry.pulls_of_tag(&repository, &tag).unwrap();
        let in_all = registry.pulls_of_manifest(&repository, &digest).unwrap();
        (by_tag.map(|p| p.count), in_all.map(|p| p.count))
    };
    assert_eq!(counts(&second), (Some(3), Some(4)));
    door.get("/v2/a/manifests/v1").await.expect(200);
    second.record_pulls().unwrap();
    assert_eq!(counts(&second), (Some(4), Some(5)));
    door.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], "")
        .await
        .expect(202);
    assert_eq!(counts(&second), (None, None));
}

/// A tag that was pushed again between the decision and the removal stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_meanwhile_stays() {
    use registry::store::index::tags;
    let data = tempfile::tempdir().unwrap();
    let (registry, door) = at(data.path(), SystemTime::now);
    push_image(&door, "a", "v1", b"old").await;
    let seen = registry.tag_rows(&"a".parse().unwrap()).unwrap();
    push_image(&door, "a", "v1", b"new").await;
    let index = registry.store().index();
    let removed = index
        .write(move |rows| tags::expire(rows, "a", &seen[0], 0))
        .unwrap();
    assert!(!removed);
    door.get("/v2/a/manifests/v1").await.expect(200);
}

/// Pulled between the look at the tag and its removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_pulled_meanwhile_stays() {
    let data = tempfile::tempdir().unwrap();
    let (registry, door) = at(data.path(), SystemTime::now);
    push_image(&door, "a", "v1", b"layer").await;
    let name: RepositoryName = "a".parse().unwrap();
    let expired = |seen: TagRow| {
        let index = registry.store().index();
        index
            .write(move |rows| tags::expire(rows, "a", &seen, 1))
            .unwrap()
    };
    let seen = || registry.tag_rows(&name).unwrap().remove(0);
    let before = seen();
    door.get("/v2/a/manifests/v1").await.expect(200);
    registry.record_pulls().unwrap();
    assert!(!expired(before));
    assert!(expired(seen()));
}
