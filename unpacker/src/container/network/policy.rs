//! Where a connection or datagram from inside may go, and where that is outside. Pure.
//!
//! The host's loopback is out of reach, and so are addresses that mean this host or this link: on
//! a cloud's machine the link has a service that gives out the machine's credentials. What is at
//! the loopback of the host and asked for by name ([`Visible`]) is the exception.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use config::range::Range;

use super::spec::Wiring;
use super::{DNS, GATEWAY, SUBNET, SUBNET_V6};

const DNS_PORT: u16 = 53;

/// What can never be meant from inside: no setting opens it.
const NEVER: &[Range] = &[
    Range::v4([0, 0, 0, 0], 8),
    Range::v4([127, 0, 0, 0], 8),
    Range::v4([224, 0, 0, 0], 3),
    Range::v6(Ipv6Addr::UNSPECIFIED, 128),
    Range::v6(Ipv6Addr::LOCALHOST, 128),
    Range::v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    SUBNET,
    SUBNET_V6,
];

/// Link-local addresses and the metadata services of clouds that are elsewhere.
const UNASKED: &[Range] = &[
    Range::v4([169, 254, 0, 0], 16),
    Range::v4([100, 100, 100, 200], 32),
    Range::v4([168, 63, 129, 16], 32),
    Range::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Range::v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    Range::v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32),
];

/// Where something that was sent to `wanted` is to go; `None` when it is refused. `resolvers` are
/// the host's name servers at this moment.
pub(super) fn way(
    wiring: &Wiring,
    wanted: SocketAddr,
    resolvers: impl FnOnce() -> Vec<IpAddr>,
) -> Option<SocketAddr> {
    let (address, port) = (wanted.ip().to_canonical(), wanted.port());
    if address.is_loopback() {
        let found = wiring.visible.iter().find(|visible| visible.port == port);
        return found.map(|visible| visible.host);
    }
    if let Some(index) = DNS.iter().position(|dns| *dns == address)
        && port == DNS_PORT
    {
        let resolver = resolvers().get(index).copied();
        return resolver.map(|address| SocketAddr::new(address, DNS_PORT));
    }
    if address == GATEWAY && wiring.host_loopback {
        return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    let any = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
    let refused = any(NEVER) || (!any(&wiring.allow) && (any(UNASKED) || any(&wiring.deny)));
    (!refused).then(|| SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::super::spec::Visible;
    use super::*;

    fn decide(wiring: &Wiring, wanted: &str) -> String {
        let resolvers = || vec!["127.0.0.53".parse().unwrap()];
        way(wiring, wanted.parse().unwrap(), resolvers)
            .map_or("refused".to_owned(), |to| to.to_string())
    }

    #[test]
    fn the_host_is_out_of_reach_and_the_world_is_not() {
        let plain = Wiring::default();
        for (wanted, way) in [
            ("203.0.113.1:443", "203.0.113.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:203.0.113.1]:443", "203.0.113.1:443"),
            ("10.0.2.3:53", "127.0.0.53:53"),
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
            ("[fe80::1]:80", "refused"),
            ("[fd00:ec2::254]:80", "refused"),
            ("224.0.0.1:80", "refused"),
            ("255.255.255.255:80", "refused"),
        ] {
            assert_eq!(decide(&plain, wanted), way, "{wanted}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let wiring = Wiring {
            visible: vec![Visible {
                port: 5000,
                host: "127.0.0.1:40000".parse().unwrap(),
            }],
            host_loopback: true,
            allow: vec![
                "10.1.0.0/16".parse().unwrap(),
                "169.254.169.254".parse().unwrap(),
            ],
            deny: vec!["10.0.0.0/8".parse().unwrap()],
            ..Wiring::default()
        };
        for (wanted, way) in [
            ("127.0.0.1:5000", "127.0.0.1:40000"),
            ("[::1]:5000", "127.0.0.1:40000"),
            ("127.0.0.1:5001", "refused"),
            ("10.0.2.2:8080", "127.0.0.1:8080"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("10.2.2.3:80", "refused"),
            ("169.254.169.254:80", "169.254.169.254:80"),
        ] {
            assert_eq!(decide(&wiring, wanted), way, "{wanted}");
        }
    }
}
