//! Private networks: what is reached from inside and from outside, and what is not.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use unpacker::container::launch::{Launcher, Stage};
use unpacker::container::network::probe::{Found, Rung};
use unpacker::container::network::spec::{Admission, Protocol, Publish, Visible};
use unpacker::container::run::RunError;
use unpacker::container::spec::{ContainerSpec, Mount, Network, User};
use unpacker::container::supervise::{SuperviseError, ports, start};
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, run_for};
use crate::sandbox::Sandbox;

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 18] = [
        ("network: outward", outward),
        (
            "network: what is refused outside is refused inside",
            refused,
        ),
        ("network: the host is out of reach", isolated),
        ("network: the registry is at localhost", visible),
        ("network: the container's own port wins", own_port_wins),
        ("network: names", names),
        ("network: datagrams", datagrams),
        (
            "network: the host's servers are asked for names",
            servers_asked,
        ),
        ("network: published", published),
        ("network: published datagrams", published_datagrams),
        (
            "network: a service of the container's localhost",
            local_service,
        ),
        ("network: much both ways", much),
        ("network: the last words of a container", last_words),
        ("network: ports below 1024 without root", low_port),
        ("network: nothing stays", nothing_stays),
        ("network: taken port", taken),
        ("network: the probe makes one", probe),
        ("network: many connections", many),
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

/// An address of this host that is no loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|address| !address.is_loopback())
}

pub(crate) fn private(room: &Room, script: &str) -> ContainerSpec {
    let mut spec = room.spec(script);
    spec.network = Network::Private;
    spec.init = true;
    spec
}

/// A server that answers each connection, in a thread of its own, until the test ends.
pub(crate) fn serve(at: IpAddr, answer: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = std::sync::Arc::clone(&answer);
            thread::spawn(move || answer(stream));
        }
    });
    address
}

/// Reads until the other side has said all, then answers how much that was.
pub(crate) fn count(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let _ = stream.write_all(format!("got {}\n", bytes.len()).as_bytes());
}

fn outward() {
    let Some(own) = own_address() else {
        eprintln!("skipped: network: outward: this host has no address but loopback");
        return;
    };
    let server = serve(own, count);
    let room = Room::new();
    // The end of one direction is not the end of the other.
    let script = format!(
        "busybox head -c 5000000 /dev/zero | busybox nc {} {}",
        server.ip(),
        server.port()
    );
    assert_eq!(good(&private(&room, &script)), "got 5000000\n");
    assert_eq!(room.changes(), [""; 0]);
}

fn refused() {
    let Some(own) = own_address() else {
        return;
    };
    let free = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap();
    let room = Room::new();
    let script = format!("busybox nc {} {} 2>&1; echo $?", free.ip(), free.port());
    let said = good(&private(&room, &script));
    assert!(
        said.contains("Connection refused") && said.ends_with("1\n"),
        "{said}"
    );
}

fn isolated() {
    let server = serve(Ipv4Addr::LOCALHOST.into(), count);
    let abstract_socket = format!("dvp-test-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            &abstract_socket,
        );
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address.unwrap()).unwrap();
    let room = Room::new();
    let port = server.port();
    let script = format!(
        "for a in 127.0.0.1 127.0.0.2 10.0.2.2 10.0.2.3 0.0.0.0 169.254.169.254; do \
         busybox timeout 5 busybox nc $a {port} </dev/null 2>&1 | busybox grep -o refused; done; \
         busybox cat /proc/net/unix | busybox grep -c {abstract_socket}"
    );
    let mut spec = private(&room, &script);
    spec.process.args = ["sh", "-c", &format!("{script}; true")]
        .map(String::from)
        .to_vec();
    assert_eq!(good(&spec), format!("{}0\n", "refused\n".repeat(6)));
}

fn visible() {
    let server = serve(Ipv4Addr::LOCALHOST.into(), |mut stream| {
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nregistry\n");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let room = Room::new();
    let mut spec = private(
        &room,
        "busybox wget -qO- http://localhost:5000/v2/; busybox wget -qO- http://[::1]:5000/; \
         busybox nc 127.0.0.1 5001 2>&1; true",
    );
    spec.wiring.visible = vec![Visible {
        port: 5000,
        host: server,
        everywhere: false,
        admission: Admission::Plain,
    }];
    let said = good(&spec);
    assert!(
        said.starts_with("registry\nregistry\n") && said.contains("refused"),
        "{said}"
    );
}

/// The first client's input stays open for a while: a server that sees its end before it has read its own
/// words ends without a word.
fn own_port_wins() {
    let server = serve(Ipv4Addr::LOCALHOST.into(), |mut stream| {
        let _ = stream.write_all(b"host\n");
    });
    let room = Room::new();
    let mut spec = private(
        &room,
        "echo own | busybox nc -l -p 5000 & until busybox netstat -ltn | busybox grep -q :5000; \
         do busybox usleep 10000; done; sleep 1 | busybox nc 127.0.0.1 5000; \
         busybox nc 127.0.0.1 5000 </dev/null",
    );
    spec.wiring.visible = vec![Visible {
        port: 5000,
        host: server,
        everywhere: false,
        admission: Admission::Plain,
    }];
    assert_eq!(good(&spec), "own\nhost\n");
}

fn names() {
    let room = Room::new();
    let said = good(&private(
        &room,
        "cat /etc/resolv.conf /etc/hosts; hostname; busybox ip -o addr",
    ));
    assert!(said.starts_with("nameserver 10.0.2.3\n"), "{said}");
    assert!(said.contains("10.0.2.100 box\n"), "{said}");
    assert!(!said.contains("host.devpod.internal"), "{said}");
    assert!(said.contains("inet 10.0.2.100/32"), "{said}");
}

/// First argument of a test binary that plays a host with a name server of its own.
pub(crate) const NAMED: &str = "--play-a-host-with-a-name-server";

/// In a network and with a resolv.conf of its own, so that port 53 is free and asked.
fn servers_asked() {
    let folder = tempfile::tempdir().unwrap();
    let resolv = folder.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 127.0.0.1\nsearch lan.example\n").unwrap();
    let script = "/bin/busybox ip link set lo up && mount --bind \"$1\" /etc/resolv.conf && exec \"$2\" \"$3\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .arg(&resolv)
        .arg(std::env::current_exe().unwrap())
        .arg(NAMED)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The host of [`servers_asked`].
pub(crate) fn play_named_host() {
    let server = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut room) {
            let _ = server.send_to(&answer_to(&room[..length]), from);
        }
    });
    let streams = TcpListener::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || streams.incoming().flatten().for_each(count));
    let room = Room::new();
    let script = "busybox nslookup -type=a host.lan.example; busybox ping -c 1 -W 1 192.0.2.9 2>&1; \
                  echo hello | busybox nc 10.0.2.3 53; busybox nc 192.0.2.9 80 2>&1; cat /etc/resolv.conf";
    let said = good(&private(&room, script));
    assert!(said.contains("198.51.100.7"), "{said}");
    assert!(said.contains("100% packet loss"), "{said}");
    assert!(said.contains("got 6\n"), "{said}");
    // There is no way to it from this host, which is known at once.
    assert!(said.contains("Connection refused"), "{said}");
    assert!(
        said.ends_with("nameserver 10.0.2.3\nsearch lan.example\n"),
        "{said}"
    );
}

/// One address for every name (RFC 1035, 4.1).
fn answer_to(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[6..8].copy_from_slice(&[0, 1]);
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    answer
}

/// Listens anywhere and answers how much it got.
const COUNT: &str = "while true; do busybox nc -l -p 8080 -e busybox wc -c; done";

pub(crate) fn publish(protocol: Protocol, port: u16) -> Publish {
    Publish {
        host: (Ipv4Addr::LOCALHOST, 0).into(),
        port,
        protocol,
    }
}

fn sandbox(script: &str, publish: Vec<Publish>) -> Sandbox {
    Sandbox::start_with(script, |spec| {
        spec.network = Network::Private;
        spec.wiring.publish = publish;
    })
}

/// Asks until somebody listens inside.
pub(crate) fn ask(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let begin = Instant::now();
    loop {
        match try_ask(at, bytes) {
            Ok(answer) if !answer.is_empty() => return answer,
            other => assert!(begin.elapsed() < Duration::from_secs(20), "{other:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn try_ask(at: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut writer = stream.try_clone()?;
    let bytes = bytes.to_vec();
    let writing = thread::spawn(move || {
        let written = writer.write_all(&bytes);
        let _ = writer.shutdown(Shutdown::Write);
        written
    });
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    writing.join().unwrap()?;
    read.map(|_| answer)
}

fn published() {
    let sandbox = sandbox(COUNT, vec![publish(Protocol::Tcp, 8080)]);
    let port = port_of(&sandbox);
    assert_ne!(port.port(), 0);
    assert_eq!(ask(port, b"hello"), b"5\n");
    drop(sandbox);
    // It is free again as soon as the sandbox has ended.
    TcpListener::bind(port).unwrap();
}

/// The host's own perl, read-only: busybox has no server for datagrams.
pub(crate) fn with_perl(spec: &mut ContainerSpec) {
    for folder in ["/usr", "/lib", "/lib64"] {
        if Path::new(folder).exists() {
            spec.mounts.push(Mount::Bind {
                source: folder.into(),
                target: folder.into(),
                read_only: true,
            });
        }
    }
}

pub(crate) fn has_perl() -> bool {
    let there = Path::new("/usr/bin/perl").exists();
    if !there {
        eprintln!("skipped: perl is not installed");
    }
    there
}

fn datagrams() {
    let Some(own) = own_address().filter(|_| has_perl()) else {
        return;
    };
    let server = UdpSocket::bind((own, 0)).unwrap();
    let at = server.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 100];
        while let Ok((length, from)) = server.recv_from(&mut room) {
            let _ = server.send_to(&room[..length], from);
        }
    });
    let room = Room::new();
    let script = format!(
        "use Socket; alarm 20; socket(S,PF_INET,SOCK_DGRAM,0); my $to=sockaddr_in({},inet_aton('{}')); \
         for (1..3) {{ send(S,\"question $_\\n\",0,$to); my $from=recv(S,my $b,99,0); \
         print $b if $from eq $to }}",
        at.port(),
        at.ip()
    );
    let mut spec = private(&room, "");
    with_perl(&mut spec);
    spec.process.args = ["/usr/bin/perl", "-e", &script].map(String::from).to_vec();
    assert_eq!(good(&spec), "question 1\nquestion 2\nquestion 3\n");
}

fn published_datagrams() {
    if !has_perl() {
        return;
    }
    let script = "exec /usr/bin/perl -e 'use Socket; socket(S,PF_INET,SOCK_DGRAM,0); \
                  bind(S,sockaddr_in(5353,INADDR_ANY)); \
                  while (my $from=recv(S,my $b,999,0)) { send(S,\"got $b\",0,$from) }'";
    let sandbox = Sandbox::start_with(script, |spec| {
        spec.network = Network::Private;
        spec.wiring.publish = vec![publish(Protocol::Udp, 5353)];
        with_perl(spec);
    });
    assert_eq!(ask_datagram(port_of(&sandbox)), "got a question\n");
}

/// Asks until somebody answers.
pub(crate) fn ask_datagram(port: SocketAddr) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let begin = Instant::now();
    let mut answer = [0; 64];
    let length = loop {
        socket.send_to(b"a question\n", port).unwrap();
        match socket.recv_from(&mut answer) {
            Ok((length, from)) => {
                assert_eq!(from, port);
                break length;
            }
            Err(_) => assert!(begin.elapsed() < Duration::from_secs(20), "no answer"),
        }
    };
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let room = Room::new();
    let mut spec = private(&room, "true");
    spec.wiring.publish = vec![Publish {
        host: taken.local_addr().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
    }];
    let (result, _) = run_for(&spec, None, &Cancel::default());
    let Err(RunError::Refused(refusal)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(refusal.stage, Stage::Port);
    assert!(
        refusal.text.contains("taken by another program"),
        "{refusal}"
    );
    let dir = room.path("sandbox");
    std::fs::create_dir(&dir).unwrap();
    let error = start(&Launcher::this(), &dir, &spec).unwrap_err();
    assert!(matches!(error, SuperviseError::Refused(refusal) if refusal.stage == Stage::Port));
}

fn many() {
    let Some(own) = own_address() else {
        return;
    };
    let server = serve(own, count);
    let room = Room::new();
    let script = format!(
        "i=0; while [ $i -lt 200 ]; do (echo hello | busybox nc {} {}) & i=$((i+1)); done; wait",
        server.ip(),
        server.port()
    );
    assert_eq!(good(&private(&room, &script)), "got 6\n".repeat(200));
}

/// The one port of a sandbox.
fn port_of(sandbox: &Sandbox) -> SocketAddr {
    match ports(&sandbox.dir).unwrap()[..] {
        [port] => port.host,
        _ => panic!("one port was published"),
    }
}

/// What listens on the container's localhost only is found, and sees nobody from there.
fn local_service() {
    if !has_perl() {
        return;
    }
    let script = "exec /usr/bin/perl -e 'use Socket; socket(L,PF_INET,SOCK_STREAM,0); \
                  bind(L,sockaddr_in(8080,INADDR_LOOPBACK)); listen(L,5); \
                  while (my $from=accept(C,L)) { my ($port,$address)=sockaddr_in($from); \
                  syswrite C, inet_ntoa($address); close C }'";
    let sandbox = Sandbox::start_with(script, |spec| {
        spec.network = Network::Private;
        spec.wiring.publish = vec![publish(Protocol::Tcp, 8080)];
        with_perl(spec);
    });
    assert_eq!(ask(port_of(&sandbox), b""), b"10.0.2.2");
}

/// What comes back is what went in, though nobody reads while writing.
fn much() {
    let echo = "while true; do busybox nc -l -p 8080 -e busybox cat; done";
    let sandbox = sandbox(echo, vec![publish(Protocol::Tcp, 8080)]);
    let bytes: Vec<u8> = (0_u32..25 << 20).flat_map(u32::to_le_bytes).collect();
    let back = ask(port_of(&sandbox), &bytes);
    assert_eq!(back.len(), bytes.len());
    assert!(back == bytes, "something else came back");
}

/// What a process said before it ended arrives, although its whole container is gone.
fn last_words() {
    last_words_of(|_| {});
}

pub(crate) fn last_words_of(change: impl FnOnce(&mut ContainerSpec)) {
    let script = "busybox nc -l -p 8080 -e busybox head -c 3000000 /dev/zero";
    let sandbox = Sandbox::start_with(script, |spec| {
        spec.network = Network::Private;
        spec.wiring.publish = vec![publish(Protocol::Tcp, 8080)];
        change(spec);
    });
    let at = port_of(&sandbox);
    let begin = Instant::now();
    let mut stream = loop {
        let mut stream = TcpStream::connect(at).unwrap();
        let mut first = [0];
        if stream.read(&mut first).is_ok_and(|length| length == 1) {
            break stream;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "nobody listens");
        thread::sleep(Duration::from_millis(20));
    };
    thread::sleep(Duration::from_millis(300));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 2_999_999);
    drop(stream);
}

fn low_port() {
    let sandbox = Sandbox::start_with(
        "while true; do busybox nc -l -p 80 -e busybox id -u; done",
        |spec| {
            spec.network = Network::Private;
            spec.wiring.publish = vec![publish(Protocol::Tcp, 80)];
            spec.process.user = User {
                uid: 1000,
                gid: 1000,
                groups: Vec::new(),
            };
        },
    );
    assert_eq!(ask(port_of(&sandbox), b""), b"1000\n");
}

fn probe() {
    assert_eq!(Found::look(&Launcher::this()).unwrap().private, Rung::Whole);
}

fn nothing_stays() {
    let room = Room::new();
    let spec = private(&room, "true");
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..20 {
        good(&spec);
    }
    // Other tests run meanwhile and have descriptors of their own.
    assert!(descriptors() < before + 60, "{} of {before}", descriptors());
    let names: Vec<_> = std::fs::read_dir(room.path("work"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names, ["overlay"]);
}
