//! kill -9 at random moments, under concurrent pushes, deletions, mounts, retention, collections and
//! scrubs.
//!
//! A child process serves HTTP; the parent's clients keep a log of what was acknowledged. After each
//! kill the verifier looks at the folder, a new child opens it, and everything in the log is asked
//! for again: what was acknowledged is here byte for byte, what was deleted is gone, and only what
//! was in the making may be either. `DEVPOD_CRASH_ROUNDS` sets how often.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use config::registry::retention::Rule;
use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use registry::http::{Front, serve};
use registry::service::{Policy, Registry};
use registry::store::Grace;
use registry::store::scrub::ScrubOptions;
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;
use super::door::{MANIFEST, image, options, sha256};
use super::verifier::{Excuses, faults};

const FOLDER: &str = "REGISTRY_KILL_FOLDER";
/// Tags that a rule may take at any time.
const HISTORY: &str = "k*";
const WORKERS: usize = 6;
const CONTENTS: usize = 24;
/// Of a run that nobody set a number of rounds for.
const ROUNDS: usize = 40;
const BUDGET: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_loses_nothing() {
    let set = std::env::var("DEVPOD_CRASH_ROUNDS").ok();
    let set: Option<usize> = set.map(|text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice::told("kills");
    let mut logs = vec![Log::default(); WORKERS];
    let (mut acknowledged, mut looked_at, mut rounds) = (0, 0, 0);
    let begun = Instant::now();
    while rounds < set.unwrap_or(ROUNDS) && (set.is_some() || begun.elapsed() < BUDGET) {
        let (mut child, address) = start(folder.path());
        looked_at += check(address, &mut logs).await;
        share(address).await;
        let workers: Vec<_> = std::mem::take(&mut logs)
            .into_iter()
            .enumerate()
            .map(|(number, log)| tokio::spawn(work(number, address, log, dice.split())))
            .collect();
        tokio::time::sleep(Duration::from_millis(10 + dice.below(200) as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for worker in workers {
            let (log, done) = worker.await.unwrap();
            logs.push(log);
            acknowledged += done;
        }
        assert_eq!(faults(folder.path(), Excuses::default()), [""; 0]);
        rounds += 1;
    }
    let (mut child, address) = start(folder.path());
    looked_at += check(address, &mut logs).await;
    child.kill().unwrap();
    child.wait().unwrap();
    println!("{rounds} kills, {acknowledged} acknowledged changes, {looked_at} answers compared");
    assert!(acknowledged > rounds, "the clients did hardly anything");
}

/// Starts a child and answers its address.
fn start(folder: &Path) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kills::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = lines.map_while(Result::ok);
    let address = said.find_map(|line| Some(line.split_once("serves ")?.1.parse().unwrap()));
    (child, address.expect("the child does not serve"))
}

/// Runs only as the child of the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by a_kill_at_any_moment_loses_nothing"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let registry = Registry::open(options(folder.as_ref()), Policy::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("serves {}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let collected = registry.clone();
    std::thread::spawn(move || collect(&collected));
    serve(listener, Front::new(registry), std::future::pending())
        .await
        .unwrap();
}

/// Files that no row names go at once; nothing that was acknowledged may be among them.
fn collect(registry: &Registry) {
    let grace = Grace {
        links: Duration::from_secs(3600),
        files: Duration::ZERO,
    };
    let rule = Rule {
        repositories: "kill/h*".parse().unwrap(),
        tags: HISTORY.parse().unwrap(),
        keep_last: Some(3),
        keep_for: None,
        keep_pulled_for: None,
    };
    loop {
        registry
            .expire_tags(std::slice::from_ref(&rule), false)
            .unwrap();
        registry.store().collect(grace, &|_| false).unwrap();
        let done = registry.scrub(&ScrubOptions::default(), &mut |_, _| {
            std::ops::ControlFlow::Continue(())
        });
        assert_eq!(done.unwrap().quarantined, 0);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a GET of a path may answer: bytes, or that there is nothing.
type Answers = Vec<Option<Bytes>>;

/// What one worker knows of its repository.
#[derive(Debug, Clone, Default)]
struct Log {
    paths: BTreeMap<String, Answers>,
    /// What the manifests that it pushed name.
    needs: BTreeMap<String, Vec<String>>,
}

impl Log {
    /// Paths that are known to answer something, and which contain `part`.
    fn here(&self, part: &str) -> Vec<(String, Bytes)> {
        let sure = self
            .paths
            .iter()
            .filter_map(|(path, answers)| match answers.as_slice() {
                [Some(bytes)] if path.contains(part) && path.contains("kill/w") => {
                    Some((path.clone(), bytes.clone()))
                }
                _ => None,
            });
        sure.collect()
    }

    /// A change that is about to be asked for: from now on either may be the case.
    fn begin(&mut self, effects: &[(String, Option<Bytes>)]) {
        for (path, answer) in effects {
            let answers = self.paths.entry(path.clone()).or_insert(vec![None]);
            if !answers.contains(answer) {
                answers.push(answer.clone());
            }
        }
    }

    fn acknowledge(&mut self, effects: Vec<(String, Option<Bytes>)>) {
        for (path, answer) in effects {
            let mut answers = vec![answer];
            if is_history(&path) {
                answers.push(None);
            }
            self.paths.insert(path, answers);
        }
    }
}

/// A request, what it is answered with, and what is true afterwards.
struct Change {
    requests: Vec<(&'static str, String, Bytes, u16)>,
    effects: Vec<(String, Option<Bytes>)>,
}

fn content(number: usize) -> Bytes {
    let length = 200 + number * number * 400;
    let bytes = (0..length).map(|at| u8::try_from((at * (number + 3) + number) % 251).unwrap());
    bytes.collect::<Vec<u8>>().into()
}

/// Changes one repository until the connection breaks; answers what it knows and how many changes
/// were acknowledged.
async fn work(number: usize, address: SocketAddr, mut log: Log, mut dice: Dice) -> (Log, usize) {
    let repository = format!("kill/w{number}");
    let Some(mut client) = connect(address).await else {
        return (log, 0);
    };
    for done in 0.. {
        let Some(change) = choose(&repository, &mut log, &mut dice) else {
            continue;
        };
        log.begin(&change.effects);
        let mut location = String::new();
        for (method, path, body, status) in change.requests {
            let path = path.replace("{location}", &location);
            let Some((found, place, text)) = ask(&mut client, method, &path, body).await else {
                return (log, done);
            };
            let text = String::from_utf8_lossy(&text);
            assert_eq!(found, status, "{method} {path}: {text}");
            location = place;
        }
        log.acknowledge(change.effects);
    }
    unreachable!("the loop has no end");
}

/// Whether the rule may take the tag.
fn is_history(path: &str) -> bool {
    path.contains("/manifests/k")
}

fn choose(repository: &str, log: &mut Log, dice: &mut Dice) -> Option<Change> {
    match dice.below(10) {
        9 => Some(remember(&repository.replace("/w", "/h"), dice)),
        0..=2 => Some(push(repository, &content(dice.below(CONTENTS)), dice)),
        3 => Some(mount(repository, &content(CONTENTS + dice.below(2)))),
        4 | 5 => put(repository, log, dice),
        6 => {
            let (path, _) = dice.pick(&log.here("/manifests/t"))?.clone();
            Some(delete(path, Vec::new()))
        }
        7 => {
            let (path, bytes) = dice.pick(&log.here("/manifests/sha256:"))?.clone();
            // Its tags go with it.
            let mut tags = log.here("/manifests/t");
            tags.retain(|(_, tagged)| *tagged == bytes);
            Some(delete(
                path,
                tags.into_iter().map(|(path, _)| path).collect(),
            ))
        }
        _ => {
            let needed: Vec<String> = log
                .here("/manifests/sha256:")
                .iter()
                .filter_map(|(path, _)| log.needs.get(path))
                .flatten()
                .cloned()
                .collect();
            let mut blobs = log.here("/blobs/");
            blobs.retain(|(path, _)| !needed.contains(path));
            let (path, _) = dice.pick(&blobs)?.clone();
            Some(delete(path, Vec::new()))
        }
    }
}

fn delete(path: String, also: Vec<String>) -> Change {
    let ends = std::iter::once(path.clone()).chain(also);
    Change {
        effects: ends.map(|path| (path, None)).collect(),
        requests: vec![("DELETE", path, Bytes::new(), 202)],
    }
}

fn push(repository: &str, content: &Bytes, dice: &mut Dice) -> Change {
    let digest = sha256(content);
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    let requests = if dice.below(2) == 0 {
        vec![(
            "POST",
            format!("{uploads}?digest={digest}"),
            content.clone(),
            201,
        )]
    } else {
        let middle = content.len() / 2;
        let place = || "{location}".to_owned();
        vec![
            ("POST", uploads, Bytes::new(), 202),
            ("PATCH", place(), content.slice(..middle), 202),
            ("PATCH", place(), content.slice(middle..), 202),
            (
                "PUT",
                format!("{{location}}?digest={digest}"),
                Bytes::new(),
                201,
            ),
        ]
    };
    let path = format!("/v2/{repository}/blobs/{digest}");
    Change {
        requests,
        effects: vec![(path, Some(content.clone()))],
    }
}

fn mount(repository: &str, content: &Bytes) -> Change {
    let digest = sha256(content);
    let post = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from=kill/shared");
    let path = format!("/v2/{repository}/blobs/{digest}");
    Change {
        requests: vec![("POST", post, Bytes::new(), 201)],
        effects: vec![(path, Some(content.clone()))],
    }
}

/// One more tag of a history.
fn remember(repository: &str, dice: &mut Dice) -> Change {
    let config = content(CONTENTS);
    let number = dice.below(40);
    let extra = format!(r#","annotations":{{"number":"{number}"}}"#);
    let text: Bytes = image(&sha256(&config), &[], &extra).into();
    let base = format!("/v2/{repository}/manifests");
    let mut change = mount(repository, &config);
    let path = format!("{base}/k{number}");
    change
        .requests
        .push(("PUT", path.clone(), text.clone(), 201));
    change
        .effects
        .push((format!("{base}/{}", sha256(&text)), Some(text.clone())));
    change.effects.push((path, Some(text)));
    change
}

fn put(repository: &str, log: &mut Log, dice: &mut Dice) -> Option<Change> {
    let blobs = log.here("/blobs/");
    let (config, _) = dice.pick(&blobs)?;
    let (layer, _) = dice.pick(&blobs)?;
    let digest = |path: &str| path.rsplit('/').next().unwrap().parse().unwrap();
    let text: Bytes = image(&digest(config), &[&digest(layer)], "").into();
    let named = sha256(&text);
    let tags = [format!("t{}", dice.below(4)), format!("t{}", dice.below(4))];
    let base = format!("/v2/{repository}/manifests");
    let (target, set) = match dice.below(3) {
        0 => (tags[0].clone(), &tags[..1]),
        1 => (
            format!("{named}?tag={}&tag={}", tags[0], tags[1]),
            &tags[..],
        ),
        _ => (named.to_string(), &tags[..0]),
    };
    let by_digest = format!("{base}/{named}");
    log.needs
        .insert(by_digest.clone(), vec![config.clone(), layer.clone()]);
    let paths = set.iter().map(|tag| format!("{base}/{tag}"));
    let effects = paths
        .chain([by_digest])
        .map(|path| (path, Some(text.clone())));
    Some(Change {
        effects: effects.collect(),
        requests: vec![("PUT", format!("{base}/{target}"), text, 201)],
    })
}

/// What mounts are made from; never deleted.
async fn share(address: SocketAddr) {
    let mut client = connect(address).await.unwrap();
    for number in CONTENTS..CONTENTS + 2 {
        let content = content(number);
        let path = format!("/v2/kill/shared/blobs/uploads/?digest={}", sha256(&content));
        let (status, ..) = ask(&mut client, "POST", &path, content).await.unwrap();
        assert_eq!(status, 201);
    }
}

/// Asks for everything in the logs; from here on they know which it is.
async fn check(address: SocketAddr, logs: &mut [Log]) -> usize {
    let mut client = connect(address).await.unwrap();
    let mut count = 0;
    for log in logs {
        for (path, answers) in &mut log.paths {
            let (status, _, bytes) = ask(&mut client, "GET", path, Bytes::new()).await.unwrap();
            let found = match status {
                200 => Some(bytes),
                404 => None,
                other => panic!("GET {path} answers {other}"),
            };
            let said = answers.iter().map(|answer| answer.as_ref().map(Bytes::len));
            let said: Vec<_> = said.collect();
            let length = found.as_ref().map(Bytes::len);
            assert!(answers.contains(&found), "{path}: {length:?}, not {said:?}");
            let mut now = vec![found];
            if is_history(path) {
                now.push(None);
            }
            *answers = now;
            count += 1;
        }
    }
    count
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Body>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (client, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Status, Location and body; `None` where the connection broke before all of it came.
async fn ask(
    client: &mut SendRequest<Body>,
    method: &str,
    path: &str,
    body: Bytes,
) -> Option<(u16, String, Bytes)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", MANIFEST)
        .header("content-length", body.len())
        .body(Body::from(body))
        .unwrap();
    client.ready().await.ok()?;
    let response = client.send_request(request).await.ok()?;
    let (parts, body) = response.into_parts();
    let location = parts.headers.get("location");
    let location = location
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let body = body.collect().await.ok()?.to_bytes();
    Some((parts.status.as_u16(), location, body))
}
