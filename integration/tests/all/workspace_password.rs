//! A password in a repository's address reaches the server, and no argument list on the way.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::git::{Server, Work};
use integration::probe;
use integration::process::{self, eventually, run, wait};

use crate::workspace::example;

const REST: Duration = Duration::from_secs(120);
/// `me:hush-hush`.
const HEADER: &str = "basic bWU6aHVzaC1odXNo";

/// Lets connections wait before the server until it is told to let them through.
struct Gate {
    address: SocketAddr,
    came: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            came: Arc::default(),
            open: Arc::default(),
        };
        let (came, open) = (Arc::clone(&gate.came), Arc::clone(&gate.open));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                came.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                std::thread::spawn(move || {
                    while !open.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    // Either end may hang up.
                    let _ = carry(&stream, server);
                });
            }
        });
        gate
    }
}

fn carry(client: &TcpStream, server: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn(move || io::copy(&mut from, &mut to));
    let (mut from, mut to) = (server, client.try_clone()?);
    io::copy(&mut from, &mut to)?;
    client.shutdown(std::net::Shutdown::Both)?;
    there
        .join()
        .map(drop)
        .map_err(|_| io::Error::other("a thread died"))
}

/// The argument lists of all processes of this host but `devpod`'s, which the caller wrote.
fn arguments() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| !line.contains("--repo")).collect()
}

#[test]
fn git_is_given_a_password_by_no_argument() {
    if !probe::programs(&["git"]) {
        return;
    }
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let made = example(&folder);
    let work = Work::new(&folder.join("r/repo.git"));
    let mut copy = std::process::Command::new("cp");
    run(copy.arg("-a").arg(made.join(".")).arg(work.path())).ok();
    work.commit();
    let server = Server::start(&folder.join("r"), Some(HEADER));
    let gate = Gate::before(server.address());
    let url = format!("http://me:hush-hush@{}/repo.git", gate.address);
    let mut command = appliance
        .place()
        .devpod(&["up", "--repo", &url, "--name", "shut"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = process::spawn(&mut command).unwrap();
    eventually("git asks", REST, || gate.came.load(Ordering::SeqCst) > 0);
    let helper = format!("me@{}", gate.address);
    let seen = arguments();
    assert!(
        seen.iter()
            .any(|line| line.contains("remote-http") && line.contains(&helper)),
        "{seen:?}"
    );
    for word in ["hush", "aHVzaC"] {
        let shown: Vec<_> = seen.iter().filter(|line| line.contains(word)).collect();
        assert!(shown.is_empty(), "{shown:?}");
    }
    gate.open.store(true, Ordering::SeqCst);
    assert_eq!(wait(&mut up, REST), Some(0));
    // It was needed, and the clone does not keep it.
    let config = ["ssh", "shut", "--", "cat", ".git/config"];
    let config = appliance.run(&config).ok();
    assert!(
        config.text().contains(&helper) && !config.text().contains("hush"),
        "{config}"
    );
    appliance.run(&["delete", "--force", "shut"]).ok();
    let without = url.replace("hush-hush", "wrong");
    appliance
        .run(&["up", "--repo", &without, "--name", "refused"])
        .failed(6)
        .says("credential");
}
