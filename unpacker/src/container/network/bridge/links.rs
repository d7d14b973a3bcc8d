//! Devices, addresses and routes, by messages to the kernel (rtnetlink(7)), in the network of the
//! calling thread.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use config::range::Range;
use rustix::io::Errno;

use super::super::netlink::{
    NLM_F_CREATE, NLM_F_EXCL, Request, answer, ask, attribute, attributes, dump, nested, open, text,
};

// <linux/rtnetlink.h>, <linux/if_link.h>, <linux/veth.h>.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const HARDWARE_ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
/// Of the header before a route's attributes.
const ROUTE_HEADER: usize = 12;

/// The number of a device.
pub(super) fn index(name: &str) -> io::Result<Option<u32>> {
    let question = Request::new(GET_LINK, 0, &[link(0, false), text(NAME, name)]);
    match answer(&open(None)?, question) {
        Ok((NEW_LINK, body)) => {
            let number = body.get(4..8).and_then(|bytes| bytes.first_chunk());
            Ok(number.map(|bytes| u32::from_ne_bytes(*bytes)))
        }
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn known(name: &str) -> io::Result<u32> {
    index(name)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {name}")))
}

/// Makes a bridge.
pub(super) fn bridge(name: &str, address: [u8; 6]) -> io::Result<()> {
    told(&new_bridge(name, address))
}

fn new_bridge(name: &str, address: [u8; 6]) -> Request {
    let parts = [
        link(0, false),
        text(NAME, name),
        attribute(HARDWARE_ADDRESS, &address),
        nested(INFO, &[text(INFO_KIND, "bridge")]),
    ];
    Request::new(NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, &parts)
}

/// Makes two devices that are each other's end, the second in another namespace.
pub(super) fn pair(near: &str, far: &str, namespace: &File) -> io::Result<()> {
    // One of a container that just ended, whose namespace is still being taken down.
    delete(near)?;
    told(&new_pair(near, far, namespace.as_raw_fd()))
}

fn new_pair(near: &str, far: &str, namespace: i32) -> Request {
    let peer = [
        link(0, false),
        text(NAME, far),
        attribute(NAMESPACE, &namespace.to_ne_bytes()),
    ];
    let info = [
        text(INFO_KIND, "veth"),
        nested(INFO_DATA, &[nested(PEER, &peer)]),
    ];
    let parts = [link(0, false), text(NAME, near), nested(INFO, &info)];
    Request::new(NEW_LINK, NLM_F_CREATE | NLM_F_EXCL, &parts)
}

/// Puts a device on a bridge, and lets it carry.
pub(super) fn put_on(device: &str, bridge: &str) -> io::Result<()> {
    let bridge = known(bridge)?;
    let master = attribute(MASTER, &bridge.to_ne_bytes());
    told(&Request::new(
        NEW_LINK,
        0,
        &[link(known(device)?, true), master],
    ))
}

/// Lets a device carry.
pub(super) fn up(name: &str) -> io::Result<()> {
    told(&Request::new(NEW_LINK, 0, &[link(known(name)?, true)]))
}

/// Takes a device away, if it is there.
pub(super) fn delete(name: &str) -> io::Result<()> {
    match told(&Request::new(
        DELETE_LINK,
        0,
        &[link(0, false), text(NAME, name)],
    )) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(()),
        done => done,
    }
}

/// Gives a device an address, with a route to its neighbours.
pub(super) fn give_address(name: &str, address: Ipv4Addr, bits: u8) -> io::Result<()> {
    told(&new_address(known(name)?, address, bits))
}

fn new_address(index: u32, address: Ipv4Addr, bits: u8) -> Request {
    let mut header = vec![libc::AF_INET as u8, bits, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    let octets = address.octets();
    let parts = [header, attribute(2, &octets), attribute(1, &octets)];
    Request::new(NEW_ADDRESS, NLM_F_CREATE, &parts)
}

/// Sends by a device, to this neighbour, what is for nobody else.
pub(super) fn default_route(name: &str, gateway: Ipv4Addr) -> io::Result<()> {
    let mut header = vec![
        libc::AF_INET as u8,
        0,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_STATIC,
        0,
        TYPE_UNICAST,
    ];
    header.extend_from_slice(&[0; 4]);
    let device = attribute(4, &known(name)?.to_ne_bytes());
    let parts = [header, attribute(5, &gateway.octets()), device];
    told(&Request::new(NEW_ROUTE, NLM_F_CREATE, &parts))
}

/// The IPv4 addresses that this host reaches otherwise than all the rest: by a route of their own.
pub(super) fn routes() -> io::Result<Vec<Range>> {
    let mut header = vec![0; ROUTE_HEADER];
    header[0] = libc::AF_INET as u8;
    let mut found = Vec::new();
    dump(
        &open(None)?,
        Request::new(GET_ROUTE, 0, &[header]),
        &mut |body| {
            found.extend(route(body));
        },
    )?;
    Ok(found)
}

/// The destination of a route; not of one to everything, which tunnels write as two halves.
fn route(body: &[u8]) -> Option<Range> {
    let bits = *body.get(1).filter(|bits| **bits > 1)?;
    let mut parts = attributes(body.get(ROUTE_HEADER..)?);
    let (_, address) = parts.find(|(kind, _)| *kind == 1)?;
    Some(Range::v4(address.try_into().ok()?, bits))
}

/// The header of messages about devices.
fn link(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    let mut header = vec![0; 4];
    for number in [index, flags, flags] {
        header.extend_from_slice(&number.to_ne_bytes());
    }
    header
}

fn told(request: &Request) -> io::Result<()> {
    ask(&open(None)?, std::slice::from_ref(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8], kind: u16) -> Vec<u8> {
        let mut all = attributes(bytes);
        let found = all.find(|(known, _)| *known == kind);
        found.map(|(_, body)| body.to_vec()).unwrap_or_default()
    }

    #[test]
    fn a_pair_names_its_far_end_and_where_it_is() {
        let request = new_pair("dp01234567-2", "eth0", 7);
        assert_eq!(request.body.len() % 4, 0);
        let body = &request.body[16..];
        assert_eq!(found(body, NAME), b"dp01234567-2\0");
        let info = found(body, INFO);
        assert_eq!(found(&info, INFO_KIND), b"veth\0");
        let peer = found(&found(&info, INFO_DATA), PEER);
        assert_eq!(found(&peer[16..], NAME), b"eth0\0");
        assert_eq!(found(&peer[16..], NAMESPACE), 7_i32.to_ne_bytes());
    }

    #[test]
    fn a_bridge_and_an_address_say_what_they_are() {
        let body = new_bridge("devpod-01234567", [2, 0x64, 1, 2, 3, 4]).body;
        assert_eq!(found(&body[16..], HARDWARE_ADDRESS), [2, 0x64, 1, 2, 3, 4]);
        assert_eq!(found(&found(&body[16..], INFO), INFO_KIND), b"bridge\0");
        let body = new_address(9, Ipv4Addr::new(10, 9, 8, 1), 24).body;
        assert_eq!(body[..4], [libc::AF_INET as u8, 24, 0, 0]);
        assert_eq!(body[4..8], 9_u32.to_ne_bytes());
        assert_eq!(found(&body[8..], 2), [10, 9, 8, 1]);
    }

    #[test]
    fn routes_are_read_and_those_to_everything_are_none() {
        let message = |bits: u8, address: [u8; 4]| {
            let mut header = vec![0; ROUTE_HEADER];
            header[1] = bits;
            [
                header,
                attribute(15, &[254, 0, 0, 0]),
                attribute(1, &address),
            ]
            .concat()
        };
        let read = |bits, address| route(&message(bits, address)).map(|range| range.to_string());
        assert_eq!(read(16, [10, 9, 0, 0]).as_deref(), Some("10.9.0.0/16"));
        assert_eq!(read(0, [0, 0, 0, 0]), None);
        assert_eq!(read(1, [128, 0, 0, 0]), None);
        assert_eq!(route(&[0, 24]), None);
        // Every host has its loopback.
        let own = routes().unwrap();
        assert!(
            own.is_empty()
                || own
                    .iter()
                    .any(|range| range.contains([127, 0, 0, 1].into()))
        );
    }
}
