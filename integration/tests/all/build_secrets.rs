//! Nothing that a build is given in confidence is anywhere but in the step that asked for it: not in a
//! process list while it runs, and in no file, blob, log or history afterwards.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::probe;
use integration::process::{eventually, run, spawn, wait};

const REST: Duration = Duration::from_secs(60);

/// Secrets as they are written, each a word of its own, and what of them stands in an image's way.
const FILED: &str = "hush-of-a-file";
const SET: &str = "hush-of-a-variable";
const BINARY: &[u8] = b"hush-\xff\x00\xfe-of-bytes";
const PROXY: &str = "http://carrier:hush-of-a-proxy@127.0.0.1:9";
const USER: &str = "hush-of-a-user";
const TOKEN: &str = "hush-of-a-query";
/// What is looked for: `hush-` itself, as text and in base64 at each of the three offsets.
const WORDS: [&[u8]; 4] = [b"hush-", b"aHVzaC", b"h1c2gt", b"odXNoL"];

const DOCKERFILE: &str = "FROM devpod/host AS fetched
ARG ADDED
ADD $ADDED /fetched
FROM devpod/host
RUN --mount=type=secret,id=filed --mount=type=secret,id=set,env=SET \\
    --mount=type=secret,id=binary,target=/binary --mount=type=ssh,required \\
    --mount=type=cache,id=scan,target=/scan \\
    ssh-add -L > /keys && test \"${#SET}\" = 18 && test \"$(wc -c < /run/secrets/filed)\" = 14 && \\
    test \"$(wc -c < /binary)\" = 17 && test \"${HTTP_PROXY%:9}\" != \"$HTTP_PROXY\" && \\
    touch /scan/began && until test -e /scan/go; do sleep 0.1; done
COPY --from=fetched /fetched /fetched
";

/// Answers every question with a small file, and keeps what was asked.
fn serve() -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, asked) = (
        listener.local_addr().unwrap(),
        Arc::<Mutex<String>>::default(),
    );
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head = lines
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty());
            let head: Vec<String> = head.collect();
            heard.lock().unwrap().push_str(&head.join("\n"));
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nserved";
            // A client that has gone away wants no answer.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (at, asked)
}

/// An agent with a key; ended when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(folder: &Folder) -> (Agent, PathBuf) {
    let (key, socket) = (folder.join("key"), folder.join("agent"));
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f"]);
    run(make.arg(&key)).ok();
    let mut command = Command::new("ssh-agent");
    command
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdout(Stdio::null());
    let agent = Agent(spawn(&mut command).unwrap());
    eventually("the agent listens", REST, || socket.exists());
    run(Command::new("ssh-add")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &socket))
    .ok();
    (agent, socket)
}

fn has_secret(bytes: &[u8]) -> bool {
    let found = |word: &&[u8]| bytes.windows(word.len()).any(|window| window == *word);
    WORDS.iter().any(found)
}

/// Processes of the host with a secret in their arguments or environment, but those of the step: they
/// have process ids of their own. `caller` was given the secrets by us.
fn telling_processes(caller: u32) -> Vec<String> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = namespace("self").unwrap();
    let mut told = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let is_ours = namespace(&pid).is_some_and(|its| its == ours);
        if !is_ours || pid == caller.to_string() || pid == "self" || pid == "thread-self" {
            continue;
        }
        for name in ["cmdline", "environ"] {
            // A process that has just ended tells nothing.
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            if has_secret(&bytes) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                told.push(format!("{name} of {pid}: {text}"));
            }
        }
    }
    told
}

/// Files below a folder with a secret in them, as they are or decompressed.
fn telling_files(folder: &Path, told: &mut Vec<String>) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            seen += telling_files(&path, told);
        } else if kind.is_file() {
            seen += 1;
            let bytes = fs::read(&path).unwrap();
            let mut unpacked = Vec::new();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                // A file that only begins like one is looked at as far as it goes.
                let _ = MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked);
            }
            if has_secret(&bytes) || has_secret(&unpacked) {
                told.push(path.display().to_string());
            }
        }
    }
    seen
}

#[test]
fn a_scan_finds_no_secret() {
    let programs = ["ssh-agent", "ssh-add", "ssh-keygen"];
    if !probe::root() || !probe::programs(&programs) {
        return;
    }
    let appliance = TestAppliance::start();
    let place = appliance.place();
    let make = [
        "image",
        "from-host",
        "--without-git",
        "--include",
        "ssh-add",
    ];
    appliance.run(&make).ok();
    let folder = Folder::new();
    let (_agent, socket) = agent(&folder);
    let (at, asked) = serve();
    folder.write("c/Dockerfile", DOCKERFILE);
    let filed = folder.write("given/filed", FILED);
    let binary = folder.join("given/binary");
    fs::write(&binary, BINARY).unwrap();
    let log = folder.join("log");
    let of_file = |id: &str, path: &Path| format!("id={id},src={}", path.display());
    let (filed, binary) = (of_file("filed", &filed), of_file("binary", &binary));
    let context = folder.join("c").display().to_string();
    let mut command = place.devpod(&[
        "build",
        "-t",
        "quiet:1",
        "--progress",
        "json",
        "--provenance=mode=max",
        "--secret",
        &filed,
        "--secret",
        "id=set,env=MINE",
        "--secret",
        &binary,
        "--ssh",
        "default",
        "--build-arg",
        "HTTP_PROXY",
        "--build-arg",
        "ADDED",
        &context,
    ]);
    command
        .env("MINE", SET)
        .env("HTTP_PROXY", PROXY)
        // The server of the file is reached without the proxy, which leads nowhere.
        .env("NO_PROXY", "127.0.0.1")
        .env("SSH_AUTH_SOCK", &socket)
        .env("ADDED", format!("http://{USER}:{USER}@{at}/f?token={TOKEN}"))
        .stdin(Stdio::null());
    let output = File::create(&log).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut build = spawn(&mut command).unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    let mounts = place.data().join("cache/mounts");
    let cache = || {
        let folders = fs::read_dir(&mounts).ok()?.flatten();
        let mut folders = folders.map(|entry| entry.path());
        folders.find(|path| path.join("began").exists())
    };
    eventually("the step runs", REST, || {
        assert_eq!(wait(&mut build, Duration::ZERO), None, "{}", said());
        cache().is_some()
    });
    assert_eq!(telling_processes(build.id()), [""; 0]);
    fs::write(cache().unwrap().join("go"), "").unwrap();
    assert_eq!(wait(&mut build, REST), Some(0), "{}", said());
    // The server was told, so the address was whole.
    let asked = asked.lock().unwrap().to_lowercase();
    assert!(
        asked.contains(TOKEN) && asked.contains("authorization: basic"),
        "{asked}"
    );

    let log = said();
    assert!(log.contains(&format!("Fetching http://{at}/f")), "{log}");
    assert!(!has_secret(log.as_bytes()), "{log}");
    for verb in [
        &["image", "history", "quiet:1", "--output", "json"][..],
        &["inspect", "quiet:1"],
        &["build-cache", "ls", "--output", "json"],
    ] {
        let shown = appliance.run(verb).ok();
        assert!(!has_secret(shown.stdout.as_bytes()), "{shown}");
    }
    let mut told = Vec::new();
    let seen = telling_files(place.path(), &mut told);
    assert!(seen > 50, "only {seen} files were looked at");
    assert_eq!(told, [""; 0]);
    // What looks for secrets finds them where they are.
    assert_eq!(telling_files(&folder.join("given"), &mut told), 2);
    assert_eq!(told.len(), 2);
}
