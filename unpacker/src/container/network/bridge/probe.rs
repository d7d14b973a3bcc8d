//! Whether there can be bridges here.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use config::subnet::Subnet;
use rustix::thread::{CapabilitySet, capabilities};

use super::super::super::idmap::IdMap;
use super::super::super::sys;
use super::super::spec::Wiring;
use super::{Bridge, DEVICE, links, table};

/// Why this process may make no devices in the host's network.
pub fn privileged() -> Result<(), String> {
    if !IdMap::current().is_ok_and(|ids| ids.is_whole()) {
        return Err("it is for a daemon that root started".to_owned());
    }
    let sets = capabilities(None).map_err(|error| format!("cannot read capabilities: {error}"))?;
    match sets.effective.contains(CapabilitySet::NET_ADMIN) {
        true => Ok(()),
        false => Err("this root lacks the capability NET_ADMIN".to_owned()),
    }
}

/// Tries all of it in a network of nobody, which the calling thread is in afterwards.
pub(in super::super) fn try_all() -> Result<(), String> {
    privileged()?;
    make().map_err(|error| error.to_string())
}

fn make() -> io::Result<()> {
    let step = |what: &'static str| move |error| super::step(what, &error);
    sys::unshare(libc::CLONE_NEWNET).map_err(step("make a network"))?;
    let bridge = Bridge::of(Path::new("probe"));
    let subnet = Subnet::of_256(Ipv4Addr::new(10, 187, 0, 0));
    let device = bridge.device(subnet.gateway());
    let own = std::fs::File::open("/proc/thread-self/ns/net")?;
    table::install(&bridge.name(), subnet, &Wiring::default())
        .map_err(step("set up the packet filter (nf_tables with nft_masq)"))?;
    links::bridge(&bridge.name(), bridge.hardware_address()).map_err(step("make a bridge"))?;
    links::pair(&device, DEVICE, &own).map_err(step("make a pair of devices (veth)"))?;
    links::put_on(&device, &bridge.name()).map_err(step("put a device on a bridge"))
}
