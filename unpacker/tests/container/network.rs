//! Private networks: what is reached from inside and from outside, and what is not.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use unpacker::container::launch::{Launcher, Stage};
use unpacker::container::network::spec::{Protocol, Publish, Visible};
use unpacker::container::run::RunError;
use unpacker::container::spec::{ContainerSpec, Mount, Network};
use unpacker::container::supervise::{SuperviseError, ports, start};
use unpacker::progress::Cancel;

use crate::fixture::{Room, good, run_for};
use crate::sandbox::Sandbox;

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 11] = [
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
        ("network: published", published),
        ("network: published datagrams", published_datagrams),
        ("network: taken port", taken),
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

fn private(room: &Room, script: &str) -> ContainerSpec {
    let mut spec = room.spec(script);
    spec.network = Network::Private;
    spec.init = true;
    spec
}

/// A server that answers each connection, in a thread of its own, until the test ends.
fn serve(at: IpAddr, answer: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
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
fn count(mut stream: TcpStream) {
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
    }];
    let said = good(&spec);
    assert!(
        said.starts_with("registry\nregistry\n") && said.contains("refused"),
        "{said}"
    );
}

fn own_port_wins() {
    let server = serve(Ipv4Addr::LOCALHOST.into(), |mut stream| {
        let _ = stream.write_all(b"host\n");
    });
    let room = Room::new();
    let mut spec = private(
        &room,
        "echo own | busybox nc -l -p 5000 & until busybox netstat -ltn | busybox grep -q :5000; \
         do busybox usleep 10000; done; busybox nc 127.0.0.1 5000 </dev/null; \
         busybox nc 127.0.0.1 5000 </dev/null",
    );
    spec.wiring.visible = vec![Visible {
        port: 5000,
        host: server,
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

/// Listens anywhere and answers how much it got.
const COUNT: &str = "while true; do busybox nc -l -p 8080 -e busybox wc -c; done";

fn publish(protocol: Protocol, port: u16) -> Publish {
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
fn ask(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
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
    let [port] = ports(&sandbox.dir).unwrap()[..] else {
        panic!("one port was published");
    };
    assert_ne!(port.host.port(), 0);
    assert_eq!(ask(port.host, b"hello"), b"5\n");
    drop(sandbox);
    // It is free again as soon as the sandbox has ended.
    TcpListener::bind(port.host).unwrap();
}

/// The host's own perl, read-only: busybox has no server for datagrams.
fn with_perl(spec: &mut ContainerSpec) {
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

fn has_perl() -> bool {
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
    let [port] = ports(&sandbox.dir).unwrap()[..] else {
        panic!("one port was published");
    };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let begin = Instant::now();
    let mut answer = [0; 64];
    let length = loop {
        socket.send_to(b"a question\n", port.host).unwrap();
        match socket.recv_from(&mut answer) {
            Ok((length, from)) => {
                assert_eq!(from, port.host);
                break length;
            }
            Err(_) => assert!(begin.elapsed() < Duration::from_secs(20), "no answer"),
        }
    };
    assert_eq!(&answer[..length], b"got a question\n");
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
