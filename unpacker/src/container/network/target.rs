//! Where a connection can lead to, and who seems to make it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::inside::Inside;
use super::policy::Way;
use super::spec::Wiring;
use super::{ADDRESS_V6, GATEWAY, GATEWAY_V6, sockets};

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
pub(super) fn container_targets(client: SocketAddr, wiring: &Wiring, port: u16) -> Vec<Target> {
    let own = wiring.address();
    if wiring.bridge.address.is_some() {
        // There, answers to strangers would leave by the device.
        return [
            (GATEWAY, IpAddr::from(own)),
            (GATEWAY, Ipv4Addr::LOCALHOST.into()),
            (GATEWAY_V6.into(), Ipv6Addr::LOCALHOST.into()),
        ]
        .map(|(from, to)| Target::Container {
            from,
            to: SocketAddr::new(to, port),
        })
        .into();
    }
    let client = client.ip().to_canonical();
    let stranger = |own: IpAddr, gateway: IpAddr| {
        let usable = client.is_ipv4() == own.is_ipv4()
            && !client.is_loopback()
            && client != own
            && !client.is_unspecified();
        if usable { client } else { gateway }
    };
    let from = stranger(own.into(), GATEWAY);
    let from_v6 = stranger(ADDRESS_V6.into(), GATEWAY_V6.into());
    [
        (from, IpAddr::from(own)),
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
pub(super) fn container_questions(client: SocketAddr, wiring: &Wiring, port: u16) -> Vec<Question> {
    let targets = container_targets(client, wiring, port).into_iter();
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
    fn on_a_bridge_everybody_seems_to_be_the_gateway() {
        let mut wiring = Wiring::default();
        wiring.bridge.address = Some(Ipv4Addr::new(10, 9, 8, 2));
        let questions = container_questions("192.0.2.7:40000".parse().unwrap(), &wiring, 53);
        let shown: Vec<_> = (questions.iter())
            .map(|question| format!("{} {}", question.from.ip(), question.to))
            .collect();
        let expected = [
            "10.0.2.2 10.9.8.2:53",
            "10.0.2.2 127.0.0.1:53",
            "fd64:6576:706f:64::2 [::1]:53",
        ];
        assert_eq!(shown, expected);
    }

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
            let wiring = Wiring::default();
            let targets = container_targets(client.parse().unwrap(), &wiring, 80);
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
