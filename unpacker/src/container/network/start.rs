//! Starting a container's network and ending it, from the process that watches the container.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::super::launch::{Refusal, Refuse, Stage};
use super::super::spec::{ContainerSpec, Network};
use super::super::sys::{self, Forked};
use super::super::wire::Wire;
use super::bridge::{self, Lease, Place};
use super::inside::{self, Inside, World};
use super::relay::{Opened, Relay};
use super::sockets;
use super::spec::{Protocol, Publish, Wiring};

/// Connections of one container at a time.
const CONNECTIONS: u64 = 4096;
/// How long a relay may take to let go of its ports.
const PATIENCE: Duration = Duration::from_secs(2);

/// A port of the host as it leads inside now.
pub type Published = Publish;

/// The ports of a network that is to be started. They are taken before anything else is done.
#[derive(Debug)]
pub(crate) struct Prepared {
    wiring: Wiring,
    opened: Vec<Opened>,
    published: Vec<Published>,
    /// Of a container on a bridge.
    lease: Option<Lease>,
}

/// The relay of a running container, as its watcher holds it.
#[derive(Debug)]
pub(crate) struct Attached {
    pid: Pid,
    pidfd: OwnedFd,
    wire: Wire,
    /// With the ports that were chosen.
    pub(crate) published: Vec<Published>,
    lease: Option<Lease>,
}

impl Prepared {
    /// Takes the ports on the host, and on a bridge an address; `None` where nothing is carried.
    pub(crate) fn of(spec: &ContainerSpec) -> Result<Option<Self>, Refusal> {
        let lease = match spec.network {
            Network::Host | Network::None => return Ok(None),
            Network::Private => None,
            Network::Bridge => Some(Lease::take(&spec.wiring).map_err(no_bridge)?),
        };
        Self::new(&spec.wiring, lease).map(Some)
    }

    /// Where a container on a bridge is.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.wiring.bridge.address
    }

    fn new(wiring: &Wiring, lease: Option<Lease>) -> Result<Self, Refusal> {
        let (mut opened, mut published) = (Vec::new(), Vec::new());
        for publish in &wiring.publish {
            let (socket, host) = open(publish).map_err(|error| explain(publish, &error))?;
            published.push(Publish { host, ..*publish });
            opened.push(Opened {
                socket,
                port: publish.port,
                protocol: publish.protocol,
            });
        }
        let mut wiring = wiring.clone();
        wiring.bridge.address = lease.as_ref().map(|lease| lease.place.address);
        Ok(Self {
            wiring,
            opened,
            published,
            lease,
        })
    }

    /// Starts the relay of the container whose first process this is. It does nothing before
    /// [`Attached::ready`].
    pub(crate) fn start(mut self, container: &OwnedFd) -> Result<Attached, Refusal> {
        let lease = self.lease.take();
        let place = lease.as_ref().map(|lease| lease.place.clone());
        let what = || "start the network's relay".to_owned();
        let (wire, theirs) = Wire::pair().refuse(Stage::Network, what)?;
        match sys::fork(0).refuse(Stage::Network, what)? {
            Forked::Child => {
                drop(wire);
                // Never returns, so it never drops the lease, which is the watcher's to give back.
                live(self, place, &Wire::from_fd(theirs), container)
            }
            Forked::Parent(pid, pidfd) => Ok(Attached {
                pid,
                pidfd,
                wire,
                published: self.published,
                lease,
            }),
        }
    }
}

impl Attached {
    /// The relay process.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Where a container on a bridge is.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.lease.as_ref().map(|lease| lease.place.address)
    }

    /// Lets the relay begin, and waits until the container's network works.
    pub(crate) fn ready(&self) -> Result<(), Refusal> {
        let lost = || "hear from the network's relay".to_owned();
        self.wire.send(&"begin", &[]).refuse(Stage::Network, lost)?;
        match self
            .wire
            .recv::<Option<Refusal>>()
            .refuse(Stage::Network, lost)?
        {
            Some((None, _)) => Ok(()),
            Some((Some(refusal), _)) => Err(refusal),
            None => Err(Refusal::new(
                Stage::Network,
                "the network's relay ended early",
            )),
        }
    }

    /// The container ended: its ports are free when this returns, what is under way goes on for a
    /// moment without us.
    pub(crate) fn end(self) {
        let told = self.wire.send(&"end", &[]).is_ok();
        if !(told && self.heard_in_time()) {
            let _ = sys::send_signal(&self.pidfd, libc::SIGKILL);
        }
        let _ = sys::wait(self.pid(), libc::WNOHANG);
    }

    fn heard_in_time(&self) -> bool {
        let Ok(patience) = Timespec::try_from(PATIENCE) else {
            return false;
        };
        let mut fds = [PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
            && matches!(self.wire.recv::<String>(), Ok(Some(_)))
    }

    /// Ends it without a farewell.
    pub(crate) fn kill(self) {
        let _ = sys::send_signal(&self.pidfd, libc::SIGKILL);
        let _ = sys::wait(self.pid(), 0);
    }
}

fn open(publish: &Publish) -> io::Result<(OwnedFd, SocketAddr)> {
    match publish.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(publish.host)?;
            listener.set_nonblocking(true)?;
            let host = listener.local_addr()?;
            Ok((listener.into(), host))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(publish.host)?;
            socket.set_nonblocking(true)?;
            let host = socket.local_addr()?;
            Ok((socket.into(), host))
        }
    }
}

fn explain(publish: &Publish, error: &io::Error) -> Refusal {
    let Publish { host, protocol, .. } = publish;
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "it is taken by another program".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are for root (sysctl net.ipv4.ip_unprivileged_port_start)".to_owned()
        }
        _ => error.to_string(),
    };
    Refusal::new(
        Stage::Port,
        format!("cannot publish on port {host}/{protocol}: {why}"),
    )
}

fn no_bridge(error: io::Error) -> Refusal {
    let text = format!("no bridge for this sandbox: {error}; --network private needs none");
    Refusal::new(Stage::Network, text)
}

/// The relay process. Never returns.
fn live(prepared: Prepared, place: Option<Place>, keeper: &Wire, container: &OwnedFd) -> ! {
    if !matches!(keeper.recv::<String>(), Ok(Some(_))) {
        sys::exit_now(0);
    }
    // Where the container has no memory left, this one is not who took it, and without it the
    // container would have no network any more. For root alone.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let kind = if place.is_some() {
        "bridge"
    } else {
        "private network"
    };
    let _ = match furnish(prepared, place, keeper, container) {
        Ok(relay) => {
            let _ = keeper.send(&None::<Refusal>, &[]);
            relay.carry()
        }
        Err(error) => {
            let refusal = Refusal::new(Stage::Network, format!("no {kind}: {error}"));
            keeper.send(&Some(refusal), &[])
        }
    };
    sys::exit_now(0)
}

fn furnish(
    prepared: Prepared,
    place: Option<Place>,
    keeper: &Wire,
    container: &OwnedFd,
) -> io::Result<Relay> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // What process lists show of it.
    rustix::thread::set_name(c"devpod-network")?;
    let Prepared { wiring, opened, .. } = prepared;
    let mut kept = vec![keeper.as_fd(), container.as_fd()];
    kept.extend(opened.iter().map(|opened| opened.socket.as_fd()));
    sys::close_all_but(&kept)?;
    let most = raise_limit()?;
    let inside = Inside::enter(container.try_clone()?)?;
    let visible: Vec<u16> = wiring.visible.iter().map(|visible| visible.port).collect();
    let world = match place {
        Some(place) => {
            let address = place.address;
            bridge::connect(place, &inside)?;
            World::ByDevice(address)
        }
        None => World::ByRelay {
            v6: sockets::has_route(ANYWHERE_V6),
        },
    };
    let mouths = inside.run(move || inside::furnish(&visible, world))?;
    inside.confine()?;
    rustix::thread::set_no_new_privs(true)?;
    inside::drop_capabilities(CapabilitySet::empty())?;
    let keeper = Wire::from_fd(keeper.as_fd().try_clone_to_owned()?);
    Relay::new(keeper, inside, mouths, opened, wiring, most)
}

/// Of the range for documentation (RFC 3849): routed like everything that is elsewhere.
const ANYWHERE_V6: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    9,
);

/// Two sockets for each connection and sometimes a pipe; some for flows and what is open anyway.
fn raise_limit() -> io::Result<usize> {
    let files = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    setrlimit(Resource::Nofile, limit)?;
    let files = files.maximum.unwrap_or(u64::MAX);
    Ok((files / 4).min(CONNECTIONS) as usize)
}
