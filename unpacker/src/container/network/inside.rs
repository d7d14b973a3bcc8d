//! The container's side of the network: a thread that stands in its namespace, furnishes it once
//! and then makes sockets there.
//!
//! A socket belongs to the namespace of the thread that makes it, and to whichever thread uses it:
//! so the relay's loop never has to go inside, and could not come back if it did.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;

use rustix::thread::{
    CapabilitySet, CapabilitySets, ThreadNameSpaceType, move_into_thread_name_spaces,
    set_capabilities,
};

use super::super::sys;
use super::hold::Hold;
use super::netlink::{NLM_F_CREATE, Request, ask, attribute, open};
use super::nft::{self, Features, Scope};
use super::{ADDRESS, ADDRESS_V6, GATEWAY, GATEWAY_V6, OURS, sockets};

// <linux/rtnetlink.h>.
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const TABLE_LOCAL: u8 = 255;
const SCOPE_HOST: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_LOCAL: u8 = 2;
/// The first device of every namespace.
const LO: u32 = 1;

/// It makes sockets and nothing else.
const STACK: usize = 128 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The thread inside.
#[derive(Debug)]
pub(super) struct Inside {
    jobs: mpsc::Sender<Job>,
}

/// How a container reaches what is elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum World {
    /// By us, IPv6 too or not.
    ByRelay { v6: bool },
    /// By a device with this address.
    ByDevice(Ipv4Addr),
}

/// What a furnished namespace sends to us.
#[derive(Debug)]
pub(super) struct Mouths {
    pub(super) connections: Vec<OwnedFd>,
    pub(super) datagrams: Vec<OwnedFd>,
    pub(super) features: Features,
    /// `None` where the kernel cannot hold connections.
    pub(super) hold: Option<Hold>,
}

impl Inside {
    /// Starts the thread in the network namespace of a process.
    pub(super) fn enter(process: OwnedFd) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, answer) = mpsc::channel();
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(move || {
            let moved = move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::NETWORK);
            drop(process);
            if entered.send(moved).is_ok() {
                queue.into_iter().for_each(|job| job());
            }
        })?;
        answer.recv().map_err(|_| lost())??;
        Ok(Self { jobs })
    }

    /// Does something inside and waits for it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, answer) = mpsc::sync_channel(1);
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.send(job).map_err(|_| lost())?;
        answer.recv().map_err(|_| lost())?
    }

    /// Leaves the thread with what sockets of any address need.
    pub(super) fn confine(&self) -> io::Result<()> {
        self.run(|| {
            let kept = CapabilitySet::NET_ADMIN
                .union(CapabilitySet::NET_RAW)
                .union(CapabilitySet::NET_BIND_SERVICE);
            drop_capabilities(kept)
        })
    }
}

/// Keeps only these, in the calling thread.
pub(super) fn drop_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

fn lost() -> io::Error {
    io::Error::other("the thread inside has ended")
}

/// Makes the namespace what the module's documentation says. Called inside.
pub(super) fn furnish(visible: &[u16], world: World) -> io::Result<Mouths> {
    sys::loopback_up().map_err(|e| step("set lo up", e))?;
    // Ports below 1024 are nobody's privilege in here, as with docker. Where /proc is read-only a
    // capability of the container's root does.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let scope = route(world)?;
    let features = filter(visible, scope)
        .map_err(|e| step("set up the packet filter (nf_tables with tproxy)", e))?;
    let mut mouths = Mouths {
        connections: Vec::new(),
        datagrams: Vec::new(),
        features,
        hold: None,
    };
    for gateway in [GATEWAY, GATEWAY_V6.into()] {
        let at = SocketAddr::new(gateway, nft::PORT);
        match listeners(at) {
            Ok((connections, datagrams)) => {
                mouths.connections.push(connections);
                mouths.datagrams.push(datagrams);
            }
            // A kernel without IPv6.
            Err(_) if gateway.is_ipv6() => {}
            Err(error) => return Err(step("listen inside", error)),
        }
    }
    if features.hold {
        mouths.hold = Some(Hold::open().map_err(|e| step("hold connections", e))?);
    }
    Ok(mouths)
}

/// Leads what is for the relay to `lo`.
fn route(world: World) -> io::Result<Scope> {
    let routes = open(None)?;
    let told = |requests: &[Request]| ask(&routes, requests).map_err(|e| step("route to lo", e));
    let scope = match world {
        World::ByRelay { .. } => {
            told(&everything_local(ADDRESS.into()))?;
            Scope::Everything
        }
        World::ByDevice(own) => {
            told(&[ours_local(own)])?;
            Scope::Ours
        }
    };
    if world == (World::ByRelay { v6: true }) {
        ask(&routes, &everything_local(ADDRESS_V6.into()))
            .map_err(|e| step("route IPv6 to lo", e))?;
    } else {
        // Services of the container's own ::1 answer to us there. A kernel without IPv6 has none.
        let _ = ask(&routes, &[local_route(GATEWAY_V6.into(), true)]);
    }
    Ok(scope)
}

fn listeners(at: SocketAddr) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((
        sockets::transparent_listener(at)?,
        sockets::transparent_datagrams(at)?,
    ))
}

/// The most that this kernel does, the same for both families.
fn filter(visible: &[u16], scope: Scope) -> io::Result<Features> {
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for features in nft::LADDER {
        match nft::install(false, visible, features, scope) {
            Ok(()) => {
                // A kernel without IPv6 has no packets for these rules.
                let _ = nft::install(true, visible, features, scope);
                return Ok(features);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Gives `lo` the address, and makes every address of its family this host's.
fn everything_local(own: IpAddr) -> Vec<Request> {
    let (family, bytes) = parts(own);
    let bits = bytes.len() as u8 * 8;
    // Nobody else is asked whether the address is theirs: it is of use at once.
    let no_detection = if own.is_ipv6() { 2 } else { 0 };
    let mut address = vec![family, bits, no_detection, SCOPE_UNIVERSE];
    address.extend_from_slice(&LO.to_ne_bytes());
    let address = [address, attribute(2, &bytes), attribute(1, &bytes)];
    vec![
        Request::new(NEW_ADDRESS, NLM_F_CREATE, &address),
        local_route(own, false),
    ]
}

/// Makes one address this host's, or all of its family, which are reached from it then.
fn local_route(address: IpAddr, alone: bool) -> Request {
    let (family, bytes) = parts(address);
    let bits = if alone { bytes.len() as u8 * 8 } else { 0 };
    let which = match alone {
        true => attribute(1, &bytes),
        false => attribute(7, &bytes),
    };
    to_lo(family, bits, which)
}

/// Makes the relay's addresses this host's, reached from the container's own.
fn ours_local(own: Ipv4Addr) -> Request {
    let (address, bits) = OURS.parts();
    let (family, bytes) = parts(address);
    let which = [attribute(1, &bytes), attribute(7, &own.octets())].concat();
    to_lo(family, bits, which)
}

fn to_lo(family: u8, bits: u8, which: Vec<u8>) -> Request {
    let mut route = vec![
        family,
        bits,
        0,
        0,
        TABLE_LOCAL,
        PROTOCOL_STATIC,
        SCOPE_HOST,
        TYPE_LOCAL,
    ];
    route.extend_from_slice(&[0; 4]);
    let device = attribute(4, &LO.to_ne_bytes());
    Request::new(NEW_ROUTE, NLM_F_CREATE, &[route, device, which])
}

/// An address's family and bytes.
fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}

fn step(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}
