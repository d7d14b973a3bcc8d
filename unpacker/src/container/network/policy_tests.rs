//! The decisions as tables: what is asked for inside, and where it goes.

use super::*;

/// Has one address beside its loopback, and one name server.
struct Somewhere;

impl Host for Somewhere {
    fn resolvers(&self) -> Vec<IpAddr> {
        vec![[127, 0, 0, 53].into()]
    }

    fn owns(&self, address: IpAddr) -> bool {
        address.is_loopback() || address == IpAddr::from([198, 51, 100, 7])
    }
}

fn decide(wiring: &Wiring, wanted: &str) -> String {
    let (protocol, wanted) = match wanted.strip_prefix("udp ") {
        Some(wanted) => (Protocol::Udp, wanted),
        None => (Protocol::Tcp, wanted),
    };
    match way(wiring, protocol, wanted.parse().unwrap(), &Somewhere) {
        None => "refused".to_owned(),
        Some(Way { to, from: None }) => to.to_string(),
        Some(Way {
            to,
            from: Some(from),
        }) => format!("{to} from {from}"),
    }
}

fn check(wiring: &Wiring, rows: &[(&str, &str)]) {
    for (wanted, way) in rows {
        assert_eq!(decide(wiring, wanted), *way, "{wanted}");
    }
}

fn registry(host: &str, everywhere: bool, admission: Admission) -> Visible {
    Visible {
        port: 5000,
        host: host.parse().unwrap(),
        everywhere,
        admission,
    }
}

fn denying(deny: &[&str], allow: &[&str]) -> Wiring {
    Wiring {
        visible: vec![registry("127.0.0.1:5000", false, Admission::Plain)],
        deny: deny.iter().map(|text| text.parse().unwrap()).collect(),
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        ..Wiring::default()
    }
}

#[test]
fn the_host_is_out_of_reach_and_the_world_is_not() {
    check(
        &Wiring::default(),
        &[
            ("203.0.113.1:443", "203.0.113.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:203.0.113.1]:443", "203.0.113.1:443"),
            ("198.51.100.7:80", "198.51.100.7:80"),
            ("10.0.2.3:53", "127.0.0.53:53"),
            ("udp 10.0.2.3:53", "127.0.0.53:53"),
            ("10.0.2.4:53", "refused"),
            ("10.0.2.3:80", "refused"),
            ("10.0.2.2:80", "refused"),
            ("127.0.0.1:5000", "refused"),
            ("127.8.8.8:80", "refused"),
            ("[::ffff:127.0.0.1]:80", "refused"),
            ("[::1]:80", "refused"),
            ("0.0.0.0:80", "refused"),
            ("[::]:80", "refused"),
            ("169.254.169.254:80", "refused"),
            ("192.0.0.192:80", "refused"),
            ("[fe80::1]:80", "refused"),
            ("[fd00:ec2::254]:80", "refused"),
            ("224.0.0.1:80", "refused"),
            ("255.255.255.255:80", "refused"),
        ],
    );
}

#[test]
fn what_is_asked_for() {
    let wiring = Wiring {
        visible: vec![Visible {
            port: 5000,
            host: "127.0.0.1:40000".parse().unwrap(),
            everywhere: false,
            admission: Admission::Plain,
        }],
        host_loopback: true,
        ..denying(&["10.0.0.0/8"], &["10.1.0.0/16", "169.254.169.254"])
    };
    check(
        &wiring,
        &[
            ("127.0.0.1:5000", "127.0.0.1:40000"),
            ("[::1]:5000", "127.0.0.1:40000"),
            ("udp 127.0.0.1:5000", "refused"),
            ("127.0.0.1:5001", "refused"),
            ("10.0.2.2:8080", "127.0.0.1:8080"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("10.2.2.3:80", "refused"),
            ("169.254.169.254:80", "169.254.169.254:80"),
        ],
    );
}

#[test]
fn what_is_embedded_is_judged_too() {
    let wiring = denying(&["10.0.0.0/8"], &["10.1.0.0/16"]);
    check(
        &wiring,
        &[
            ("[64:ff9b::203.0.113.1]:80", "[64:ff9b::cb00:7101]:80"),
            ("[64:ff9b::169.254.169.254]:80", "refused"),
            ("[64:ff9b::192.0.0.192]:80", "refused"),
            ("[64:ff9b::127.0.0.1]:80", "refused"),
            ("[64:ff9b::10.2.3.4]:80", "refused"),
            ("[64:ff9b::10.1.3.4]:80", "[64:ff9b::a01:304]:80"),
            ("[64:ff9b:1::169.254.169.254]:80", "refused"),
            ("[64:ff9b:1:a9fe:a9:fe00::]:80", "refused"),
            ("[2002:a9fe:a9fe::1]:80", "refused"),
            ("[2002:cb00:7101::1]:80", "[2002:cb00:7101::1]:80"),
            // 169.254.169.254 with every bit turned over.
            ("[2001:0:cb00:7101::5601:5601]:80", "refused"),
        ],
    );
    let host = denying(&["host"], &[]);
    check(&host, &[("[64:ff9b::198.51.100.7]:80", "refused")]);
}

#[test]
fn the_host_s_own_addresses_can_be_denied() {
    let rows = |other| {
        [
            ("198.51.100.7:80", other),
            ("udp 198.51.100.7:80", other),
            ("198.51.100.8:80", "198.51.100.8:80"),
            // It is at the host's loopback.
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("10.0.2.3:53", "127.0.0.53:53"),
        ]
    };
    check(&denying(&["host"], &[]), &rows("refused"));
    let allowed = denying(&["host"], &["198.51.100.0/24"]);
    check(&allowed, &rows("198.51.100.7:80")[..1]);
}

#[test]
fn a_service_is_denied_with_its_address() {
    let everything = &["0.0.0.0/0", "::/0"];
    let at_localhost = [("127.0.0.1:5000", "refused"), ("[::1]:5000", "refused")];
    check(&denying(everything, &[]), &at_localhost);
    check(
        &denying(everything, &["127.0.0.1"]),
        &[
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("203.0.113.1:443", "refused"),
            ("10.0.2.3:53", "127.0.0.53:53"),
        ],
    );
    let elsewhere = Wiring {
        visible: vec![registry("198.51.100.7:5000", false, Admission::Plain)],
        ..denying(&["198.51.100.0/24"], &[])
    };
    check(&elsewhere, &at_localhost);
}

#[test]
fn a_service_has_one_door() {
    let known = Admission::From(Ipv4Addr::new(127, 77, 0, 1));
    let mut wiring = Wiring {
        visible: vec![registry("127.0.0.1:5000", true, known)],
        host_loopback: true,
        ..Wiring::default()
    };
    let door = "127.0.0.1:5000 from 127.77.0.1";
    check(
        &wiring,
        &[
            ("127.0.0.1:5000", door),
            ("[::1]:5000", door),
            ("10.0.2.2:5000", door),
            ("198.51.100.7:5000", door),
            ("198.51.100.7:5001", "198.51.100.7:5001"),
            ("198.51.100.8:5000", "198.51.100.8:5000"),
            ("udp 198.51.100.7:5000", "198.51.100.7:5000"),
        ],
    );
    wiring.visible = vec![registry("127.0.0.1:5000", true, Admission::Refused)];
    let refused = [
        ("127.0.0.1:5000", "refused"),
        ("10.0.2.2:5000", "refused"),
        ("198.51.100.7:5000", "refused"),
    ];
    check(&wiring, &refused);
    // One that listens at its loopback alone leaves the port elsewhere to others.
    wiring.visible = vec![registry("127.0.0.1:5000", false, known)];
    check(&wiring, &[("198.51.100.7:5000", "198.51.100.7:5000")]);
    // There is no second address of IPv6's loopback by which it could be told.
    wiring.visible = vec![registry("[::1]:5000", false, known)];
    check(&wiring, &[("127.0.0.1:5000", "refused")]);
}
