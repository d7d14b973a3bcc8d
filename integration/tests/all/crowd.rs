//! A thousand connections that do nothing and five hundred that work: nobody is turned away.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::{layout, probe};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const IDLE: usize = 1000;
const ACTIVE: usize = 500;
/// Both ends' worth of descriptors on this side, and what tests beside this one have open.
const FILES: u64 = 4096;
/// Less than the minute after which silent connections are closed: nobody waits for one of those.
const PATIENCE: Duration = Duration::from_secs(45);

/// This process may open so many; `false` after having told that it may not.
fn may_open_files() -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < FILES) {
        probe::skip(&format!("it needs {FILES} open files"));
        return false;
    }
    if limit.current.is_some_and(|now| now < FILES) {
        let raised = Rlimit {
            current: Some(FILES),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).expect("below the hard limit");
    }
    true
}

fn connect(appliance: &TestAppliance) -> TcpStream {
    let stream = TcpStream::connect(appliance.registry()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request and answers the status and the body.
fn ask(stream: &mut TcpStream, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: crowd\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("an answer in time");
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&answer)
        );
        answer.extend_from_slice(&buffer[..count]);
        if let Some(found) = whole(&answer) {
            return found;
        }
    }
}

/// The status and the body, once all of it is there.
fn whole(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.get(9..12)?.parse().ok()?;
    let length = head.split("content-length: ").nth(1)?.lines().next()?;
    let body = &answer[end..];
    (body.len() == length.parse::<usize>().ok()?).then(|| (status, body.to_vec()))
}

/// Pushes a blob and reads it back, a few times over one connection.
fn work(appliance: &TestAppliance, number: usize) {
    let mut stream = connect(appliance);
    for round in 0..3 {
        let content = format!("{number} {round}");
        let digest = layout::digest(content.as_bytes());
        let repository = format!("crowd/r{}", number % 10);
        let push = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let (status, _) = ask(&mut stream, "POST", &push, content.as_bytes());
        assert_eq!(status, 201, "{number}");
        let path = format!("/v2/{repository}/blobs/{digest}");
        let (status, body) = ask(&mut stream, "GET", &path, b"");
        assert_eq!((status, body), (200, content.into_bytes()), "{number}");
    }
}

#[test]
fn a_crowd_hurts_nobody() {
    if !may_open_files() {
        return;
    }
    let appliance = TestAppliance::start();
    // Half of them have asked something once, the others never.
    let mut idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(&appliance)).collect();
    for stream in idle.iter_mut().step_by(2) {
        assert_eq!(ask(stream, "GET", "/v2/", b"").0, 200);
    }
    std::thread::scope(|scope| {
        for number in 0..ACTIVE {
            let appliance = &appliance;
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            thread
                .spawn_scoped(scope, move || work(appliance, number))
                .expect("a thread");
        }
    });
    // Another client is served as if it were alone.
    work(&appliance, ACTIVE);
    appliance.run(&["images"]).ok();
}

#[test]
fn the_daemon_opens_as_many_files_as_it_may() {
    let appliance = TestAppliance::start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", appliance.pid()));
    let limits = limits.expect("our own child");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = line.expect("a limit").split_whitespace().collect();
    assert_eq!(words[3], words[4], "{words:?}");
}
