//! A password or a token in a repository's address reaches the server, and no argument list on the way.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
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

/// `SCHEME base64(LOGIN)`, made by another program, which is told the login by its environment.
fn header(scheme: &str, login: &str) -> String {
    let mut encode = std::process::Command::new("sh");
    encode.args(["-c", "printf %s \"$LOGIN\" | base64 -w0"]);
    let encoded = run(encode.env("LOGIN", login)).ok();
    format!("{scheme} {}", encoded.text())
}

/// Brings a workspace up with `login` in its address, while nobody but its caller shows `secret`, and answers
/// what is left of the login in messages, records and the clone. Other tests of this process have words of
/// their own, and look at all processes, too.
fn comes_up_in_secret(login: &str, secret: &str, header: String) {
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
    let server = Server::start(&folder.join("r"), Some(header.clone().leak()));
    let gate = Gate::before(server.address());
    let url = format!("http://{login}@{}/repo.git", gate.address);
    let log = folder.join("log");
    let output = std::fs::File::create(&log).unwrap();
    let mut command = appliance
        .place()
        .devpod(&["up", "--repo", &url, "--name", "shut"]);
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut up = process::spawn(&mut command).unwrap();
    eventually("git asks", REST, || gate.came.load(Ordering::SeqCst) > 0);
    let helper = format!("http://{}/repo.git", gate.address);
    let seen = arguments();
    assert!(
        seen.iter()
            .any(|line| line.contains("remote-http") && line.contains(&helper)),
        "{seen:?}"
    );
    let encoded = header.rsplit(' ').next().unwrap().trim_end_matches('=');
    for word in [secret, encoded] {
        let shown: Vec<_> = seen.iter().filter(|line| line.contains(word)).collect();
        assert!(shown.is_empty(), "{shown:?}");
    }
    gate.open.store(true, Ordering::SeqCst);
    let ended = wait(&mut up, REST);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(ended, Some(0), "{said}");
    // It was needed, and nothing keeps it.
    let config = ["ssh", "shut", "--", "cat", ".git/config"];
    let config = appliance.run(&config).ok();
    assert!(config.text().contains(&helper), "{config}");
    let listed = appliance.run(&["list", "--output", "json"]).ok();
    let kept = record(&appliance);
    assert!(kept.contains(&helper), "{kept}");
    for text in [&said, config.text(), listed.text(), &kept] {
        assert!(!text.contains(secret), "{text}");
    }
    as_recorded_before(&appliance, &helper, &url);
    appliance.run(&["delete", "--force", "shut"]).ok();
    let without = url.replace(secret, "wrong");
    appliance
        .run(&["up", "--repo", &without, "--name", "refused"])
        .failed(6)
        .says("credential");
}

fn record_path(appliance: &TestAppliance) -> PathBuf {
    let home = appliance.place().home();
    home.join(".devpod/workspaces/shut.json")
}

fn record(appliance: &TestAppliance) -> String {
    std::fs::read_to_string(record_path(appliance)).unwrap()
}

/// Earlier versions recorded the user; such a workspace is the same one, and its record is mended.
fn as_recorded_before(appliance: &TestAppliance, address: &str, url: &str) {
    let old = address.replace("http://", "http://somebody@");
    let path = record_path(appliance);
    std::fs::write(&path, record(appliance).replace(address, &old)).unwrap();
    let again = appliance.run(&["up", "--repo", url]).ok();
    assert!(!again.text().contains("Cloning"), "{again}");
    let kept = record(appliance);
    assert!(
        kept.contains(address) && !kept.contains("somebody"),
        "{kept}"
    );
}

#[test]
fn git_is_given_a_password_by_no_argument() {
    let secret = format!("mum-{}", std::process::id());
    let login = format!("me:{secret}");
    comes_up_in_secret(&login, &secret, header("basic", &login));
}

#[test]
fn git_is_given_a_token_as_the_user_by_no_argument() {
    let secret = format!("pass{}", std::process::id());
    let login = format!("{secret}:x-oauth-basic");
    comes_up_in_secret(&login, &secret, header("basic", &login));
}

#[test]
fn git_is_given_a_user_alone_by_no_argument() {
    let secret = format!("ticket{}", std::process::id());
    // Git makes this header itself.
    let header = header("Basic", &format!("{secret}:"));
    comes_up_in_secret(&secret, &secret, header);
}
