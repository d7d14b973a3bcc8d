//! A network of a container's own, without a device, a helper program or a privilege.
//!
//! Inside the container's network namespace every address is made local (`local 0.0.0.0/0 dev lo`)
//! and the packet filter hands what is not for the container itself to sockets of ours (`tproxy`),
//! which still know where it wanted to go. A relay process that stands in the host's network takes
//! connections and datagrams from these sockets and carries them on by ordinary ones. So programs
//! inside reach the world without a proxy's variables, and the world sees ordinary connections.
//!
//! ```text
//! program --connect 203.0.113.1:443--> lo, tproxy --> socket of ours | relay --connect--> 203.0.113.1:443
//! program <--accept :80-- 10.0.2.100:80 <--connect-- socket of ours  | relay <--accept-- 127.0.0.1:8080
//!            the container's network namespace                       |      the host's
//! ```
//!
//! A connection attempt is held until its destination answered ([`hold`]), so that inside, too,
//! what is refused is refused. The relay belongs to the process that watches the container and
//! ends with it; it has one loop ([`relay`]) and one thread that only makes sockets ([`inside`]).
//!
//! A container on a [`bridge`] has a device besides; the relay carries what is for its own addresses.

pub mod bridge;
mod connections;
mod datagram;
mod embedded;
mod files;
mod hold;
mod host;
mod inside;
mod netlink;
mod nft;
mod packet;
pub(crate) mod policy;
mod poll;
pub mod probe;
mod relay;
mod rules;
mod sockets;
pub mod spec;
mod start;
mod stream;
mod target;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use files::{hosts, resolv_conf};
pub use start::Published;
pub(crate) use start::{Attached, Prepared};

use config::range::Range;

/// Tasks of a relay: its loop, and the thread inside.
pub(crate) const RELAY_TASKS: u64 = 2;

/// The hidden subcommand of [`probe`].
pub(crate) const PROBE: &str = "__network";

/// The container's address: what user-mode networks have used since QEMU's.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
/// Where connections of the host's own programs come from, and with
/// [`spec::Wiring::host_loopback`] the host's loopback.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// What the gateway is called inside, where it leads to the host.
pub const HOST_NAME: &str = "host.devpod.internal";
/// Each leads to the host's name server of that number.
const DNS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 4)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 5)),
];
/// Where the relay answers on a bridge, too: the gateway and name servers.
const OURS: Range = Range::v4([10, 0, 2, 0], 29);
const SUBNET: Range = Range::v4([10, 0, 2, 0], 24);
const SUBNET_V6: Range = Range::v6(ADDRESS_V6, 64);

/// The container's address where the host reaches IPv6; of a unique local prefix of our own.
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd64, 0x6576, 0x706f, 0x64, 0, 0, 0, 0x100);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd64, 0x6576, 0x706f, 0x64, 0, 0, 0, 2);
