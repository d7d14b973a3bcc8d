//! Networks of sandboxes as their users meet them: published ports, the registry inside, a daemon
//! that dies, and what is kept apart.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::process::eventually;
use integration::{base_image, probe};
use serde_json::Value;

fn appliance() -> Option<TestAppliance> {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return None;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "busybox:1");
    Some(appliance)
}

const SERVE: &str = "while true; do busybox nc -l -p 8080 -e wc -c; done";

fn serve(appliance: &TestAppliance, name: &str, options: &[&str]) {
    let run = ["sandbox", "run", "-d", "--name", name];
    let what = ["busybox:1", "sh", "-c", SERVE];
    appliance.run(&[&run[..], options, &what].concat()).ok();
}

/// Where the sandbox's port is on the host.
fn host_port(appliance: &TestAppliance, name: &str) -> String {
    appliance
        .run(&["sandbox", "port", name, "8080"])
        .ok()
        .text()
        .to_owned()
}

/// What the service answers to five bytes; nothing while it does not listen.
fn ask(at: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(at) {
        let _ = stream.write_all(b"hello");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

#[test]
fn a_published_port_is_shown_and_outlives_the_daemon() {
    let Some(appliance) = appliance() else { return };
    serve(&appliance, "web", &["-p", "8080"]);
    let at = host_port(&appliance, "web");
    assert!(at.starts_with("127.0.0.1:"), "{at}");
    let answers = || ask(&at) == "5\n";
    eventually("the service answers", Duration::from_secs(20), answers);
    let rows = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(rows[0]["ports"][0]["port"], 8080);
    assert_eq!(rows[0]["ports"][0]["protocol"], "tcp");
    let shown = appliance.run(&["sandbox", "ps"]).ok();
    assert!(shown.stdout.contains(&format!("{at}->8080/tcp")), "{shown}");
    // Somebody else has the port: told before anything runs, as a conflict.
    let port = at.rsplit(':').next().unwrap();
    let publish = format!("{port}:80");
    let taken = appliance.run(&[
        "sandbox",
        "run",
        "--rm",
        "-p",
        &publish,
        "busybox:1",
        "true",
    ]);
    taken.failed(4).says("taken by another program");
    let appliance = TestAppliance::start_at(appliance.kill());
    eventually("it still answers", Duration::from_secs(20), answers);
    assert_eq!(host_port(&appliance, "web"), at);
    appliance
        .run(&["sandbox", "stop", "--time", "0", "web"])
        .ok();
    TcpListener::bind(&at).unwrap();
}

#[test]
fn the_registry_is_at_localhost_inside_and_other_ports_are_not() {
    let Some(appliance) = appliance() else { return };
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = appliance.registry().rsplit(':').next().unwrap();
    let script = format!(
        "busybox wget -qO- http://localhost:{port}/v2/_catalog; echo; \
         busybox nc 127.0.0.1 {} </dev/null 2>&1 || echo refused",
        other.local_addr().unwrap().port()
    );
    let run = ["sandbox", "run", "--rm", "busybox:1", "sh", "-c", &script];
    let said = appliance.run(&run).ok();
    let findings = appliance.run(&["doctor", "--output", "json"]).json();
    let mut findings = findings.as_array().unwrap().iter();
    let networks = findings.find(|finding| finding["what"] == "private networks");
    assert_eq!(networks.unwrap()["state"], "ok");
    let first = said.stdout.lines().next().unwrap();
    let catalog: Value = serde_json::from_str(first).unwrap();
    assert_eq!(catalog["repositories"][0], "busybox");
    assert!(said.stdout.ends_with("refused\n"), "{said}");
}

#[test]
fn sandboxes_do_not_meet_and_host_loopback_is_by_request() {
    let Some(appliance) = appliance() else { return };
    serve(&appliance, "one", &["-p", "8080"]);
    let at = host_port(&appliance, "one");
    let port = at.rsplit(':').next().unwrap();
    eventually("the service answers", Duration::from_secs(20), || {
        ask(&at) == "5\n"
    });
    let reach = |options: &[&str], to: &str| {
        let script = format!("echo hello | busybox nc {to} 2>&1 || echo refused");
        let run = ["sandbox", "run", "--rm"];
        let what = ["busybox:1", "sh", "-c", &script];
        appliance
            .run(&[&run[..], options, &what].concat())
            .ok()
            .stdout
    };
    for to in [
        "10.0.2.100 8080",
        &format!("10.0.2.2 {port}"),
        &format!("127.0.0.1 {port}"),
    ] {
        assert!(reach(&[], to).ends_with("refused\n"), "{to}");
    }
    let to = format!("host.devpod.internal {port}");
    assert_eq!(reach(&["--host-loopback"], &to), "6\n");
    let publish = ["--network", "host", "-p", "80"];
    let run = [
        &["sandbox", "run", "--rm"][..],
        &publish,
        &["busybox:1", "true"],
    ]
    .concat();
    appliance.run(&run).failed(2).says("private network");
}

#[test]
fn a_build_can_have_a_private_network() {
    let Some(appliance) = appliance() else { return };
    let folder = Folder::new();
    let port = appliance.registry().rsplit(':').next().unwrap();
    let run = format!(
        "FROM busybox:1\nRUN busybox ip -o addr > /addresses && busybox wget -qO /catalog http://localhost:{port}/v2/_catalog\n"
    );
    folder.write("Dockerfile", &run);
    let context = folder.path().display().to_string();
    appliance
        .run(&["build", "--network", "private", "-t", "made:1", &context])
        .ok();
    let said = appliance
        .run(&[
            "sandbox",
            "run",
            "--rm",
            "made:1",
            "cat",
            "/addresses",
            "/catalog",
        ])
        .ok();
    assert!(
        said.stdout.contains("10.0.2.100/32") && said.stdout.contains("busybox"),
        "{said}"
    );
}

/// Says the first line of the registry's answer, at a name that leads to it. The pipe stays open: an
/// end of what is asked would end the answer, too.
fn changing(port: &str) -> String {
    format!(
        "busybox mkfifo /pipe; exec 3<>/pipe; \
         ask() {{ printf \"$1 $2 HTTP/1.1\\r\\nhost: localhost:{port}\\r\\ncontent-length: 0\\r\\n\
         connection: close\\r\\n\\r\\n\" >&3; busybox nc $where {port} </pipe 2>&1 | busybox head -n 1; }}; \
         ask GET /v2/_catalog; ask POST /v2/made/blobs/uploads/; ask DELETE /v2/busybox/manifests/1; \
         ask DELETE /api/v1/repositories/busybox"
    )
}

#[test]
fn what_a_sandbox_may_do_in_the_registry_is_set() {
    let Some(mut appliance) = appliance() else {
        return;
    };
    let answers = |appliance: &TestAppliance, options: &[&str], at: &str| {
        let port = appliance.registry().rsplit(':').next().unwrap();
        let script = format!("where={at}; {}", changing(port));
        let what = ["busybox:1", "sh", "-c", &script];
        let run = [&["sandbox", "run", "--rm"][..], options, &what].concat();
        let said = appliance.run(&run).ok().stdout;
        let status = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
        said.lines().map(status).collect::<Vec<_>>()
    };
    let reading = ["200", "403", "403", "403"];
    assert_eq!(answers(&appliance, &[], "localhost"), reading);
    // The host's loopback has no second door to it.
    let by_host = answers(&appliance, &["--host-loopback"], "host.devpod.internal");
    assert_eq!(by_host, reading);
    for (value, expected) in [("none", None), ("write", Some("202"))] {
        appliance
            .run(&["config", "set", "sandbox.registry", value])
            .ok();
        appliance = TestAppliance::start_at(appliance.stop());
        let found = answers(&appliance, &[], "localhost");
        match expected {
            Some(status) => assert_eq!(found[..3], ["200", status, status]),
            None => assert!(found.iter().all(|status| status != "200"), "{found:?}"),
        }
    }
    let wrong = appliance.run(&["config", "set", "sandbox.registry", "push"]);
    wrong.failed(2).says("none, read or write");
}
