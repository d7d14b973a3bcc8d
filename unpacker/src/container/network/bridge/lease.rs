//! Who has which address of a bridge: a file for each, locked by the process that watches its
//! container. So what a crash leaves is free.
//!
//! ```text
//! <data>/bridge/subnet              the bridge's addresses, while it is there
//! <data>/bridge/lease.10.187.7.2    one that is given out
//! ```
//!
//! Everything here is done under one lock of the host's: bridges of other data folders are not to
//! take the same addresses, and the last lease is not to go while another comes.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use config::subnet::Subnet;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::super::files;
use super::super::spec::Wiring;
use super::{Bridge, Place, links, no_ipv6, probe, step, subnet, table};

/// Root's alone, so nobody else can keep it.
const LOCK: &str = "/run/devpod-bridge.lock";
const SUBNET: &str = "subnet";
const LEASE: &str = "lease.";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// An address of a bridge, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) place: Place,
    /// Locked.
    _file: OwnedFd,
}

impl Lease {
    /// Takes one, and makes the bridge what it is to be.
    pub(crate) fn take(wiring: &Wiring) -> io::Result<Self> {
        probe::privileged().map_err(io::Error::other)?;
        let folder = wiring.bridge.folder.as_deref();
        let folder = folder.ok_or_else(|| io::Error::other("no folder for its leases is known"))?;
        let bridge = Bridge::of(folder);
        let _alone = lock()?;
        make_folder(folder).map_err(|e| step("make the folder of its leases", &e))?;
        let held = bridge.held()?;
        let subnet = bridge.raise(&held, wiring)?;
        let address = subnet::free_address(subnet, &held).ok_or_else(|| {
            io::Error::other(format!("every address of its subnet {subnet} is taken"))
        })?;
        let path = folder.join(format!("{LEASE}{address}"));
        let file = File::create(&path)?.into();
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self {
            place: Place {
                bridge,
                subnet,
                address,
            },
            _file: file,
        })
    }
}

impl Drop for Lease {
    /// What cannot be taken away now is swept later.
    fn drop(&mut self) {
        let Ok(_alone) = lock() else { return };
        let Place {
            bridge, address, ..
        } = &self.place;
        let _ = bridge.forget(*address);
        if let Ok(held) = bridge.held()
            && held.is_empty()
        {
            let _ = bridge.lower();
        }
    }
}

/// Takes away what a crash left of the bridge whose leases are in `folder`.
pub fn sweep(folder: &Path) -> io::Result<()> {
    if probe::privileged().is_err() || !folder.try_exists()? {
        return Ok(());
    }
    let bridge = Bridge::of(folder);
    let _alone = lock()?;
    match bridge.held()?.is_empty() {
        true => bridge.lower(),
        false => Ok(()),
    }
}

impl Bridge {
    /// The addresses that somebody has; files of others go, and the devices of those.
    fn held(&self) -> io::Result<Vec<Ipv4Addr>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix(LEASE));
            let Some(address) = name.and_then(|text| text.parse::<Ipv4Addr>().ok()) else {
                continue;
            };
            match flock(
                File::open(entry.path())?,
                FlockOperation::NonBlockingLockExclusive,
            ) {
                Ok(()) => self.forget(address)?,
                Err(Errno::WOULDBLOCK) => held.push(address),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(held)
    }

    /// Takes one container's traces away.
    fn forget(&self, address: Ipv4Addr) -> io::Result<()> {
        // The namespace takes it along a moment later; by then the address may be another's.
        links::delete(&self.device(address))?;
        fs::remove_file(self.folder.join(format!("{LEASE}{address}")))
    }

    /// Makes the bridge, unless there is one with containers on it; answers its subnet.
    fn raise(&self, held: &[Ipv4Addr], wiring: &Wiring) -> io::Result<Subnet> {
        if held.is_empty() {
            self.lower()?;
        }
        let file = self.folder.join(SUBNET);
        let known = fs::read_to_string(&file).ok();
        let subnet = match known.and_then(|text| text.trim().parse().ok()) {
            Some(subnet) => subnet,
            None => {
                let subnet = self.choose(wiring)?;
                fs::write(&file, format!("{subnet}\n"))?;
                subnet
            }
        };
        let made = self.make(subnet, wiring);
        if made.is_err() && held.is_empty() {
            let _ = self.lower();
        }
        made.map(|()| subnet)
    }

    fn choose(&self, wiring: &Wiring) -> io::Result<Subnet> {
        let mut used = links::routes().map_err(|e| step("read this host's routes", &e))?;
        // A name server that is reached by the default route is to stay so.
        used.extend(files::host_resolvers().into_iter().filter_map(subnet::only));
        subnet::choose(wiring.bridge.subnet, self.seed(), &used).map_err(io::Error::other)
    }

    fn make(&self, subnet: Subnet, wiring: &Wiring) -> io::Result<()> {
        let name = self.name();
        // Before there is a way through.
        table::install(&name, subnet, wiring)
            .map_err(|e| step("set up the packet filter (nf_tables with nft_masq)", &e))?;
        if links::index(&name)?.is_none() {
            links::bridge(&name, self.hardware_address())
                .map_err(|e| step("make the bridge", &e))?;
            no_ipv6(&name).map_err(|e| step("keep the bridge from IPv6", &e))?;
            links::give_address(&name, subnet.gateway(), subnet.bits())
                .and_then(|()| links::up(&name))
                .map_err(|e| step("give the bridge its address", &e))?;
        }
        forward().map_err(|e| step("let this host forward (net.ipv4.ip_forward=1)", &e))
    }

    /// Takes the bridge away.
    fn lower(&self) -> io::Result<()> {
        links::delete(&self.name())?;
        table::remove(&self.name())?;
        match fs::remove_file(self.folder.join(SUBNET)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

fn forward() -> io::Result<()> {
    if fs::read_to_string(FORWARDING)?.trim() == "1" {
        return Ok(());
    }
    fs::write(FORWARDING, "1")
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Err(Errno::EXIST) => Ok(()),
        done => Ok(done?),
    }
}

fn lock() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = rustix::fs::open(LOCK, flags, Mode::RUSR | Mode::WUSR);
    let locked = opened.and_then(|file| flock(&file, FlockOperation::LockExclusive).map(|()| file));
    locked.map_err(|error| step(&format!("lock {LOCK}"), &error.into()))
}
