//! Connection attempts that wait until their destination answered.
//!
//! The packet filter drops the first packet of a connection and tells it to us. Once the relay has
//! a connection to the destination, the same packet is sent again with a mark that lets it pass to
//! our listener; where the destination refused, the refusal is sent. So `connect` inside ends as it
//! would have ended outside, instead of succeeding and being cut off.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::{RecvFlags, SendFlags, recv, sendto};

use super::netlink::{Request, ask, attribute, attributes, messages, open};
use super::nft::GROUP;
use super::packet::Syn;
use super::sockets;

// <linux/netfilter/nfnetlink_log.h>.
const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 1;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
/// Of the netfilter header that stands before the attributes.
const HEADER: usize = 4;

/// Held packets as the kernel tells them, and the way back.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) told: OwnedFd,
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl Hold {
    /// Begins to listen. Called inside.
    pub(super) fn open() -> io::Result<Self> {
        let told = open(Some(NETFILTER))?;
        let header = vec![libc::AF_UNSPEC as u8, 0, (GROUP >> 8) as u8, GROUP as u8];
        let mut mode = u32::from(u16::MAX).to_be_bytes().to_vec();
        mode.extend_from_slice(&[COPY_PACKET, 0]);
        let steps = [
            attribute(1, &[BIND]),
            attribute(2, &mode),
            // At once, one at a time.
            [
                attribute(4, &0_u32.to_be_bytes()),
                attribute(5, &1_u32.to_be_bytes()),
            ]
            .concat(),
        ];
        for step in steps {
            ask(&told, &[Request::new(CONFIG, 0, &[header.clone(), step])])?;
        }
        rustix::io::ioctl_fionbio(&told, true)?;
        Ok(Self {
            told,
            v4: sockets::raw(false)?,
            // Also where the world has no IPv6 there is its localhost, unless the kernel has none.
            v6: sockets::raw(true).ok(),
        })
    }

    /// The packets that were held since the last time.
    pub(super) fn take(&self) -> Vec<Syn> {
        let mut bytes = vec![0_u8; 16 * 1024];
        let mut held = Vec::new();
        // Others are told the next time: there is a loop to be kept turning.
        while held.len() < 64 {
            match recv(&self.told, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => held.extend(read(&bytes[..length])),
                // What was lost will be tried again by its sender.
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => break,
            }
        }
        held
    }

    /// Lets a held packet go to its listener.
    pub(super) fn let_through(&self, syn: &Syn) {
        self.send(&syn.bytes, syn.to.ip());
    }

    /// Answers a held packet as its destination would refuse it.
    pub(super) fn refuse(&self, syn: &Syn) {
        self.send(&syn.refusal(), syn.from.ip());
    }

    /// One that gets lost is sent again: by us when the sender repeats itself.
    fn send(&self, packet: &[u8], to: IpAddr) {
        let to = SocketAddr::new(to, 0);
        let socket = match (to, &self.v6) {
            (SocketAddr::V4(_), _) => &self.v4,
            (SocketAddr::V6(_), Some(v6)) => v6,
            (SocketAddr::V6(_), None) => return,
        };
        let _ = sendto(socket, packet, SendFlags::empty(), &to);
    }
}

fn read(datagram: &[u8]) -> impl Iterator<Item = Syn> {
    messages(datagram)
        .filter(|(kind, _)| *kind == PACKET)
        .filter_map(|(_, body)| {
            let mut parts = attributes(body.get(HEADER..)?);
            let (_, packet) = parts.find(|(kind, _)| *kind == PAYLOAD)?;
            Syn::read(packet)
        })
}
