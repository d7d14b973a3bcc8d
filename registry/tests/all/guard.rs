//! A registry with something before it: users, rules, a clock that tests move.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use config::registry::access::{Immutable, Rule};
use registry::access::{Access, AccessError, Action, Settings};
use registry::http::{Front, Limits, router, serve_router};
use registry::service::Registry;
use tokio::net::TcpListener;

use super::door::{Door, Reply, open};

/// A registry behind its access rules.
pub(crate) struct Guarded {
    pub(crate) data: tempfile::TempDir,
    pub(crate) registry: Registry,
    pub(crate) access: Arc<Access>,
    pub(crate) door: Door,
    seconds: Arc<AtomicU64>,
}

impl Guarded {
    /// `settings` may name files of the folder.
    pub(crate) fn with(settings: impl FnOnce(&Path) -> Settings) -> Self {
        let data = tempfile::tempdir().unwrap();
        let settings = settings(data.path());
        let seconds = Arc::new(AtomicU64::new(1_800_000_000));
        let access = open_access(&settings, data.path(), &seconds).unwrap();
        let registry = open(data.path());
        let mut front = Front::new(registry.clone());
        front.access = Arc::new(access);
        Self {
            access: Arc::clone(&front.access),
            door: Door::Router(router(front)),
            data,
            registry,
            seconds,
        }
    }

    /// The same through a socket, so that requests have an address.
    pub(crate) async fn tcp(&self) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut front = Front::new(self.registry.clone());
        front.access = Arc::clone(&self.access);
        let never = std::future::pending();
        tokio::spawn(serve_router(
            listener,
            router(front),
            Limits::default(),
            never,
        ));
        Door::Tcp(address)
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.seconds.load(Ordering::SeqCst)
    }

    /// A request by a user; `""` is nobody.
    pub(crate) async fn ask(&self, user: &str, method: &str, path: &str) -> Reply {
        self.send(&login(user), method, path, &[], "").await
    }

    /// A request with this Authorization; `""` is none.
    pub(crate) async fn send(
        &self,
        authorization: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Reply {
        let mut headers = headers.to_vec();
        if !authorization.is_empty() {
            headers.push(("authorization", authorization));
        }
        self.door.send(method, path, &headers, body).await
    }

    /// Puts an image there without asking anybody.
    pub(crate) async fn push(&self, repository: &str, tag: &str) -> String {
        let inside = Door::Router(router(Front::new(self.registry.clone())));
        super::door::push_image(&inside, repository, tag, repository.as_bytes()).await
    }

    /// A manifest by a user under a tag.
    pub(crate) async fn put(&self, user: &str, path: &str, text: &str) -> Reply {
        let headers = [("content-type", super::door::MANIFEST)];
        self.send(&login(user), "PUT", path, &headers, text.to_owned())
            .await
    }
}

pub(crate) fn open_access(
    settings: &Settings,
    data: &Path,
    seconds: &Arc<AtomicU64>,
) -> Result<Access, AccessError> {
    let seconds = Arc::clone(seconds);
    let clock = move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::SeqCst));
    Access::open(settings, data, Arc::new(clock))
}

/// Every user's password is the name and `-pw`.
pub(crate) fn login(user: &str) -> String {
    match user {
        "" => String::new(),
        user => basic(user, &format!("{user}-pw")),
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}

/// An htpasswd file with ann, bob, eve and root.
pub(crate) fn users(data: &Path) -> Settings {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| {
        let line = |user: &&str| {
            let hash = bcrypt::hash(format!("{user}-pw"), 4).unwrap();
            format!("{user}:{hash}\n")
        };
        ["ann", "bob", "eve", "root"].iter().map(line).collect()
    });
    let path = data.join("users");
    std::fs::write(&path, text).unwrap();
    Settings {
        htpasswd: Some(path),
        ..Settings::default()
    }
}

/// `repositories users actions`, each a list with commas.
pub(crate) fn rules(lines: &[&str]) -> Vec<Rule> {
    let rule = |line: &&str| {
        let [repositories, users, actions]: [&str; 3] =
            line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        Rule {
            repositories: repositories.parse().unwrap(),
            users: users.split(',').map(|user| user.parse().unwrap()).collect(),
            actions: actions
                .split(',')
                .map(|action| action.parse::<Action>().unwrap())
                .collect(),
        }
    };
    lines.iter().map(rule).collect()
}

pub(crate) fn immutable(repositories: &str, tags: &[&str]) -> Vec<Immutable> {
    vec![Immutable {
        repositories: repositories.parse().unwrap(),
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
    }]
}
