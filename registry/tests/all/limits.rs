//! How often callers may come, and how often a password may be wrong.

use config::registry::access::Anonymous;
use registry::access::Settings;

use super::guard::{Guarded, basic, users};

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_limited_by_name_and_by_address() {
    let guarded = Guarded::with(|data| Settings {
        rate_limit: 2,
        rate_burst: 3,
        anonymous: Some(Anonymous::Pull),
        ..users(data)
    });
    guarded.push("a", "1").await;
    let path = "/v2/a/manifests/1";
    for user in ["ann", "bob", ""] {
        for _ in 0..3 {
            guarded.ask(user, "GET", path).await.expect(200);
        }
        let reply = guarded.ask(user, "GET", path).await.expect(429);
        assert_eq!(reply.code(), "TOOMANYREQUESTS");
        assert_eq!(reply.header("retry-after"), "1");
    }
    guarded.pass(1);
    for _ in 0..2 {
        guarded.ask("ann", "GET", path).await.expect(200);
    }
    guarded.ask("ann", "GET", path).await.expect(429);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_count_and_do_not_fill_the_log() {
    let guarded = Guarded::with(|data| Settings {
        rate_limit: 40,
        rate_burst: 50,
        audit_log: Some(data.join("audit")),
        ..users(data)
    });
    let door = guarded.tcp().await;
    let mut found = Vec::new();
    let bearer = [("authorization", "Bearer nonsense")];
    for path in ["/v2/", "/token"].into_iter().cycle().take(120) {
        found.push(door.send("GET", path, &bearer, "").await.status.as_u16());
    }
    let wrong = found.iter().filter(|status| **status == 401).count();
    let limited = found.iter().filter(|status| **status == 429).count();
    assert_eq!((wrong, limited), (50, 70), "{found:?}");
    // Who has a name is counted by it.
    let login = [("authorization", &*basic("ann", "ann-pw"))];
    door.send("GET", "/v2/", &login, "").await.expect(200);
    guarded.pass(1);
    door.send("GET", "/v2/", &bearer, "").await.expect(401);
    let log = std::fs::read_to_string(guarded.data.path().join("audit")).unwrap();
    assert_eq!(log.lines().count(), 31, "{log}");
    let last = log.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (&last["event"], &last["suppressed"]),
        (&"login_failed".into(), &90.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_cannot_be_guessed_fast_and_others_go_on() {
    let guarded = Guarded::with(users);
    let door = guarded.tcp().await;
    let ask = |password: &str| {
        let header = basic("ann", password);
        let door = door.clone();
        async move {
            door.send("GET", "/v2/", &[("authorization", &header)], "")
                .await
        }
    };
    ask("ann-pw").await.expect(200);
    let mut guesses = tokio::task::JoinSet::new();
    for guess in 0..40 {
        let reply = ask(&guess.to_string());
        guesses.spawn(async move { reply.await.status.as_u16() });
    }
    let statuses = guesses.join_all().await;
    let wrong = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(wrong, 20, "{statuses:?}");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
    // Who is logged in goes on; so does everybody else once the guesser has rested.
    ask("ann-pw").await.expect(200);
    let late = ask("38").await.expect(429);
    assert_eq!(late.header("retry-after"), "2");
    guarded.pass(2);
    ask("38").await.expect(401);
    guarded.pass(600);
    ask("ann-pw").await.expect(200);
}
