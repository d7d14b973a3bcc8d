//! The packet filter of a container's namespace: what is not for the container goes to our sockets.
//!
//! ```text
//! prerouting:  mark ours                                    accept   (connections that we make inside)
//!              to localhost:<visible>, somebody listens     accept   (the container's own wins)
//!              to localhost:<visible>                       goto out
//!              to localhost, to the container               accept
//!                                                           goto out
//! out:         SYN without our mark        log to us, drop           (held: see `hold`)
//!              tcp                         tproxy to our socket
//!              udp                         tproxy to our socket
//!              echo request                reject
//! ```

use std::io;
use std::net::IpAddr;

use rustix::net::netlink::NETFILTER;

use super::netlink::{Request, ask, attribute, open};
use super::rules::{
    ACCEPT, DROP, Expressions, GOTO, Hook, META_MARK, NETWORK, PREROUTING, REG_1, REG_2, TRANSPORT,
    batch, chain, differs, expression, first_packet, is, load, mask, masked, meta, octets, payload,
    port_is, reject, rule, table, transport, verdict,
};
use super::{ADDRESS, ADDRESS_V6, GATEWAY, GATEWAY_V6, OURS};

const TABLE: &str = "devpod";
const IN: &str = "prerouting";
const OUT: &str = "out";
/// Where our sockets listen, at the gateway's address.
pub(super) const PORT: u16 = 1;
/// The group in which held packets are told.
pub(super) const GROUP: u16 = 1;
/// On packets of connections that we make inside.
pub(super) const MARK_OURS: u32 = 0x6465_7601;
/// On first packets that were held and are let through.
pub(super) const MARK_LET: u32 = 0x6465_7602;

/// How much of a held packet we see: more than a SYN can have without data.
const SNAP: u32 = 256;

/// Mangle's, before which tproxy's documentation puts it.
const PRIORITY: i32 = -150;

/// What the kernel at hand is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    /// Connection attempts are held until their destination answered.
    pub(super) hold: bool,
    /// The container's own services come before what is visible of the host's.
    pub(super) yield_ports: bool,
    /// An echo request is refused, not swallowed.
    pub(super) reject: bool,
}

/// What leaves the container through our sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Everything,
    /// What is for addresses that the relay answers at; there is a device for the rest.
    Ours,
}

/// All of it first, then what older or smaller kernels have.
pub(super) const LADDER: [Features; 3] = [
    Features {
        hold: true,
        yield_ports: true,
        reject: true,
    },
    Features {
        hold: true,
        yield_ports: false,
        reject: false,
    },
    Features {
        hold: false,
        yield_ports: false,
        reject: false,
    },
];

/// Installs the rules of an address family; `visible` are ports of the host's at localhost.
pub(super) fn install(
    v6: bool,
    visible: &[u16],
    features: Features,
    scope: Scope,
) -> io::Result<()> {
    let family = Family::new(v6);
    let mut requests = vec![family.table(), family.base_chain(), family.chain()];
    for expressions in family.inward(visible, features, scope) {
        requests.push(family.rule(IN, &expressions));
    }
    for expressions in family.outward(features) {
        requests.push(family.rule(OUT, &expressions));
    }
    ask(&open(Some(NETFILTER))?, &batch(requests))
}

struct Family {
    /// AF_INET or AF_INET6, which are netfilter's numbers too.
    number: u8,
    own: IpAddr,
    gateway: IpAddr,
    /// Where the destination stands in the header.
    destination: u32,
    icmp: u8,
    echo_request: u8,
}

impl Family {
    fn new(v6: bool) -> Self {
        match v6 {
            false => Self {
                number: libc::AF_INET as u8,
                own: ADDRESS.into(),
                gateway: GATEWAY,
                destination: 16,
                icmp: 1,
                echo_request: 8,
            },
            true => Self {
                number: libc::AF_INET6 as u8,
                own: ADDRESS_V6.into(),
                gateway: GATEWAY_V6.into(),
                destination: 24,
                icmp: 58,
                echo_request: 128,
            },
        }
    }

    fn inward(&self, visible: &[u16], features: Features, scope: Scope) -> Vec<Expressions> {
        let mut rules = vec![
            [
                meta(META_MARK),
                vec![is(&MARK_OURS.to_ne_bytes()), verdict(ACCEPT, None)],
            ]
            .concat(),
        ];
        for port in visible {
            let to_it = [
                self.to_loopback(),
                transport(libc::IPPROTO_TCP as u8),
                port_is(*port),
            ]
            .concat();
            if features.yield_ports {
                rules.push([to_it.clone(), vec![has_socket(), verdict(ACCEPT, None)]].concat());
            }
            rules.push([to_it, vec![verdict(GOTO, Some(OUT))]].concat());
        }
        rules.push([self.to_loopback(), vec![verdict(ACCEPT, None)]].concat());
        rules.push([self.to(self.own), vec![verdict(ACCEPT, None)]].concat());
        match (scope, self.own) {
            (Scope::Everything, _) => rules.push(vec![verdict(GOTO, Some(OUT))]),
            (Scope::Ours, IpAddr::V4(_)) => {
                let to_ours = vec![
                    payload(NETWORK, self.destination, 4),
                    masked(&mask(OURS.parts().1)),
                    is(&octets(OURS.parts().0)),
                    verdict(GOTO, Some(OUT)),
                ];
                rules.push(to_ours);
            }
            // None of ours is asked by IPv6 but at localhost.
            (Scope::Ours, IpAddr::V6(_)) => {}
        }
        rules
    }

    fn outward(&self, features: Features) -> Vec<Expressions> {
        let mut rules = Vec::new();
        if features.hold {
            let held = [
                transport(libc::IPPROTO_TCP as u8),
                first_packet(),
                meta(META_MARK),
                vec![differs(&MARK_LET.to_ne_bytes()), log(), verdict(DROP, None)],
            ];
            rules.push(held.concat());
        }
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            let steps = vec![
                load(REG_1, &octets(self.gateway)),
                load(REG_2, &PORT.to_be_bytes()),
                self.tproxy(),
                verdict(ACCEPT, None),
            ];
            rules.push([transport(protocol as u8), steps].concat());
        }
        if features.reject {
            let echo = vec![
                payload(TRANSPORT, 0, 1),
                is(&[self.echo_request]),
                self.reject(),
            ];
            rules.push([transport(self.icmp), echo].concat());
        }
        rules
    }

    /// IPv4 has a whole network of loopback addresses.
    fn to_loopback(&self) -> Expressions {
        match self.own {
            IpAddr::V4(_) => vec![payload(NETWORK, self.destination, 1), is(&[127])],
            IpAddr::V6(_) => self.to(std::net::Ipv6Addr::LOCALHOST.into()),
        }
    }

    fn to(&self, address: IpAddr) -> Expressions {
        let bytes = octets(address);
        vec![
            payload(NETWORK, self.destination, bytes.len() as u32),
            is(&bytes),
        ]
    }

    fn tproxy(&self) -> Vec<u8> {
        let parts = [
            attribute(1, &u32::from(self.number).to_be_bytes()),
            attribute(2, &REG_1.to_be_bytes()),
            attribute(3, &REG_2.to_be_bytes()),
        ];
        expression("tproxy", &parts)
    }

    /// Administratively prohibited, as each family calls it.
    fn reject(&self) -> Vec<u8> {
        let code: u8 = if self.number == libc::AF_INET as u8 {
            13
        } else {
            1
        };
        reject(code)
    }

    fn table(&self) -> Request {
        table(self.number, TABLE)
    }

    fn base_chain(&self) -> Request {
        let hook = Hook {
            number: PREROUTING,
            priority: PRIORITY,
            kind: "filter",
        };
        chain(self.number, TABLE, IN, Some(hook))
    }

    fn chain(&self) -> Request {
        chain(self.number, TABLE, OUT, None)
    }

    fn rule(&self, chain: &str, expressions: &[Vec<u8>]) -> Request {
        rule(self.number, TABLE, chain, expressions)
    }
}

/// Ends the rule where nobody has a socket for the packet.
fn has_socket() -> Vec<u8> {
    let transparent = 0_u32;
    let parts = [
        attribute(1, &transparent.to_be_bytes()),
        attribute(2, &REG_1.to_be_bytes()),
    ];
    expression("socket", &parts)
}

/// Tells us at once, one packet a message.
fn log() -> Vec<u8> {
    let parts = [
        attribute(1, &GROUP.to_be_bytes()),
        attribute(3, &SNAP.to_be_bytes()),
        attribute(4, &1_u16.to_be_bytes()),
    ];
    expression("log", &parts)
}
