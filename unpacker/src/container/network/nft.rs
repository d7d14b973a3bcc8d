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

use super::netlink::{NLM_F_APPEND, NLM_F_CREATE, Request, ask, attribute, nested, open, text};
use super::{ADDRESS, ADDRESS_V6, GATEWAY, GATEWAY_V6};

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

// <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>.
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const META_MARK: u32 = 3;
const META_L4PROTO: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;
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
pub(super) fn install(v6: bool, visible: &[u16], features: Features) -> io::Result<()> {
    let family = Family::new(v6);
    let mut requests = vec![
        family.batch(BATCH_BEGIN),
        family.table(),
        family.base_chain(),
        family.chain(),
    ];
    for expressions in family.inward(visible, features) {
        requests.push(family.rule(IN, &expressions));
    }
    for expressions in family.outward(features) {
        requests.push(family.rule(OUT, &expressions));
    }
    requests.push(family.batch(BATCH_END));
    ask(&open(Some(NETFILTER))?, &requests)
}

type Expressions = Vec<Vec<u8>>;

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

    fn inward(&self, visible: &[u16], features: Features) -> Vec<Expressions> {
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
        rules.push(vec![verdict(GOTO, Some(OUT))]);
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
        expression(
            "reject",
            &[attribute(1, &0_u32.to_be_bytes()), attribute(2, &[code])],
        )
    }

    fn batch(&self, kind: u16) -> Request {
        // The batch is for the subsystem whose number stands where others have a resource.
        let header = vec![0, 0, 0, (SUBSYSTEM >> 8) as u8];
        Request {
            acknowledged: false,
            ..Request::new(kind, 0, &[header])
        }
    }

    fn table(&self) -> Request {
        Request::new(NEW_TABLE, NLM_F_CREATE, &[self.header(), text(1, TABLE)])
    }

    fn base_chain(&self) -> Request {
        let prerouting = 0_u32;
        let hook = [
            attribute(1, &prerouting.to_be_bytes()),
            attribute(2, &PRIORITY.to_be_bytes()),
        ];
        let parts = [
            self.header(),
            text(1, TABLE),
            text(3, IN),
            nested(4, &hook),
            text(7, "filter"),
        ];
        Request::new(NEW_CHAIN, NLM_F_CREATE, &parts)
    }

    fn chain(&self) -> Request {
        Request::new(
            NEW_CHAIN,
            NLM_F_CREATE,
            &[self.header(), text(1, TABLE), text(3, OUT)],
        )
    }

    fn rule(&self, chain: &str, expressions: &[Vec<u8>]) -> Request {
        let parts = [
            self.header(),
            text(1, TABLE),
            text(2, chain),
            nested(4, expressions),
        ];
        Request::new(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &parts)
    }

    fn header(&self) -> Vec<u8> {
        vec![self.number, 0, 0, 0]
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)])
}

fn value(bytes: &[u8]) -> Vec<u8> {
    attribute(1, bytes)
}

fn load(register: u32, bytes: &[u8]) -> Vec<u8> {
    let parts = [
        attribute(1, &register.to_be_bytes()),
        nested(2, &[value(bytes)]),
    ];
    expression("immediate", &parts)
}

fn verdict(code: i32, chain: Option<&str>) -> Vec<u8> {
    let mut parts = vec![attribute(1, &code.to_be_bytes())];
    parts.extend(chain.map(|chain| text(2, chain)));
    let data = [
        attribute(1, &REG_VERDICT.to_be_bytes()),
        nested(2, &[nested(2, &parts)]),
    ];
    expression("immediate", &data)
}

fn meta(key: u32) -> Expressions {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &key.to_be_bytes()),
    ];
    vec![expression("meta", &parts)]
}

fn transport(protocol: u8) -> Expressions {
    [meta(META_L4PROTO), vec![is(&[protocol])]].concat()
}

fn port_is(port: u16) -> Expressions {
    vec![payload(TRANSPORT, 2, 2), is(&port.to_be_bytes())]
}

/// SYN of SYN, ACK, RST and FIN.
fn first_packet() -> Expressions {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &REG_1.to_be_bytes()),
        attribute(3, &1_u32.to_be_bytes()),
        nested(4, &[value(&[0x17])]),
        nested(5, &[value(&[0])]),
    ];
    vec![
        payload(TRANSPORT, 13, 1),
        expression("bitwise", &parts),
        is(&[2]),
    ]
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let numbers = [REG_1, base, offset, length];
    let parts = (1..)
        .zip(numbers)
        .map(|(kind, number)| attribute(kind, &number.to_be_bytes()));
    expression("payload", &parts.collect::<Vec<_>>())
}

fn is(bytes: &[u8]) -> Vec<u8> {
    compare(EQUAL, bytes)
}

fn differs(bytes: &[u8]) -> Vec<u8> {
    compare(NOT_EQUAL, bytes)
}

fn compare(operation: u32, bytes: &[u8]) -> Vec<u8> {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &operation.to_be_bytes()),
        nested(3, &[value(bytes)]),
    ];
    expression("cmp", &parts)
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
