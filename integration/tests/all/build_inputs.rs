//! `devpod build` with what is beside the context: secrets, ssh agents, named contexts; and `--check`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::probe;
use integration::process::{eventually, run, spawn};

fn host_image(appliance: &TestAppliance, include: &[&str]) {
    let mut make = vec!["image", "from-host", "--without-git"];
    for program in include {
        make.extend(["--include", program]);
    }
    appliance.run(&make).ok();
}

#[test]
fn secrets_reach_a_step_and_stay_nowhere() {
    let appliance = TestAppliance::start();
    host_image(&appliance, &[]);
    let folder = Folder::new();
    folder.write(
        "Dockerfile",
        "FROM devpod/host
RUN --mount=type=secret,id=filed test \"$(wc -c < /run/secrets/filed)\" = 16
RUN --mount=type=secret,id=set,env=SET test \"${#SET}\" = 20 && echo yes > /said
",
    );
    let file = folder.write("outside/token", "secret-of-a-file");
    let context = folder.path().display().to_string();
    let filed = format!("id=filed,src={}", file.display());
    let arguments = [
        "build",
        "--tag",
        "s:1",
        "--secret",
        &filed,
        "--secret",
        "id=set,env=MINE",
        &context,
    ];
    let mut build = appliance.place().devpod(&arguments);
    run(build.env("MINE", "secret-of-a-variable")).ok();
    let read = ["sandbox", "run", "--rm", "s:1", "cat", "/said"];
    assert_eq!(appliance.run(&read).ok().text(), "yes");
    // Not in a blob, a snapshot, the cache or a log; `grep` ends with 1 where it finds nothing.
    for secret in ["secret-of-a-file", "secret-of-a-variable"] {
        let mut grep = Command::new("grep");
        grep.args(["-rl", "-e", secret])
            .arg(appliance.place().data());
        let found = run(&mut grep).failed(1);
        assert_eq!(found.text(), "", "{secret}");
    }
    appliance
        .run(&["build", "--secret", "id=filed,src=/no/such/file", &context])
        .failed(2)
        .says("secret filed");
}

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_step_uses_the_callers_agent() {
    if !probe::programs(&["ssh-agent", "ssh-add", "ssh-keygen"]) {
        return;
    }
    let appliance = TestAppliance::start();
    host_image(&appliance, &["ssh-add"]);
    let folder = Folder::new();
    let (key, socket) = (folder.join("key"), folder.join("agent"));
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f"]);
    run(make.arg(&key)).ok();
    let mut agent = Command::new("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
    let _agent = Agent(spawn(&mut agent).unwrap());
    eventually("the agent listens", Duration::from_secs(20), || {
        socket.exists()
    });
    run(Command::new("ssh-add")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &socket))
    .ok();
    folder.write(
        "c/Dockerfile",
        "FROM devpod/host
RUN --mount=type=ssh,required ssh-add -L > /keys
RUN test -z \"$SSH_AUTH_SOCK\"
",
    );
    let context = folder.join("c").display().to_string();
    let arguments = ["build", "--tag", "ssh:1", "--ssh", "default", &context];
    let mut build = appliance.place().devpod(&arguments);
    run(build.env("SSH_AUTH_SOCK", &socket)).ok();
    let read = ["sandbox", "run", "--rm", "ssh:1", "cat", "/keys"];
    let keys = appliance.run(&read).ok();
    let public = std::fs::read_to_string(folder.join("key.pub")).unwrap();
    assert_eq!(keys.text(), public.trim());
    // Without an agent the flag is refused by the command, and the step by the build.
    let mut without = appliance.place().devpod(&arguments);
    run(without.env_remove("SSH_AUTH_SOCK"))
        .failed(2)
        .says("ssh-agent");
    appliance
        .run(&["build", "--no-cache", &context])
        .failed(1)
        .says("ssh agent");
}

#[test]
fn named_contexts_stand_for_stages_and_images() {
    let appliance = TestAppliance::start();
    host_image(&appliance, &[]);
    let folder = Folder::new();
    folder.write("lib/f", "of the folder");
    folder.write(
        "c/Dockerfile",
        "FROM nowhere.example.org/base:1
COPY --from=lib f /f
RUN --mount=from=lib,target=/l cat /l/f > /g
",
    );
    let context = folder.join("c").display().to_string();
    let lib = format!("lib={}", folder.join("lib").display());
    let base = "nowhere.example.org/base:1=docker-image://devpod/host";
    let build = [
        "build",
        "--tag",
        "ctx:1",
        "--build-context",
        &lib,
        "--build-context",
        base,
        &context,
    ];
    appliance.run(&build).ok();
    let read = ["sandbox", "run", "--rm", "ctx:1", "cat", "/f", "/g"];
    assert_eq!(
        appliance.run(&read).ok().text(),
        "of the folderof the folder"
    );
    for (source, said) in [
        ("x=oci-layout://none", "is not a folder"),
        ("x=https://example.org/x.tar", "URL"),
        ("x=https://example.org/x.git#--exec=y", "branch name"),
        ("x=/no/such/folder", "is not a folder"),
        ("x", "NAME=FOLDER"),
    ] {
        let refused = ["build", "--build-context", source, &context];
        appliance.run(&refused).failed(2).says(said);
    }
}

#[test]
fn checks_alone_build_nothing() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    folder.write(
        "Dockerfile",
        "FROM scratch AS Base\nENV API_TOKEN=x\nCOPY $nothing /\n",
    );
    let context = folder.path().display().to_string();
    let found = appliance.run(&["build", "--check", &context]).failed(1);
    for line in [
        "Dockerfile:1:17: ",
        "(StageNameCasing)",
        "Dockerfile:2:5: ",
        "  ENV API_TOKEN=x\n      ^^^^^^^^^",
        "(UndefinedVar)",
    ] {
        assert!(found.stdout.contains(line), "{line}: {found}");
    }
    let json = appliance.run(&["build", "--check", "--output", "json", &context]);
    let json = json.failed(1).json();
    let rules: Vec<&str> = json["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| warning["rule"].as_str().unwrap())
        .collect();
    assert_eq!(
        rules,
        ["StageNameCasing", "SecretsUsedInArgOrEnv", "UndefinedVar"]
    );
    folder.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    appliance
        .run(&["build", "--check", &context])
        .ok()
        .says("No warnings");
    assert_eq!(appliance.run(&["images", "--quiet"]).ok().text(), "");
    // In a build they are warnings, and an error where the file wants that.
    folder.write(
        "Dockerfile",
        "# check=error=true\nFROM scratch AS Base\nLABEL a=b\n",
    );
    appliance
        .run(&["build", &context])
        .failed(2)
        .says("StageNameCasing");
    let skipped = [
        "build",
        "--build-arg",
        "BUILDKIT_DOCKERFILE_CHECK=skip=all",
        &context,
    ];
    appliance.run(&skipped).ok();
}

/// Serves one body at every path: with a tag that it knows again, a redirect at `/old`, and a count of
/// the bodies that were sent.
fn serve(body: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, sent) = (
        listener.local_addr().unwrap(),
        Arc::<AtomicUsize>::default(),
    );
    let count = Arc::clone(&sent);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(line)) = lines.next() {
                if line.is_empty() {
                    break;
                }
                head.push_str(&line.to_lowercase());
                head.push('\n');
            }
            let fixed = "ETag: \"one\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n";
            let answer = if head.starts_with("get /old") {
                "HTTP/1.1 302 Found\r\nLocation: /new/file.txt\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
            } else if head.starts_with("get /none") {
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    .to_owned()
            } else if head.contains("if-none-match: \"one\"") {
                format!("HTTP/1.1 304 Not Modified\r\n{fixed}\r\n")
            } else {
                count.fetch_add(1, Ordering::SeqCst);
                format!(
                    "HTTP/1.1 200 OK\r\n{fixed}Content-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            };
            // A client that has gone away wants no answer.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (at, sent)
}

#[test]
fn add_fetches_and_keeps() {
    let appliance = TestAppliance::start();
    host_image(&appliance, &[]);
    let (at, sent) = serve("served");
    let folder = Folder::new();
    let context = folder.path().display().to_string();
    let file = format!("FROM devpod/host\nADD http://{at}/old /d/\nADD http://{at}/x.txt /d/\n");
    folder.write(
        "Dockerfile",
        file + "RUN stat -c '%a %u %Y' /d/x.txt > /said\n",
    );
    let build = ["build", "--tag", "add:1", &context];
    appliance.run(&build).ok();
    let read = [
        "sandbox",
        "run",
        "--rm",
        "add:1",
        "sh",
        "-c",
        "cat /d/old /d/x.txt /said",
    ];
    assert_eq!(
        appliance.run(&read).ok().text(),
        "servedserved600 0 784111777"
    );
    assert_eq!(sent.load(Ordering::SeqCst), 2);
    let again = appliance.run(&build).ok();
    let log = format!("{}{}", again.stdout, again.stderr);
    assert_eq!(log.matches("(cached)").count(), 3, "{again}");
    assert_eq!(
        sent.load(Ordering::SeqCst),
        2,
        "what is known is not sent again"
    );
    folder.write(
        "Dockerfile",
        format!("FROM scratch\nADD http://{at}/none /\n"),
    );
    appliance
        .run(&["build", &context])
        .failed(1)
        .says("cannot fetch");
}

#[test]
fn an_image_of_a_layout_is_a_named_context() {
    let folder = Folder::new();
    let layout = folder.join("layout");
    if !integration::base_image::busybox(&layout) {
        return;
    }
    let appliance = TestAppliance::start();
    folder.write(
        "c/Dockerfile",
        "FROM base AS made\nRUN echo ran > /ran\nCOPY --from=base /etc/layer /copied\n",
    );
    let context = folder.join("c").display().to_string();
    let build = |source: &str| {
        let named = format!("base=oci-layout://{source}");
        appliance.run(&["build", "-t", "made", "--build-context", &named, &context])
    };
    let path = layout.display().to_string();
    let digest = integration::layout::manifest_digest(&layout);
    // A layout that is somebody's file system is not changed by it.
    let before = integration::tree::of(&layout);
    for source in [
        path.clone(),
        format!("{path}:latest"),
        format!("{path}@{digest}"),
    ] {
        build(&source).ok();
        let read = ["sandbox", "run", "--rm", "made", "cat", "/ran", "/copied"];
        assert_eq!(appliance.run(&read).ok().text(), "ran\nsecond", "{source}");
    }
    assert_eq!(
        integration::tree::difference(&before, &integration::tree::of(&layout)),
        ""
    );
    build(&format!("{path}:other"))
        .failed(3)
        .says("there is no image other")
        .says("latest");
    build("/no/such/folder").failed(2).says("is not a folder");
    // Bytes that are not what the manifest says are noticed, by a daemon that has not seen the right ones.
    let fresh = TestAppliance::start();
    for blob in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        let bytes = std::fs::read(&blob).unwrap();
        if !bytes.starts_with(b"{") {
            let zeros = vec![0; bytes.len()];
            std::fs::write(&blob, zeros).unwrap();
        }
    }
    let named = format!("base=oci-layout://{path}");
    let arguments = ["build", "--build-context", &named, &context];
    let failed = fresh.run(&arguments);
    assert_ne!(failed.code, 0, "{failed}");
    failed.says("cannot use the build context base");
}
