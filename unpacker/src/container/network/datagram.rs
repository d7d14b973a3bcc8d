//! Datagrams: each pair of a sender and a destination is a flow with sockets of its own, so that
//! answers find their way and nobody else's packets count as answers.
//!
//! A service of the container may listen at one of several addresses, and nothing but a refusal
//! tells that it does not listen at one: then the next is asked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use std::collections::HashMap;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sendto, sockopt};

use super::poll::{Poll, Slots, Source, Watched};
use super::sockets;
use super::target::Question;

/// The longest datagram.
const LONGEST: usize = 64 * 1024;
/// Flows that a container makes, and as many that are made to its published ports; the one of its
/// kind that was silent longest makes room.
const MOST: usize = 512;
/// Flows that may have as large buffers as the kernel gives, and the size of others'.
const GENEROUS: usize = 64;
const BUFFER: usize = 64 * 1024;
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
    Published(Client),
}

/// Who asks a published port.
#[derive(Debug)]
pub(super) struct Client {
    /// The number of the published socket.
    pub(super) mouth: usize,
    pub(super) address: SocketAddr,
    /// Where else the service may listen, while nothing was heard of it.
    pub(super) rest: Vec<Question>,
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
    Published(Client),
}

impl Flow {
    fn is_published(&self) -> bool {
        matches!(self.outside, Side::Published(_))
    }
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
    /// datagram goes to the other side than the one that it came from. `ask` makes the inner side
    /// anew, where a service of the container refuses.
    pub(super) fn take(
        &mut self,
        poll: &Poll,
        receive: impl Fn(&mut [u8]) -> io::Result<(usize, Key)>,
        mut open: impl FnMut(Key) -> io::Result<(OwnedFd, Outside)>,
        ask: impl Fn(Question) -> io::Result<OwnedFd>,
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
            while self.pass_on(index, length) && self.ask_next(poll, index, &ask) {}
        }
    }

    /// `true` when a service of the container refused it.
    fn pass_on(&mut self, index: usize, length: usize) -> bool {
        let Some(flow) = self.flows.get_mut(index) else {
            return false;
        };
        flow.used = Instant::now();
        let datagram = &self.room[..length];
        match &flow.outside {
            Side::Own(outside) => {
                let _ = send(&outside.fd, datagram, SendFlags::DONTWAIT);
                false
            }
            Side::Published(client) => {
                let sent = send(&flow.inside.fd, datagram, SendFlags::DONTWAIT);
                if client.rest.is_empty() {
                    return false;
                }
                // Inside there is no way between: a refusal is here before the call is over. One
                // that is late is heard where answers are.
                let heard = sockopt::socket_error(&flow.inside.fd);
                sent == Err(Errno::CONNREFUSED) || heard == Ok(Err(Errno::CONNREFUSED))
            }
        }
    }

    /// Turns a flow to the next place where the service may listen; one that has none is over.
    fn ask_next(
        &mut self,
        poll: &Poll,
        index: usize,
        ask: impl Fn(Question) -> io::Result<OwnedFd>,
    ) -> bool {
        let many = self.flows.len() > GENEROUS;
        while let Some(flow) = self.flows.get_mut(index)
            && let Side::Published(Client { rest, .. }) = &mut flow.outside
            && !rest.is_empty()
        {
            let Ok(socket) = ask(rest.remove(0)) else {
                continue;
            };
            if many {
                sockets::bound(&socket, BUFFER);
            }
            flow.inside = Watched::new(socket, Source::FlowInside(index));
            if flow.inside.want(poll, true, false).is_ok() {
                return true;
            }
        }
        self.forget(index);
        false
    }

    fn insert(
        &mut self,
        poll: &Poll,
        key: Key,
        (inside, outside): (OwnedFd, Outside),
    ) -> io::Result<usize> {
        let published = matches!(outside, Outside::Published(_));
        self.make_room(published);
        if self.flows.len() >= GENEROUS {
            sockets::bound(&inside, BUFFER);
            if let Outside::Own(outside) = &outside {
                sockets::bound(outside, BUFFER);
            }
        }
        let index = self.flows.insert(|index| Flow {
            key,
            inside: Watched::new(inside, Source::FlowInside(index)),
            outside: match outside {
                Outside::Own(fd) => Side::Own(Watched::new(fd, Source::FlowOutside(index))),
                Outside::Published(client) => Side::Published(client),
            },
            used: Instant::now(),
        });
        self.known.insert(key, index);
        let watched = self.flows.get_mut(index).map_or(Ok(()), |flow| {
            flow.inside.want(poll, true, false)?;
            match &mut flow.outside {
                Side::Own(outside) => outside.want(poll, true, false),
                Side::Published(_) => Ok(()),
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

    /// Something came from the container in a flow. `ask` as in [`Self::take`].
    pub(super) fn carry_out(
        &mut self,
        index: usize,
        poll: &Poll,
        mouths: &[Watched],
        ask: impl Fn(Question) -> io::Result<OwnedFd>,
    ) {
        let room = &mut self.room;
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.used = Instant::now();
        let outside = &mut flow.outside;
        let over = each(&flow.inside.fd, room, |datagram| match outside {
            Side::Own(outside) => drop(send(&outside.fd, datagram, SendFlags::DONTWAIT)),
            Side::Published(client) => {
                // It listens here.
                client.rest.clear();
                if let Some(mouth) = mouths.get(client.mouth) {
                    let _ = sendto(&mouth.fd, datagram, SendFlags::DONTWAIT, &client.address);
                }
            }
        });
        if over {
            self.ask_next(poll, index, ask);
        }
    }

    /// Something came from the world in a flow.
    pub(super) fn carry_in(&mut self, index: usize) {
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

    /// Only flows of the same kind go for a new one.
    fn make_room(&mut self, published: bool) {
        let alike = || {
            let all = self.flows.iter();
            all.filter(move |(_, flow)| flow.is_published() == published)
        };
        if alike().count() < MOST {
            return;
        }
        let oldest = alike().min_by_key(|(_, flow)| flow.used);
        if let Some(index) = oldest.map(|(index, _)| index) {
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
fn each(socket: &OwnedFd, room: &mut [u8], mut pass: impl FnMut(&[u8])) -> bool {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn socket() -> UdpSocket {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    fn connected(to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket();
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// One flow after the other, of one datagram each, from clients with these ports.
    fn ask(flows: &mut Flows, poll: &Poll, ports: std::ops::Range<u16>, published: bool) {
        let server = socket().local_addr().unwrap();
        let next = Cell::new(ports.start);
        let receive = |_: &mut [u8]| match next.get() {
            port if port == ports.end => Err(io::ErrorKind::WouldBlock.into()),
            port => {
                next.set(port + 1);
                let client = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
                Ok((1, (client, server)))
            }
        };
        let open = |(address, _): Key| {
            let outside = match published {
                false => Outside::Own(socket().into()),
                true => Outside::Published(Client {
                    mouth: 0,
                    address,
                    rest: Vec::new(),
                }),
            };
            Ok((socket().into(), outside))
        };
        while next.get() < ports.end {
            flows.take(poll, receive, open, |_| Err(io::ErrorKind::Other.into()));
        }
    }

    #[test]
    fn flows_make_room_for_their_own_kind_only() {
        let (mut flows, poll) = (Flows::new(), Poll::new().unwrap());
        ask(&mut flows, &poll, 1..3, true);
        ask(&mut flows, &poll, 1000..1000 + MOST as u16 + 10, false);
        let count = |published| {
            let all = flows.flows.iter();
            all.filter(|(_, flow)| flow.is_published() == published)
                .count()
        };
        assert_eq!((count(true), count(false)), (2, MOST));
    }

    #[test]
    fn a_refusal_leads_to_the_next_place() {
        let (mut flows, poll) = (Flows::new(), Poll::new().unwrap());
        let (nobody, service) = (socket().local_addr().unwrap(), socket());
        service
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let at = service.local_addr().unwrap();
        let client = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7);
        let told = Cell::new(0);
        let receive = |room: &mut [u8]| {
            told.set(told.get() + 1);
            room[0] = told.get();
            match told.get() {
                1 | 2 => Ok((1, (client, nobody))),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        };
        let open = |_| {
            let rest = [nobody, at].map(|to| Question { from: client, to });
            let client = Client {
                mouth: 0,
                address: client,
                rest: rest.into(),
            };
            Ok((connected(nobody)?, Outside::Published(client)))
        };
        flows.take(&poll, receive, open, |question| connected(question.to));
        let mut room = [0; 2];
        assert_eq!(service.recv(&mut room).unwrap(), 1);
        assert_eq!(service.recv(&mut room).unwrap(), 1);
        assert_eq!(flows.flows.len(), 1);
    }
}
