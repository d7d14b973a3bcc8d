//! Questions that take a walk of the whole store.

use std::sync::Arc;

use config::registry::access::Anonymous;
use registry::access::Settings;
use registry::http::manage::Reach;
use registry::http::{Front, router};

use super::door::{Door, Reply};
use super::guard::{Guarded, login, users};

async fn dry(door: &Door, user: &str, path: &str) -> Reply {
    let login = login(user);
    let mut headers = vec![("content-type", "application/json")];
    if !user.is_empty() {
        headers.push(("authorization", login.as_str()));
    }
    let method = if path.ends_with('s') || path.ends_with("retention") {
        "POST"
    } else {
        "GET"
    };
    door.send(method, path, &headers, r#"{"dryRun":true}"#)
        .await
}

const WALKS: [&str; 3] = ["/api/v1/usage", "/api/v1/collections", "/api/v1/retention"];

#[tokio::test(flavor = "multi_thread")]
async fn walks_want_a_name_and_come_one_at_a_time() {
    let guarded = Guarded::with(|data| Settings {
        anonymous: Some(Anonymous::Pull),
        ..users(data)
    });
    let mut front = Front::new(guarded.registry.clone());
    front.access = Arc::clone(&guarded.access);
    let here = Door::Router(router(front.clone()));
    front.reach = Reach::Network;
    let network = Door::Router(router(front.clone()));
    for path in WALKS {
        dry(&here, "", path).await.without_version(200);
        dry(&network, "", path).await.without_version(401);
        dry(&network, "ann", path).await.without_version(200);
    }
    for path in ["/api/v1/uploads", "/api/v1/events"] {
        here.get(path).await.without_version(200);
        network.get(path).await.without_version(401);
    }
    network.get("/api/v1/images").await.without_version(200);
    let walking = front.walks.acquire().await.unwrap();
    let reply = dry(&network, "ann", WALKS[1]).await.without_version(429);
    assert_eq!(reply.header("retry-after"), "2");
    drop(walking);
    dry(&network, "ann", WALKS[1]).await.without_version(200);
}
