//! The relay of a private network: what it leaves to whom.

use std::io::Write;
use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use unpacker::container::network::spec::{Admission, Visible};

use crate::fixture::{Room, good};
use crate::network::{private, serve};

pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 1] = [(
        "relay: a service knows the container's address",
        admission,
    )];
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
