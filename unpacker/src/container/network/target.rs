//! Where a connection can lead to, and who seems to make it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::inside::Inside;
use super::policy::Way;
use super::{ADDRESS, ADDRESS_V6, GATEWAY, GATEWAY_V6, sockets};

/// Somewhere that a connection can lead to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    World(Way),
    /// A service of the container, and who asks.
    Container {
        from: IpAddr,
        to: SocketAddr,
    },
}

impl Target {
    /// Begins a connection.
    pub(super) fn connect(self, inside: &Inside) -> io::Result<OwnedFd> {
        match self {
            Self::World(Way { to, from }) => sockets::connect_to(to, from),
            Self::Container { from, to } => inside.run(move || sockets::connect_as(from, to)),
        }
    }
}

/// Where a service of the container may listen, and who seems to ask. Nobody from outside seems to
/// come from the container's own loopback: services trust what does.
pub(super) fn container_targets(client: SocketAddr, port: u16) -> Vec<Target> {
    let client = client.ip().to_canonical();
    let stranger = |own: IpAddr, gateway: IpAddr| {
        let usable = client.is_ipv4() == own.is_ipv4()
            && !client.is_loopback()
            && client != own
            && !client.is_unspecified();
        if usable { client } else { gateway }
    };
    let from = stranger(ADDRESS.into(), GATEWAY);
    let from_v6 = stranger(ADDRESS_V6.into(), GATEWAY_V6.into());
    [
        (from, IpAddr::from(ADDRESS)),
        (GATEWAY, Ipv4Addr::LOCALHOST.into()),
        (from_v6, ADDRESS_V6.into()),
        (GATEWAY_V6.into(), Ipv6Addr::LOCALHOST.into()),
    ]
    .map(|(from, to)| Target::Container {
        from,
        to: SocketAddr::new(to, port),
    })
    .into()
}

/// Somewhere that datagrams for a service of the container can be sent, and who seems to send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

impl Question {
    /// Makes the socket for it.
    pub(super) fn ask(self, inside: &Inside) -> io::Result<OwnedFd> {
        inside.run(move || sockets::questions_as(self.from, self.to))
    }
}

/// As [`container_targets`], for datagrams. The client's own port is kept if it can be.
pub(super) fn container_questions(client: SocketAddr, port: u16) -> Vec<Question> {
    let targets = container_targets(client, port).into_iter();
    targets
        .filter_map(|target| match target {
            Target::Container { from, to } => Some(Question {
                from: SocketAddr::new(from, client.port()),
                to,
            }),
            Target::World(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_from_outside_seems_to_come_from_inside() {
        for (client, from, from_v6) in [
            ("127.0.0.1:40000", "10.0.2.2", "fd64:6576:706f:64::2"),
            ("192.0.2.7:40000", "192.0.2.7", "fd64:6576:706f:64::2"),
            (
                "[::ffff:192.0.2.7]:40000",
                "192.0.2.7",
                "fd64:6576:706f:64::2",
            ),
            ("10.0.2.100:40000", "10.0.2.2", "fd64:6576:706f:64::2"),
            ("[2001:db8::7]:40000", "10.0.2.2", "2001:db8::7"),
            ("[::1]:40000", "10.0.2.2", "fd64:6576:706f:64::2"),
        ] {
            let targets = container_targets(client.parse().unwrap(), 80);
            let shown: Vec<_> = (targets.iter())
                .map(|target| match target {
                    Target::World(way) => way.to.to_string(),
                    Target::Container { from, to } => format!("{from} {to}"),
                })
                .collect();
            let expected = [
                format!("{from} 10.0.2.100:80"),
                "10.0.2.2 127.0.0.1:80".to_owned(),
                format!("{from_v6} [fd64:6576:706f:64::100]:80"),
                "fd64:6576:706f:64::2 [::1]:80".to_owned(),
            ];
            assert_eq!(shown, expected, "{client}");
        }
    }
}
