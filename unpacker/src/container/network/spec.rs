//! What a private network is to be, as data.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use config::range::Range;
use config::sandbox::Destination;
use config::subnet::Subnet;
use serde::{Deserialize, Serialize};

/// What goes through a container's private network or bridge; of no meaning for the other kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wiring {
    /// Ports of the host that lead inside.
    pub publish: Vec<Publish>,
    /// Services of the host that are at `localhost` inside too.
    pub visible: Vec<Visible>,
    /// The host's loopback is at [`super::GATEWAY`], called [`super::HOST_NAME`].
    pub host_loopback: bool,
    /// Destinations that are reached even when they are denied.
    pub allow: Vec<Range>,
    /// Destinations that are refused, besides the host itself and what is on its link.
    pub deny: Vec<Destination>,
    /// The bridge of those that are on one.
    pub bridge: Bridging,
}

impl Wiring {
    /// The container's own address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.bridge.address.unwrap_or(super::ADDRESS)
    }
}

/// A bridge, and a container's place on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bridging {
    /// Where the leases of its addresses are. Whoever shares it shares the bridge.
    pub folder: Option<PathBuf>,
    /// Its addresses; `None` for some that are free.
    pub subnet: Option<Subnet>,
    /// The container's. It is leased when the container is started.
    #[serde(skip)]
    pub address: Option<Ipv4Addr>,
}

/// One port of the host that leads to a port inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Where the host listens; port 0 for any free one.
    pub host: SocketAddr,
    /// Where the container listens.
    pub port: u16,
    pub protocol: Protocol,
}

/// A service of the host (TCP) that is at `localhost:<port>` inside, unless the container listens
/// there itself. By whatever address it is asked for, it is asked as `admission` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visible {
    pub port: u16,
    pub host: SocketAddr,
    /// It listens at every address of the host, not at `host` alone.
    #[serde(default)]
    pub everywhere: bool,
    #[serde(default)]
    pub admission: Admission,
}

/// As whom a service of the host is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// As programs of the host ask it.
    #[default]
    Plain,
    /// From this address of the host's loopback, by which the service tells containers from programs
    /// of the host. A service at an IPv6 address cannot be asked so, and is not asked.
    From(Ipv4Addr),
    /// Not at all.
    Refused,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.host, self.port, self.protocol)
    }
}
