//! Datagrams: each pair of a sender and a destination is a flow with sockets of its own, so that
//! answers find their way and nobody else's packets count as answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use std::collections::HashMap;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sendto};

use super::poll::{Poll, Slots, Source, Watched};

/// The longest datagram.
const LONGEST: usize = 64 * 1024;
/// Flows of one container; the one that was silent longest makes room.
const MOST: usize = 512;
/// A flow that was silent for so long is over: twice what resolvers wait, and what QUIC keeps open.
const SILENCE: Duration = Duration::from_secs(60);
/// Datagrams that are taken before others have their turn.
const TURNS: usize = 64;

/// Who speaks to whom, as the first datagram had it.
pub(super) type Key = (SocketAddr, SocketAddr);

/// How a flow's answers leave on the host's side.
#[derive(Debug)]
pub(super) enum Outside {
    /// By a socket of the flow's own.
    Own(OwnedFd),
    /// By the published socket of this number, to this client.
    Published(usize, SocketAddr),
}

#[derive(Debug)]
struct Flow {
    key: Key,
    inside: Watched,
    outside: Side,
    used: Instant,
}

#[derive(Debug)]
enum Side {
    Own(Watched),
    Published(usize, SocketAddr),
}

/// All flows of a container.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Slots<Flow>,
    known: HashMap<Key, usize>,
    /// Where datagrams pass through.
    room: Vec<u8>,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            flows: Slots::default(),
            known: HashMap::new(),
            room: vec![0; LONGEST],
        }
    }

    /// Takes what a socket of many has. `open` makes the two sides of a new flow: the first
    /// datagram goes to the other side than the one that it came from.
    pub(super) fn take(
        &mut self,
        poll: &Poll,
        receive: impl Fn(&mut [u8]) -> io::Result<(usize, Key)>,
        mut open: impl FnMut(Key) -> io::Result<(OwnedFd, Outside)>,
    ) {
        for _ in 0..TURNS {
            let (length, key) = match receive(&mut self.room) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let index = match self.known.get(&key) {
                Some(index) => *index,
                None => match open(key).and_then(|sides| self.insert(poll, key, sides)) {
                    Ok(index) => index,
                    // As if the network had lost it.
                    Err(_) => continue,
                },
            };
            self.pass_on(index, length);
        }
    }

    fn pass_on(&mut self, index: usize, length: usize) {
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.used = Instant::now();
        let socket = match &flow.outside {
            Side::Own(outside) => &outside.fd,
            Side::Published(..) => &flow.inside.fd,
        };
        let _ = send(socket, &self.room[..length], SendFlags::DONTWAIT);
    }

    fn insert(
        &mut self,
        poll: &Poll,
        key: Key,
        (inside, outside): (OwnedFd, Outside),
    ) -> io::Result<usize> {
        if self.flows.len() >= MOST {
            self.forget_oldest();
        }
        let index = self.flows.insert(|index| Flow {
            key,
            inside: Watched::new(inside, Source::FlowInside(index)),
            outside: match outside {
                Outside::Own(fd) => Side::Own(Watched::new(fd, Source::FlowOutside(index))),
                Outside::Published(listener, client) => Side::Published(listener, client),
            },
            used: Instant::now(),
        });
        self.known.insert(key, index);
        let watched = self.flows.get_mut(index).map_or(Ok(()), |flow| {
            flow.inside.want(poll, true, false)?;
            match &mut flow.outside {
                Side::Own(outside) => outside.want(poll, true, false),
                Side::Published(..) => Ok(()),
            }
        });
        match watched {
            Ok(()) => Ok(index),
            Err(error) => {
                self.forget(index);
                Err(error)
            }
        }
    }

    /// Something came from the container in a flow.
    pub(super) fn from_inside(&mut self, index: usize, mouths: &[Watched]) {
        let room = &mut self.room;
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.used = Instant::now();
        let over = each(&flow.inside.fd, room, |datagram| match &flow.outside {
            Side::Own(outside) => drop(send(&outside.fd, datagram, SendFlags::DONTWAIT)),
            Side::Published(listener, client) => {
                if let Some(mouth) = mouths.get(*listener) {
                    let _ = sendto(&mouth.fd, datagram, SendFlags::DONTWAIT, client);
                }
            }
        });
        if over {
            self.forget(index);
        }
    }

    /// Something came from the world in a flow.
    pub(super) fn from_outside(&mut self, index: usize) {
        let room = &mut self.room;
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.used = Instant::now();
        let Side::Own(outside) = &flow.outside else {
            return;
        };
        let over = each(&outside.fd, room, |datagram| {
            let _ = send(&flow.inside.fd, datagram, SendFlags::DONTWAIT);
        });
        if over {
            self.forget(index);
        }
    }

    /// Ends silent flows; how long until the next may be.
    pub(super) fn tidy(&mut self) -> Option<Duration> {
        let old = |flow: &Flow| flow.used.elapsed() >= SILENCE;
        let silent: Vec<_> = self
            .flows
            .iter()
            .filter(|(_, flow)| old(flow))
            .map(|(index, _)| index)
            .collect();
        silent.into_iter().for_each(|index| self.forget(index));
        let oldest = self.flows.iter().map(|(_, flow)| flow.used).min()?;
        Some(SILENCE.saturating_sub(oldest.elapsed()))
    }

    fn forget_oldest(&mut self) {
        let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used);
        if let Some((index, _)) = oldest {
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(flow) = self.flows.remove(index) {
            self.known.remove(&flow.key);
        }
    }
}

/// Passes on what a socket has; `true` when its peer refuses datagrams.
fn each(socket: &OwnedFd, room: &mut [u8], pass: impl Fn(&[u8])) -> bool {
    for _ in 0..TURNS {
        match recv(socket, &mut *room, RecvFlags::DONTWAIT) {
            Ok((length, _)) => pass(&room[..length]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
    false
}
