//! The relay of a private network: what it leaves to whom, and who pays for it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use unpacker::container::network::spec::{Admission, Protocol, Visible};
use unpacker::container::spec::Network;
use unpacker::container::supervise::{State, ports, state};

use crate::fixture::{Room, good};
use crate::limits::{groups_of, has_groups};
use crate::network::{
    ask, ask_datagram, count, has_perl, last_words_of, private, publish, serve, with_perl,
};
use crate::sandbox::Sandbox;

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        ("relay: a service knows the container's address", admission),
        ("relay: a flood leaves others alone", flooded),
        (
            "relay: datagrams for the container's localhost",
            local_datagrams,
        ),
        ("relay: it counts as the container's", counted),
        ("relay: last words of a container with limits", last_words),
        ("relay: a limit of tasks is the container's", tasks),
    ];
    tests
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .into()
}

fn admission() {
    let server = serve(Ipv4Addr::LOCALHOST.into(), |mut stream| {
        let peer = stream.peer_addr().unwrap().ip();
        let _ = stream.write_all(format!("{peer}\n").as_bytes());
    });
    let room = Room::new();
    let script = "busybox nc localhost 5000 </dev/null 2>&1; true";
    let mut spec = private(&room, script);
    for (admission, answer) in [
        (Admission::Plain, "127.0.0.1\n"),
        (
            Admission::From(Ipv4Addr::new(127, 77, 9, 9)),
            "127.77.9.9\n",
        ),
    ] {
        spec.wiring.visible = vec![Visible {
            port: 5000,
            host: server,
            everywhere: false,
            admission,
        }];
        assert_eq!(good(&spec), answer);
    }
    spec.wiring.visible[0].admission = Admission::Refused;
    assert!(good(&spec).contains("refused"));
}

/// First argument of a test binary that plays a host whose container opens too many connections.
pub(crate) const FLOODED: &str = "--play-a-flooded-host";

/// In a network of its own with an address that never answers, and with few descriptors.
fn flooded() {
    if !has_perl() {
        return;
    }
    let script = "for what in 'link set lo up' 'addr add 198.51.100.1/32 dev lo' \
                  'route add 192.0.2.0/24 dev lo'; do /bin/busybox ip $what || exit 1; done; \
                  ulimit -n 400 && exec \"$1\" \"$2\"";
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(FLOODED)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The host of [`flooded`].
pub(crate) fn play_flooded_host() {
    // It has no way to anywhere by IPv6; the container's own localhost is found by it all the same.
    local_datagrams();
    let server = serve(Ipv4Addr::new(198, 51, 100, 1).into(), count);
    // Twice as many as there are places for, then two services: one answers by itself, the other
    // by what the world says.
    let flood = "use Socket; use Fcntl; for (1..200) { socket(my $s,PF_INET,SOCK_STREAM,0) or die; \
                 fcntl($s,F_SETFL,O_NONBLOCK); connect($s,sockaddr_in(80,inet_aton(\"192.0.2.9\"))); \
                 push @s,$s } system(\"sh /tmp/services\")";
    let script = format!(
        "echo 'while true; do busybox nc -l -p 8081 -e busybox timeout 3 busybox nc {} {}; done & \
         while true; do busybox nc -l -p 8080 -e busybox wc -c; done' >/tmp/services; \
         exec /usr/bin/perl -e '{flood}'",
        server.ip(),
        server.port()
    );
    let sandbox = Sandbox::start_with(&script, |spec| {
        spec.network = Network::Private;
        spec.wiring.publish = [8080, 8081].map(|port| publish(Protocol::Tcp, port)).into();
        with_perl(spec);
    });
    let ports = ports(&sandbox.dir).unwrap();
    for _ in 0..5 {
        assert_eq!(ask(ports[0].host, b"hello"), b"5\n");
    }
    // Who waits for no answer makes room, after a while.
    let begin = Instant::now();
    while !answers(ports[1].host) {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "no room was made"
        );
    }
}

fn answers(at: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(at) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut answer = String::new();
    let said = stream.write_all(b"hello").is_ok() && stream.shutdown(Shutdown::Write).is_ok();
    said && stream.read_to_string(&mut answer).is_ok() && answer == "got 5\n"
}

fn local_datagrams() {
    if !has_perl() {
        return;
    }
    for (family, address) in [
        ("PF_INET", "sockaddr_in(5353,INADDR_LOOPBACK)"),
        (
            "PF_INET6",
            "Socket::pack_sockaddr_in6(5353,Socket::IN6ADDR_LOOPBACK)",
        ),
    ] {
        let script = format!(
            "exec /usr/bin/perl -e 'use Socket; socket(S,{family},SOCK_DGRAM,0); bind(S,{address}) \
             or die; while (my $from=recv(S,my $b,999,0)) {{ send(S,\"got $b\",0,$from) }}'"
        );
        let sandbox = Sandbox::start_with(&script, |spec| {
            spec.network = Network::Private;
            spec.wiring.publish = vec![publish(Protocol::Udp, 5353)];
            with_perl(spec);
        });
        let port = ports(&sandbox.dir).unwrap()[0].host;
        assert_eq!(ask_datagram(port), "got a question\n", "{address}");
    }
}

/// A number of a process from its `status` file.
fn number(pid: i32, key: &str) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().parse().ok()
}

/// The relay of the container whose first process this is: both have the same parent.
fn relay_of(container: i32) -> i32 {
    let parent = number(container, "PPid:");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_relay = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "devpod-network\n" && number(*pid, "PPid:") == parent
    };
    pids.find(is_relay).unwrap()
}

fn counted() {
    let sandbox = Sandbox::start_with("exec sleep 1000", |spec| {
        spec.network = Network::Private;
        spec.resources.memory = Some(64 << 20);
    });
    let State::Running { pid } = state(&sandbox.dir).unwrap() else {
        panic!("it does not run");
    };
    let groups = groups_of(pid);
    assert_eq!(groups.is_empty(), !has_groups("memory"), "{groups:?}");
    assert_eq!(groups_of(relay_of(pid)), groups);
    drop(sandbox);
    for group in groups {
        assert!(!group.exists(), "{} stayed", group.display());
    }
}

/// Removing the groups ends what is in them, which the relay is not any more then.
fn last_words() {
    last_words_of(|spec| spec.resources.memory = Some(64 << 20));
}

fn tasks() {
    if !has_groups("pids") {
        return;
    }
    let room = Room::new();
    // The init, the shell and one more.
    let mut spec = private(&room, "busybox true; echo done");
    spec.resources.pids = Some(3);
    assert_eq!(good(&spec), "done\n");
}
