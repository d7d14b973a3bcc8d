//! Words of the packet filter's tables: chains, rules, and what rules are made of.

use std::net::IpAddr;

use super::netlink::{NLM_F_APPEND, NLM_F_CREATE, Request, attribute, nested, text};

// <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>.
const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const REG_VERDICT: u32 = 0;
pub(super) const REG_1: u32 = 1;
pub(super) const REG_2: u32 = 2;
pub(super) const META_MARK: u32 = 3;
pub(super) const META_INTERFACE_IN: u32 = 6;
pub(super) const META_INTERFACE_OUT: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
/// ESTABLISHED and RELATED, as the kernel numbers states.
const CT_ANSWERS: u32 = 2 | 4;
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
pub(super) const DROP: i32 = 0;
pub(super) const ACCEPT: i32 = 1;
pub(super) const JUMP: i32 = -3;
pub(super) const GOTO: i32 = -4;
// <linux/netfilter.h>.
pub(super) const PREROUTING: u32 = 0;
pub(super) const INPUT: u32 = 1;
pub(super) const FORWARD: u32 = 2;
pub(super) const POSTROUTING: u32 = 4;

pub(super) type Expressions = Vec<Vec<u8>>;

/// Where packets come into a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) number: u32,
    pub(super) priority: i32,
    pub(super) kind: &'static str,
}

/// All of these or none.
pub(super) fn batch(requests: impl IntoIterator<Item = Request>) -> Vec<Request> {
    // The batch is for the subsystem whose number stands where others have a resource.
    let mark = |kind| Request {
        acknowledged: false,
        ..Request::new(kind, 0, &[vec![0, 0, 0, (SUBSYSTEM >> 8) as u8]])
    };
    let mut all = vec![mark(BATCH_BEGIN)];
    all.extend(requests);
    all.push(mark(BATCH_END));
    all
}

/// Makes a table unless it is there.
pub(super) fn table(family: u8, name: &str) -> Request {
    Request::new(NEW_TABLE, NLM_F_CREATE, &[header(family), text(1, name)])
}

/// Takes a table away with all that is in it.
pub(super) fn delete_table(family: u8, name: &str) -> Request {
    Request::new(DELETE_TABLE, 0, &[header(family), text(1, name)])
}

/// Makes a chain that packets come into by a hook, or by a jump alone.
pub(super) fn chain(family: u8, table: &str, name: &str, hook: Option<Hook>) -> Request {
    let mut parts = vec![header(family), text(1, table), text(3, name)];
    if let Some(hook) = hook {
        let at = [
            attribute(1, &hook.number.to_be_bytes()),
            attribute(2, &hook.priority.to_be_bytes()),
        ];
        parts.extend([nested(4, &at), text(7, hook.kind)]);
    }
    Request::new(NEW_CHAIN, NLM_F_CREATE, &parts)
}

pub(super) fn rule(family: u8, table: &str, chain: &str, expressions: &[Vec<u8>]) -> Request {
    let parts = [
        header(family),
        text(1, table),
        text(2, chain),
        nested(4, expressions),
    ];
    Request::new(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &parts)
}

fn header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)])
}

fn value(bytes: &[u8]) -> Vec<u8> {
    attribute(1, bytes)
}

pub(super) fn load(register: u32, bytes: &[u8]) -> Vec<u8> {
    let parts = [
        attribute(1, &register.to_be_bytes()),
        nested(2, &[value(bytes)]),
    ];
    expression("immediate", &parts)
}

pub(super) fn verdict(code: i32, chain: Option<&str>) -> Vec<u8> {
    let mut parts = vec![attribute(1, &code.to_be_bytes())];
    parts.extend(chain.map(|chain| text(2, chain)));
    let data = [
        attribute(1, &REG_VERDICT.to_be_bytes()),
        nested(2, &[nested(2, &parts)]),
    ];
    expression("immediate", &data)
}

pub(super) fn meta(key: u32) -> Expressions {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &key.to_be_bytes()),
    ];
    vec![expression("meta", &parts)]
}

pub(super) fn transport(protocol: u8) -> Expressions {
    [meta(META_L4PROTO), vec![is(&[protocol])]].concat()
}

pub(super) fn port_is(port: u16) -> Expressions {
    vec![payload(TRANSPORT, 2, 2), is(&port.to_be_bytes())]
}

/// SYN of SYN, ACK, RST and FIN.
pub(super) fn first_packet() -> Expressions {
    vec![payload(TRANSPORT, 13, 1), masked(&[0x17]), is(&[2])]
}

/// The first bits of an IPv4 address.
pub(super) fn mask(bits: u8) -> [u8; 4] {
    let rest = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
    (!rest).to_be_bytes()
}

/// Keeps these bits of what was read.
pub(super) fn masked(bits: &[u8]) -> Vec<u8> {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &REG_1.to_be_bytes()),
        attribute(3, &(bits.len() as u32).to_be_bytes()),
        nested(4, &[value(bits)]),
        nested(5, &[value(&vec![0; bits.len()])]),
    ];
    expression("bitwise", &parts)
}

/// The device that a packet came or goes by.
pub(super) fn by_device(key: u32, name: &str) -> Expressions {
    [meta(key), vec![is(&device(name))]].concat()
}

pub(super) fn not_by_device(key: u32, name: &str) -> Expressions {
    [meta(key), vec![differs(&device(name))]].concat()
}

fn device(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}

/// What answers to somebody, or tells of a failure.
pub(super) fn answers() -> Expressions {
    let parts = [
        attribute(1, &REG_1.to_be_bytes()),
        attribute(2, &CT_STATE.to_be_bytes()),
    ];
    vec![
        expression("ct", &parts),
        masked(&CT_ANSWERS.to_ne_bytes()),
        differs(&0_u32.to_ne_bytes()),
    ]
}

pub(super) fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let numbers = [REG_1, base, offset, length];
    let parts = (1..)
        .zip(numbers)
        .map(|(kind, number)| attribute(kind, &number.to_be_bytes()));
    expression("payload", &parts.collect::<Vec<_>>())
}

pub(super) fn is(bytes: &[u8]) -> Vec<u8> {
    compare(EQUAL, bytes)
}

pub(super) fn differs(bytes: &[u8]) -> Vec<u8> {
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

/// Refuses with a message, of this code.
pub(super) fn reject(code: u8) -> Vec<u8> {
    expression(
        "reject",
        &[attribute(1, &0_u32.to_be_bytes()), attribute(2, &[code])],
    )
}
