//! What the host lets pass of a bridge: a table of the packet filter, replaced whole.
//!
//! ```text
//! postrouting:  from the subnet, not to the bridge          masquerade
//! forward:      from the bridge, not from the subnet        drop     (also what claims to be an answer)
//!               from the bridge to the bridge               accept   (where bridges ask the filter)
//!               to the bridge: answers                      accept
//!               to the bridge                               drop     (nobody's to reach unasked)
//!               from the bridge                             jump policy
//! input:        from the bridge, not from the subnet        drop
//!               from the bridge: answers                    accept
//!               ... to the subnet, echo request             accept
//!               ... to the subnet                           reject   (services at the gateway)
//!               ... to services that have their own door    reject
//!               ... jump policy; with deny = host           reject
//! policy:       to what is never meant                      drop
//!               to what is allowed                          accept
//!               to what is unasked or denied                reject
//! ```

use std::io;
use std::net::IpAddr;

use config::range::Range;
use config::sandbox::Destination;
use config::subnet::Subnet;
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use super::super::netlink::{Request, ask, open};
use super::super::policy::{NEVER, UNASKED};
use super::super::rules::{
    ACCEPT, DROP, Expressions, FORWARD, Hook, INPUT, JUMP, META_INTERFACE_IN, META_INTERFACE_OUT,
    NETWORK, POSTROUTING, TRANSPORT, answers, batch, by_device, chain, delete_table, differs,
    expression, is, mask, masked, not_by_device, payload, port_is, reject, rule, table, transport,
    verdict,
};
use super::super::spec::Wiring;
use super::subnet;

/// IPv4: a bridge carries nothing else.
const FAMILY: u8 = libc::AF_INET as u8;
const POLICY: &str = "policy";
/// Where addresses stand in the header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
/// Communication administratively prohibited.
const PROHIBITED: u8 = 13;

/// Makes the table what these settings say, at once.
pub(super) fn install(name: &str, subnet: Subnet, wiring: &Wiring) -> io::Result<()> {
    // Deleting one that is not there would fail.
    let mut requests = vec![
        table(FAMILY, name),
        delete_table(FAMILY, name),
        table(FAMILY, name),
    ];
    let hook = |number, priority, kind| {
        Some(Hook {
            number,
            priority,
            kind,
        })
    };
    for (called, hook, rules) in [
        (POLICY, None, policy(wiring)),
        (
            "postrouting",
            hook(POSTROUTING, 100, "nat"),
            vec![masquerade(name, subnet)],
        ),
        ("forward", hook(FORWARD, 0, "filter"), forward(name, subnet)),
        (
            "input",
            hook(INPUT, 0, "filter"),
            input(name, subnet, wiring),
        ),
    ] {
        requests.push(chain(FAMILY, name, called, hook));
        let rules = rules.iter();
        requests.extend(rules.map(|expressions| rule(FAMILY, name, called, expressions)));
    }
    told(requests)
}

/// Takes the table away, if it is there.
pub(super) fn remove(name: &str) -> io::Result<()> {
    match told(vec![delete_table(FAMILY, name)]) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Complaints come unasked; only the last is acknowledged, for there may be many.
fn told(mut requests: Vec<Request>) -> io::Result<()> {
    let last = requests.len().saturating_sub(1);
    for request in &mut requests[..last] {
        request.acknowledged = false;
    }
    ask(&open(Some(NETFILTER))?, &batch(requests))
}

fn masquerade(bridge: &str, subnet: Subnet) -> Expressions {
    [
        within(SOURCE, subnet.range()),
        not_by_device(META_INTERFACE_OUT, bridge),
        vec![expression("masq", &[])],
    ]
    .concat()
}

fn forward(bridge: &str, subnet: Subnet) -> Vec<Expressions> {
    let from = by_device(META_INTERFACE_IN, bridge);
    let to = by_device(META_INTERFACE_OUT, bridge);
    vec![
        [from.clone(), not_from(subnet)].concat(),
        [from.clone(), to.clone(), vec![verdict(ACCEPT, None)]].concat(),
        [to.clone(), answers(), vec![verdict(ACCEPT, None)]].concat(),
        [to, vec![verdict(DROP, None)]].concat(),
        [from, vec![verdict(JUMP, Some(POLICY))]].concat(),
    ]
}

fn input(bridge: &str, subnet: Subnet, wiring: &Wiring) -> Vec<Expressions> {
    let from = || by_device(META_INTERFACE_IN, bridge);
    let to_subnet = || within(DESTINATION, subnet.range());
    let echo = vec![payload(TRANSPORT, 0, 1), is(&[8]), verdict(ACCEPT, None)];
    let mut rules = vec![
        [from(), not_from(subnet)].concat(),
        [from(), answers(), vec![verdict(ACCEPT, None)]].concat(),
        [
            from(),
            to_subnet(),
            transport(libc::IPPROTO_ICMP as u8),
            echo,
        ]
        .concat(),
        [from(), to_subnet(), vec![reject(PROHIBITED)]].concat(),
    ];
    for visible in &wiring.visible {
        let host = visible.host;
        let at = match subnet::only(host.ip()) {
            _ if visible.everywhere => Vec::new(),
            Some(address) => within(DESTINATION, address),
            None => continue,
        };
        let (tcp, port) = (transport(libc::IPPROTO_TCP as u8), port_is(host.port()));
        rules.push([from(), at, tcp, port, vec![reject(PROHIBITED)]].concat());
    }
    rules.push([from(), vec![verdict(JUMP, Some(POLICY))]].concat());
    if wiring.deny.contains(&Destination::Host) {
        rules.push([from(), vec![reject(PROHIBITED)]].concat());
    }
    rules
}

fn policy(wiring: &Wiring) -> Vec<Expressions> {
    let to = |ranges: &mut dyn Iterator<Item = Range>, last: Vec<u8>| -> Vec<Expressions> {
        let known = ranges.filter(|range| range.parts().0.is_ipv4());
        known
            .map(|range| [within(DESTINATION, range), vec![last.clone()]].concat())
            .collect()
    };
    let denied = wiring
        .deny
        .iter()
        .filter_map(|destination| match destination {
            Destination::Range(range) => Some(*range),
            Destination::Host => None,
        });
    let refused = &mut UNASKED.iter().copied().chain(denied);
    [
        to(&mut NEVER.iter().copied(), verdict(DROP, None)),
        to(&mut wiring.allow.iter().copied(), verdict(ACCEPT, None)),
        to(refused, reject(PROHIBITED)),
    ]
    .concat()
}

/// Ends what a container sends under another's address.
fn not_from(subnet: Subnet) -> Expressions {
    let own = subnet.range();
    let mut rule = within(SOURCE, own);
    rule.pop();
    rule.extend([differs(&first(own)), verdict(DROP, None)]);
    rule
}

/// Whether the address at `place` of the header is in the range.
fn within(place: u32, range: Range) -> Expressions {
    vec![
        payload(NETWORK, place, 4),
        masked(&mask(range.parts().1)),
        is(&first(range)),
    ]
}

/// A range's first address.
fn first(range: Range) -> [u8; 4] {
    let (address, bits) = range.parts();
    let mask = u32::from_be_bytes(mask(bits));
    match address {
        IpAddr::V4(address) => (address.to_bits() & mask).to_be_bytes(),
        // Not asked: the table is of IPv4.
        IpAddr::V6(_) => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_compared_by_their_first_bits() {
        for (text, expected) in [
            ("10.9.8.7/16", [10, 9, 0, 0]),
            ("169.254.0.0/16", [169, 254, 0, 0]),
            ("192.0.2.7/32", [192, 0, 2, 7]),
            ("255.255.255.255/0", [0, 0, 0, 0]),
        ] {
            assert_eq!(first(text.parse().unwrap()), expected, "{text}");
        }
        assert_eq!(mask(20), [255, 255, 240, 0]);
        assert_eq!((mask(0), mask(32)), ([0; 4], [255; 4]));
    }

    #[test]
    fn what_is_denied_and_allowed_is_in_the_policy_and_ipv6_is_not() {
        let subnet: Subnet = "10.9.8.0/24".parse().unwrap();
        let few = policy(&Wiring::default());
        let wiring = Wiring {
            allow: vec!["169.254.1.1".parse().unwrap(), "fd00::/8".parse().unwrap()],
            deny: vec!["10.0.0.0/8".parse().unwrap(), Destination::Host],
            ..Wiring::default()
        };
        let more = policy(&wiring);
        assert_eq!(more.len(), few.len() + 2);
        let at = |part: [u8; 4]| {
            let holds = |rule: &Expressions| rule.concat().windows(4).any(|w| w == part);
            more.iter().position(holds).unwrap()
        };
        assert!(at([127, 0, 0, 0]) < at([169, 254, 1, 1]));
        assert!(at([169, 254, 1, 1]) < at([169, 254, 0, 0]));
        assert!(at([169, 254, 0, 0]) < at([10, 0, 0, 0]));
        for rules in [input("b", subnet, &wiring), forward("b", subnet)] {
            // Before anything is let pass, were it an answer.
            assert_eq!(
                rules[0],
                [by_device(META_INTERFACE_IN, "b"), not_from(subnet)].concat()
            );
        }
        let closed = input("b", subnet, &wiring).len();
        assert_eq!(closed, input("b", subnet, &Wiring::default()).len() + 1);
    }
}
