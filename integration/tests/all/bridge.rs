//! Sandboxes on a bridge, on hosts that are network namespaces of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::nets::{Net, tables};
use integration::process::eventually;
use integration::{base_image, probe};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// The host's address in the world, the world's, and one that both know as a cloud's metadata.
const HOST: &str = "192.0.2.1";
const WORLD: &str = "192.0.2.2";
const METADATA: &str = "169.254.169.254";
const WORLD_PORT: u16 = 7000;

const SERVE: &str = "while true; do busybox nc -l -p 8080 -e wc -c; done";

/// A host and a world beyond it, where every connection is told where it came from. The world knows
/// no way to the host's sandboxes.
fn host_and_world() -> Option<(Net, Net)> {
    if !probe::root() || !probe::programs(&["ip", "skopeo", "busybox"]) {
        return None;
    }
    let (host, world) = (Net::new(), Net::new());
    host.ip(&format!(
        "link add up0 type veth peer name up0 netns {}",
        world.name
    ));
    for (net, address) in [(&host, HOST), (&world, WORLD)] {
        net.ip(&format!("addr add {address}/24 dev up0"));
        net.ip("link set up0 up");
    }
    world.ip(&format!("addr add {METADATA}/32 dev lo"));
    host.ip(&format!("route add default via {WORLD}"));
    let listener = world.run(|| TcpListener::bind(("0.0.0.0", WORLD_PORT)).unwrap());
    // It ends with the test's process; the namespace stays as long as its socket.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string());
            let _ = writeln!(stream, "{}", peer.unwrap_or_default());
        }
    });
    Some((host, world))
}

/// One of the network that the calling thread stands in.
fn appliance() -> TestAppliance {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let from = folder.join("from");
    assert!(base_image::busybox(&from));
    appliance.load(&from, "busybox:1");
    appliance
}

fn run_on_bridge(appliance: &TestAppliance, options: &[&str], script: &str) -> String {
    let run = ["sandbox", "run", "--network", "bridge"];
    let what = ["busybox:1", "sh", "-c", script];
    let said = appliance.run(&[&run[..], options, &what].concat());
    said.ok().text().to_owned()
}

/// What a sandbox hears at an address, or `refused`.
fn hear(appliance: &TestAppliance, at: &str) -> String {
    let script = format!("busybox nc -w 3 {at} </dev/null 2>/dev/null || echo refused");
    run_on_bridge(appliance, &["--rm"], &script)
}

fn inspect(appliance: &TestAppliance, name: &str) -> Value {
    let shown = appliance.run(&["sandbox", "inspect", name]).ok().json();
    shown.get(0).cloned().unwrap_or(shown)
}

fn address(appliance: &TestAppliance, name: &str) -> String {
    let shown = inspect(appliance, name);
    shown["address"].as_str().expect("an address").to_owned()
}

/// What there is of bridges in the network that the calling thread stands in.
fn traces(host: &Net) -> Vec<String> {
    let links = host.ip("-o link");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    let mut found: Vec<_> = (names
        .filter(|name| name.starts_with("devpod-") || name.starts_with("dp")))
    .map(str::to_owned)
    .collect();
    let tables = tables().unwrap();
    if tables.windows(7).any(|window| window == b"devpod-") {
        found.push("a table".to_owned());
    }
    found
}

fn ask(at: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(at) {
        let _ = stream.write_all(b"hello");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_string(&mut answer);
    }
    answer.trim().to_owned()
}

#[test]
fn sandboxes_meet_and_the_world_sees_the_host() {
    let Some((host, world)) = host_and_world() else {
        return;
    };
    serve_names(&host, &world);
    host.run(|| {
        let appliance = appliance();
        run_on_bridge(&appliance, &["-d", "--name", "one", "-p", "8080"], SERVE);
        let one = address(&appliance, "one");
        let names = run_on_bridge(&appliance, &["--rm"], "cat /etc/hosts; busybox ip route");
        assert!(
            names.contains("default via") && !names.contains(&one),
            "{names}"
        );
        let published = appliance.run(&["sandbox", "port", "one", "8080"]).ok();
        eventually("its port answers", PATIENCE, || {
            ask(published.text()) == "5"
        });
        // Each other, by address.
        let script = format!("echo hello | busybox nc {one} 8080");
        assert_eq!(run_on_bridge(&appliance, &["--rm"], &script), "6");
        assert_eq!(ask(&format!("{one}:8080")), "5", "from the host");
        // The world has no way back but to the host.
        assert_eq!(hear(&appliance, &format!("{WORLD} {WORLD_PORT}")), HOST);
        let echo = format!("busybox ping -c 1 -w 5 {WORLD} >/dev/null && echo answered");
        assert_eq!(run_on_bridge(&appliance, &["--rm"], &echo), "answered");
        // The registry, by its door only.
        let port = appliance.registry().rsplit(':').next().unwrap();
        let catalog = format!("busybox wget -qO- http://localhost:{port}/v2/_catalog");
        assert!(run_on_bridge(&appliance, &["--rm"], &catalog).contains("busybox"));
        // Names, from where the host asks for them.
        assert!(run_on_bridge(&appliance, &["--rm"], NAME).contains(ANSWER));
        // A neighbour that knows the way does not get in.
        world.ip(&format!("route add {one}/32 via {HOST}"));
        let to: SocketAddr = format!("{one}:8080").parse().unwrap();
        let came = world.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));
        came.unwrap_err();
        appliance.run(&["sandbox", "rm", "--force", "one"]).ok();
        assert_eq!(traces(&host), Vec::<String>::new());
    });
}

const NAME: &str = "busybox nslookup anything.example";
const ANSWER: &str = "198.51.100.7";

/// Answers for the first name server of this machine, wherever that is.
fn serve_names(host: &Net, world: &Net) {
    let settings = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = settings
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let mut named = named.map(|text| text.trim().parse::<Ipv4Addr>());
    // What the C library asks when nobody is named.
    let server = named
        .next()
        .map_or(Ipv4Addr::LOCALHOST, |ip| ip.expect("a server of IPv4"));
    let near = if server.is_loopback() { host } else { world };
    if !server.is_loopback() {
        world.ip(&format!("addr add {server}/32 dev lo"));
    }
    let socket = near.run(|| UdpSocket::bind((server, 53)).unwrap());
    thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(&answer(&room[..length]), asker);
        }
    });
}

/// RFC 1035, 4.1: the question again, and for an IPv4 address the answer.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_v4 = question[end - 4..end] == [0, 1, 0, 1];
    let mut message = question[..2].to_vec();
    message.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    message.extend_from_slice(&question[12..end]);
    if is_v4 {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        message.extend(ANSWER.parse::<Ipv4Addr>().unwrap().octets());
    }
    message
}

#[test]
fn a_bridge_refuses_what_a_private_network_refuses() {
    let Some((host, _world)) = host_and_world() else {
        return;
    };
    host.run(|| {
        let appliance = appliance();
        run_on_bridge(&appliance, &["-d", "--name", "one"], SERVE);
        let one = address(&appliance, "one");
        let gateway = one.rsplit_once('.').unwrap().0.to_owned() + ".1";
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = writeln!(stream, "host");
            }
        });
        let metadata = format!("{METADATA}:{WORLD_PORT}");
        assert_eq!(ask(&metadata), HOST, "the host itself reaches it");
        for refused in [
            format!("{METADATA} {WORLD_PORT}"),
            format!("{gateway} {port}"),
            format!("127.0.0.1 {port}"),
            format!("10.0.2.2 {port}"),
        ] {
            assert_eq!(hear(&appliance, &refused), "refused", "{refused}");
        }
        // As from any other machine.
        assert_eq!(hear(&appliance, &format!("{HOST} {port}")), "host");
        // With a name it is asked for.
        let script = format!("busybox nc -w 3 host.devpod.internal {port} </dev/null");
        let heard = run_on_bridge(&appliance, &["--rm", "--host-loopback"], &script);
        assert_eq!(heard, "host");
        // Another data folder's bridge has other addresses, and no way between them.
        let other = self::appliance();
        run_on_bridge(&other, &["-d", "--name", "two"], SERVE);
        let two = address(&other, "two");
        assert_ne!(
            two.rsplit_once('.').unwrap().0,
            one.rsplit_once('.').unwrap().0
        );
        eventually("it serves", PATIENCE, || ask(&format!("{two}:8080")) == "5");
        assert_eq!(hear(&appliance, &format!("{two} 8080")), "refused");
        // Settings hold for all that is on it, from the next start on.
        let mut place = other.stop();
        place = configured(place, &format!("sandbox.deny={WORLD},host"));
        let other = TestAppliance::start_at(place);
        assert_eq!(hear(&other, &format!("{WORLD} {WORLD_PORT}")), "refused");
        assert_eq!(hear(&other, &format!("{HOST} {port}")), "refused");
        for (appliance, name) in [(&appliance, "one"), (&other, "two")] {
            appliance.run(&["sandbox", "rm", "--force", name]).ok();
        }
        assert_eq!(traces(&host), Vec::<String>::new());
    });
}

fn configured(place: Place, setting: &str) -> Place {
    let (name, value) = setting.split_once('=').unwrap();
    place.run(&["config", "set", name, value]).ok();
    place
}

#[test]
fn what_a_crash_leaves_is_taken_away_by_the_next_daemon() {
    let Some((host, _world)) = host_and_world() else {
        return;
    };
    host.run(|| {
        let appliance = appliance();
        run_on_bridge(&appliance, &["-d", "--name", "one"], SERVE);
        run_on_bridge(&appliance, &["-d", "--name", "two"], SERVE);
        let leases = appliance.place().data().join("bridge");
        assert_eq!(fs::read_dir(&leases).unwrap().count(), 3);
        // A daemon that ended is no reason to take the bridge away.
        let appliance = TestAppliance::start_at(appliance.kill());
        assert_eq!(traces(&host).len(), 4, "{:?}", traces(&host));
        let one = address(&appliance, "one");
        eventually("it serves", PATIENCE, || ask(&format!("{one}:8080")) == "5");
        let monitors = ["one", "two"].map(|name| monitor(&appliance, name));
        let place = appliance.kill();
        for monitor in monitors {
            kill_process(monitor, Signal::KILL).unwrap();
        }
        // The devices go with their namespaces; the bridge and its table are left.
        eventually("both ended", PATIENCE, || traces(&host).len() == 2);
        let appliance = TestAppliance::start_at(place);
        assert_eq!(traces(&host), Vec::<String>::new());
        assert_eq!(fs::read_dir(&leases).unwrap().count(), 0);
        // And what comes then is as the first was.
        assert_eq!(hear(&appliance, &format!("{WORLD} {WORLD_PORT}")), HOST);
    });
}

fn monitor(appliance: &TestAppliance, name: &str) -> Pid {
    let id = inspect(appliance, name)["id"].as_str().unwrap().to_owned();
    let file = appliance
        .place()
        .data()
        .join("sandboxes")
        .join(id)
        .join("monitor.json");
    let record: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let pid = record["monitor"]["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[test]
fn a_subnet_that_the_host_uses_and_users_without_root_are_refused() {
    let Some((host, _world)) = host_and_world() else {
        return;
    };
    host.run(|| {
        let from = Folder::new();
        assert!(base_image::busybox(&from.join("from")));
        let run = [
            "sandbox",
            "run",
            "--rm",
            "--network",
            "bridge",
            "busybox:1",
            "true",
        ];
        let place = configured(Place::new(), "sandbox.subnet=192.0.2.0/25");
        let appliance = TestAppliance::start_at(place);
        appliance.load(&from.join("from"), "busybox:1");
        appliance
            .run(&run)
            .failed(2)
            .says("sandbox.subnet")
            .says("--network private");
        assert_eq!(traces(&host), Vec::<String>::new());
        let place = configured(appliance.stop(), "sandbox.subnet=10.77.1.0/29");
        let appliance = TestAppliance::start_at(place);
        run_on_bridge(&appliance, &["-d", "--name", "one"], SERVE);
        assert_eq!(address(&appliance, "one"), "10.77.1.2");
        let appliance = TestAppliance::start_at(Place::of(Account::without_range()));
        appliance.load(&from.join("from"), "busybox:1");
        appliance.run(&run).failed(6).says("private network");
        let findings = appliance.run(&["doctor", "--output", "json"]).json();
        let mut findings = findings.as_array().unwrap().iter();
        let bridges = findings
            .find(|finding| finding["what"] == "bridges")
            .unwrap();
        assert_eq!(bridges["state"], "reduced", "{bridges}");
    });
    let appliance = TestAppliance::start();
    let findings = appliance.run(&["doctor", "--output", "json"]).json();
    let mut findings = findings.as_array().unwrap().iter();
    let bridges = findings
        .find(|finding| finding["what"] == "bridges")
        .unwrap();
    assert_eq!(bridges["state"], "ok", "{bridges}");
}
