//! Where a connection or datagram from inside may go, and where that is outside. Pure.
//!
//! The host's loopback is out of reach, and so are addresses that mean this host or this link: on
//! a cloud's machine the link has a service that gives out the machine's credentials. What is at
//! the loopback of the host and asked for by name ([`Visible`]) is the exception. A service that is
//! visible is asked in the same way by whatever address it is asked for: there is no second door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use config::range::Range;
use config::sandbox::Destination;

use super::embedded::embedded;
use super::host::Host;
use super::spec::{Admission, Protocol, Visible, Wiring};
use super::{DNS, GATEWAY, SUBNET, SUBNET_V6};

const DNS_PORT: u16 = 53;

/// What can never be meant from inside: no setting opens it.
pub(super) const NEVER: &[Range] = &[
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
pub(super) const UNASKED: &[Range] = &[
    Range::v4([169, 254, 0, 0], 16),
    Range::v4([100, 100, 100, 200], 32),
    Range::v4([168, 63, 129, 16], 32),
    Range::v4([192, 0, 0, 192], 32),
    Range::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Range::v6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32),
    Range::v6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0), 32),
];

/// Where something is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: SocketAddr,
    /// The address of the host that it is to come from; `None` for any.
    pub(super) from: Option<Ipv4Addr>,
}

/// Where something that was sent to `wanted` is to go; `None` when it is refused.
pub(super) fn way(
    wiring: &Wiring,
    protocol: Protocol,
    wanted: SocketAddr,
    host: &impl Host,
) -> Option<Way> {
    let (address, port) = (wanted.ip().to_canonical(), wanted.port());
    let visible = || wiring.visible.iter().filter(|_| protocol == Protocol::Tcp);
    if address.is_loopback() {
        let found = visible().find(|visible| visible.port == port);
        return found.and_then(|visible| admitted(wiring, visible, host));
    }
    if let Some(index) = DNS.iter().position(|dns| *dns == address)
        && port == DNS_PORT
    {
        let resolver = host.resolvers().get(index).copied();
        return resolver.map(|address| plain(SocketAddr::new(address, DNS_PORT)));
    }
    let to = if address == GATEWAY && wiring.host_loopback {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    } else if is_open(wiring, address, host) {
        SocketAddr::new(address, port)
    } else {
        return None;
    };
    match visible().find(|visible| listens_at(visible, to, host)) {
        Some(visible) => admitted(wiring, visible, host),
        None => Some(plain(to)),
    }
}

fn plain(to: SocketAddr) -> Way {
    Way { to, from: None }
}

/// Whether a connection to there would reach the service.
fn listens_at(visible: &Visible, to: SocketAddr, host: &impl Host) -> bool {
    let everywhere = visible.everywhere && visible.host.port() == to.port();
    visible.host == to || (everywhere && host.owns(to.ip()))
}

/// The way to a service of the host, if it may be asked. What denies its address denies it.
fn admitted(wiring: &Wiring, visible: &Visible, host: &impl Host) -> Option<Way> {
    let to = visible.host;
    if is_denied(wiring, to.ip().to_canonical(), host) {
        return None;
    }
    match visible.admission {
        Admission::Plain => Some(plain(to)),
        Admission::From(from) if to.is_ipv4() => Some(Way {
            to,
            from: Some(from),
        }),
        Admission::From(_) | Admission::Refused => None,
    }
}

/// Whether nothing stands against an address, nor against what it embeds.
fn is_open(wiring: &Wiring, address: IpAddr, host: &impl Host) -> bool {
    let passes = |address: IpAddr| {
        let never = NEVER.iter().any(|range| range.contains(address));
        !never && !is_denied(wiring, address, host)
    };
    passes(address) && embedded(address).into_iter().all(passes)
}

fn is_denied(wiring: &Wiring, address: IpAddr, host: &impl Host) -> bool {
    let within = |range: &Range| range.contains(address);
    let denies = |destination: &Destination| match destination {
        Destination::Range(range) => range.contains(address),
        Destination::Host => !address.is_loopback() && host.owns(address),
    };
    !wiring.allow.iter().any(within)
        && (UNASKED.iter().any(within) || wiring.deny.iter().any(denies))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
