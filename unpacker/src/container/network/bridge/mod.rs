//! The bridge of a data folder: a device for each container that asks for one, for a daemon of root.
//!
//! ```text
//! program --> eth0 (10.187.7.2) ==veth== dp<hash>-2 --- devpod-<hash> (10.187.7.1) --> table, masquerade --> world
//!         --> lo --> relay: name servers, what is visible of the host, published ports
//! ```
//!
//! What needs no device goes as in a private network, by the relay: so name servers at the host's
//! loopback and the registry at `localhost` are reached, under the same policy. What goes by the
//! device is judged by a table of ours on the host ([`table`]). Addresses are leased ([`lease`]);
//! whoever gives the last one back takes the bridge and the table away.

mod lease;
mod links;
pub mod probe;
mod subnet;
mod table;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use config::subnet::Subnet;
use ring::digest::{SHA256, digest};

pub(crate) use lease::Lease;
pub use lease::sweep;

use super::inside::Inside;

/// What the container calls its device.
const DEVICE: &str = "eth0";

/// Names of a data folder's bridge, and where its leases are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bridge {
    folder: PathBuf,
    hash: String,
}

impl Bridge {
    /// Of the folder of its leases.
    fn of(folder: &Path) -> Self {
        let digest = digest(&SHA256, folder.as_os_str().as_encoded_bytes());
        let start = digest.as_ref().get(..4).unwrap_or_default();
        Self {
            folder: folder.to_owned(),
            hash: crate::digest::hex(start),
        }
    }

    /// Of the bridge and of its table. The kernel takes 15 bytes.
    fn name(&self) -> String {
        format!("devpod-{}", self.hash)
    }

    /// The host's end of a container's pair of devices; no two addresses of a subnet, which has 20
    /// bits at least, share their last three digits.
    fn device(&self, address: Ipv4Addr) -> String {
        format!("dp{}-{:x}", self.hash, address.to_bits() & 0xfff)
    }

    /// Where the candidates for a subnet begin.
    fn seed(&self) -> u8 {
        u8::from_str_radix(self.hash.get(..2).unwrap_or_default(), 16).unwrap_or_default()
    }

    /// An address of the bridge's own; the kernel's would change with the devices on it.
    fn hardware_address(&self) -> [u8; 6] {
        let number = u32::from_str_radix(&self.hash, 16).unwrap_or_default();
        let [a, b, c, d] = number.to_be_bytes();
        // Locally administered, for one device.
        [0x02, 0x64, a, b, c, d]
    }
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    bridge: Bridge,
    subnet: Subnet,
    pub(crate) address: Ipv4Addr,
}

/// Gives a container its device. The calling thread stands in the host's network.
pub(super) fn connect(place: Place, inside: &Inside) -> io::Result<()> {
    let step = |what: &'static str| move |error| step(what, &error);
    let namespace = inside
        .run(|| std::fs::File::open("/proc/thread-self/ns/net"))
        .map_err(step("open the container's network"))?;
    let device = place.bridge.device(place.address);
    links::pair(&device, DEVICE, &namespace).map_err(step("make a pair of devices (veth)"))?;
    links::put_on(&device, &place.bridge.name()).map_err(step("put a device on the bridge"))?;
    inside
        .run(move || furnish(&place))
        .map_err(step("set up the container's device"))
}

/// Called inside.
fn furnish(place: &Place) -> io::Result<()> {
    no_ipv6(DEVICE)?;
    links::give_address(DEVICE, place.address, place.subnet.bits())?;
    links::up(DEVICE)?;
    links::default_route(DEVICE, place.subnet.gateway())
}

/// The table judges IPv4 alone, so nothing else may pass.
fn no_ipv6(device: &str) -> io::Result<()> {
    match std::fs::write(
        format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"),
        "1",
    ) {
        // A kernel without it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn step(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_folder() {
        let one = Bridge::of(Path::new("/var/lib/devpod/bridge"));
        let other = Bridge::of(Path::new("/home/u/.local/share/devpod/bridge"));
        assert_ne!(one.name(), other.name());
        assert_eq!(one.name(), Bridge::of(&one.folder).name());
        let device = one.device(Ipv4Addr::new(172, 16, 31, 254));
        for name in [one.name(), device.clone()] {
            assert!(name.len() <= 15 && name.contains(&one.hash), "{name}");
        }
        assert_ne!(device, one.device(Ipv4Addr::new(172, 16, 30, 254)));
        assert_eq!(one.hardware_address()[0] & 3, 2);
    }
}
