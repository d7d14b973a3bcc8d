//! The loop of the relay process: connections and datagrams between a container and the world.
//!
//! It is bounded in connections, flows and memory, waits for nothing but its one poll, and knows
//! no container: what it is given are sockets. Decisions about destinations are [`super::policy`]'s.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, getpeername, getsockname, sockopt};

use super::super::wire::Wire;
use super::connections::{Connection, Connections, Direction, PATIENCE, State};
use super::datagram::{Client, Flows, Outside};
use super::hold::Hold;
use super::host::ThisHost;
use super::inside::{Inside, Mouths};
use super::packet::Syn;
use super::poll::{Poll, Source, Watched};
use super::spec::{Protocol, Wiring};
use super::stream::{Pipes, Stream, break_off};
use super::target::{Question, Target, container_questions, container_targets};
use super::{policy, sockets};

/// Connections that are accepted before others have their turn.
const TURNS: usize = 64;
/// How long connections of a container that ended may take to hand over what they hold.
const FAREWELL: Duration = Duration::from_secs(5);
/// A pause after the system refused a descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// A published port as it was opened on the host.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: OwnedFd,
    /// Inside.
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

#[derive(Debug, Clone, Copy)]
enum Listener {
    /// Connections of the container to anywhere.
    Outward,
    /// Connections of the world to this port inside.
    Published(u16),
}

impl Listener {
    fn direction(self) -> Direction {
        match self {
            Self::Outward => Direction::Outward,
            Self::Published(_) => Direction::Published,
        }
    }
}

#[derive(Debug)]
enum Mouth {
    Outward,
    Published(u16),
}

pub(super) struct Relay {
    keeper: Wire,
    keeper_watch: Watched,
    inside: Inside,
    wiring: Wiring,
    poll: Poll,
    listeners: Vec<(Watched, Listener)>,
    mouths: Vec<Watched>,
    mouth_kinds: Vec<Mouth>,
    hold: Option<(Hold, Watched)>,
    connections: Connections,
    flows: Flows,
    pipes: Pipes,
    paused: Option<Instant>,
    farewell: Option<Instant>,
}

impl Relay {
    pub(super) fn new(
        keeper: Wire,
        inside: Inside,
        mouths: Mouths,
        opened: Vec<Opened>,
        wiring: Wiring,
        most: usize,
    ) -> io::Result<Self> {
        let keeper_fd = std::os::fd::AsFd::as_fd(&keeper).try_clone_to_owned()?;
        let mut relay = Self {
            keeper,
            keeper_watch: Watched::new(keeper_fd, Source::Keeper),
            inside,
            wiring,
            poll: Poll::new()?,
            listeners: Vec::new(),
            mouths: Vec::new(),
            mouth_kinds: Vec::new(),
            hold: None,
            connections: Connections::new(most),
            flows: Flows::new(),
            pipes: Pipes::default(),
            paused: None,
            farewell: None,
        };
        relay.keeper_watch.want(&relay.poll, true, false)?;
        for socket in mouths.connections {
            relay.listen(socket, Listener::Outward)?;
        }
        for socket in mouths.datagrams {
            relay.open_mouth(socket, Mouth::Outward)?;
        }
        for Opened {
            socket,
            port,
            protocol,
        } in opened
        {
            match protocol {
                Protocol::Tcp => relay.listen(socket, Listener::Published(port))?,
                Protocol::Udp => relay.open_mouth(socket, Mouth::Published(port))?,
            }
        }
        if let Some(hold) = mouths.hold {
            let mut watched = Watched::new(hold.told.try_clone()?, Source::Hold);
            watched.want(&relay.poll, true, false)?;
            relay.hold = Some((hold, watched));
        }
        Ok(relay)
    }

    fn listen(&mut self, socket: OwnedFd, kind: Listener) -> io::Result<()> {
        let mut watched = Watched::new(socket, Source::Listener(self.listeners.len()));
        watched.want(&self.poll, true, false)?;
        self.listeners.push((watched, kind));
        Ok(())
    }

    fn open_mouth(&mut self, socket: OwnedFd, kind: Mouth) -> io::Result<()> {
        let mut watched = Watched::new(socket, Source::Mouth(self.mouths.len()));
        watched.want(&self.poll, true, false)?;
        self.mouths.push(watched);
        self.mouth_kinds.push(kind);
        Ok(())
    }

    /// Carries until whoever watches the container says that it ended, and then what is under way.
    pub(super) fn carry(mut self) -> io::Result<()> {
        loop {
            let patience = self.patience();
            let sources = self.poll.wait(patience)?;
            for source in sources {
                match source {
                    Source::Keeper => match self.keeper.recv::<String>() {
                        Ok(Some(_)) => self.say_farewell(),
                        _ => return Ok(()),
                    },
                    Source::Hold => self.take_held(),
                    Source::Listener(index) => self.accept(index),
                    Source::Mouth(index) => self.take_datagrams(index),
                    Source::Near(index) => self.carry_one(index),
                    Source::Far(index) => self.far_ready(index),
                    Source::FlowInside(index) => {
                        let ask = |question: Question| question.ask(&self.inside);
                        self.flows.carry_out(index, &self.poll, &self.mouths, ask);
                    }
                    Source::FlowOutside(index) => self.flows.carry_in(index),
                }
            }
            self.tidy();
            let over = |since: Instant| since.elapsed() >= FAREWELL || self.connections.is_empty();
            if self.farewell.is_some_and(over) {
                return Ok(());
            }
        }
    }

    /// How long nothing needs to be done unless somebody speaks.
    fn patience(&mut self) -> Option<Duration> {
        let flows = self.flows.tidy();
        let arrival = self.connections.expects().then_some(PATIENCE);
        let pause = self.paused.map(|_| PAUSE);
        let farewell = self
            .farewell
            .map(|since| FAREWELL.saturating_sub(since.elapsed()));
        [flows, arrival, pause, farewell]
            .into_iter()
            .flatten()
            .min()
    }

    /// The container ended: its ports are free for the next, what was said is still delivered.
    fn say_farewell(&mut self) {
        self.listeners.clear();
        self.mouths.clear();
        self.mouth_kinds.clear();
        self.hold = None;
        self.connections.forget_held();
        self.flows = Flows::new();
        self.farewell = Some(Instant::now());
        // Whoever watches goes when it has heard this, and is not to take this process along.
        let _ = rustix::process::set_parent_process_death_signal(None);
        let _ = self.keeper.send(&"free", &[]);
        let _ = self.keeper_watch.want(&self.poll, false, false);
    }

    fn tidy(&mut self) {
        for index in self.connections.late() {
            self.close(index);
        }
        if self.paused.is_none_or(|since| since.elapsed() >= PAUSE) {
            self.paused = None;
            for (listener, kind) in &mut self.listeners {
                let takes = takes(&self.connections, kind.direction());
                let _ = listener.want(&self.poll, takes, false);
            }
        }
    }

    /// Others wait in the kernel's queue.
    fn stop_listening(&mut self, direction: Option<Direction>) {
        for (listener, kind) in &mut self.listeners {
            if direction.is_none_or(|direction| direction == kind.direction()) {
                let _ = listener.want(&self.poll, false, false);
            }
        }
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..TURNS {
            let Some((listener, kind)) = self.listeners.get(index) else {
                return;
            };
            let kind = *kind;
            if !takes(&self.connections, kind.direction()) {
                return self.stop_listening(Some(kind.direction()));
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (socket, peer) = match acceptfrom_with(&listener.fd, flags) {
                Ok((socket, peer)) => (
                    socket,
                    peer.and_then(|peer| SocketAddr::try_from(peer).ok()),
                ),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.paused = Some(Instant::now());
                    return self.stop_listening(None);
                }
                Err(_) => return,
            };
            let Some(peer) = peer else { continue };
            let _ = sockopt::set_socket_keepalive(&socket, true);
            self.bound(&socket);
            match kind {
                Listener::Outward => self.accepted_outward(socket, peer),
                Listener::Published(port) => {
                    let targets = container_targets(peer, &self.wiring, port);
                    self.connect(Direction::Published, Some(socket), targets, None);
                }
            }
        }
    }

    fn accepted_outward(&mut self, socket: OwnedFd, peer: SocketAddr) {
        let wanted = getsockname(&socket)
            .ok()
            .and_then(|at| SocketAddr::try_from(at).ok());
        let Some(wanted) = wanted else { return };
        if let Some(index) = self.connections.arrived((peer, wanted)) {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.near = Some(Watched::new(socket, Source::Near(index)));
                connection.held = None;
                connection.state = State::Open(Stream::default());
            }
            return self.carry_one(index);
        }
        // It was not held: the kernel cannot, or somebody inside went past.
        if !self.connections.has_room(Direction::Outward) {
            return break_off(Watched::new(socket, Source::Near(0)));
        }
        self.connect(Direction::Outward, Some(socket), self.ways(wanted), None);
    }

    fn ways(&self, wanted: SocketAddr) -> Vec<Target> {
        let way = policy::way(&self.wiring, Protocol::Tcp, wanted, &ThisHost);
        way.map(Target::World).into_iter().collect()
    }

    /// One of many connections has small buffers.
    fn bound(&self, socket: &OwnedFd) {
        if let Some(most) = self.connections.buffers() {
            sockets::bound(socket, most);
        }
    }

    fn take_held(&mut self) {
        let held = self
            .hold
            .as_ref()
            .map(|(hold, _)| hold.take())
            .unwrap_or_default();
        for syn in held {
            if let Some(index) = self.connections.held((syn.from, syn.to)) {
                self.repeat(index);
                continue;
            }
            // Without room for it, it will be sent again.
            if self.make_room() {
                let targets = self.ways(syn.to);
                self.connect(Direction::Outward, None, targets, Some(syn));
            }
        }
    }

    /// Whether one more connection of the container has a place, which may be that of one whose
    /// destination does not answer.
    fn make_room(&mut self) -> bool {
        if self.connections.has_room(Direction::Outward) {
            return true;
        }
        let waiting = self.connections.unanswered();
        waiting.is_some_and(|index| self.connections.remove(index).is_some())
    }

    /// A sender repeats itself: perhaps our letting through was lost.
    fn repeat(&mut self, index: usize) {
        let (Some((hold, _)), Some(connection)) = (&self.hold, self.connections.get_mut(index))
        else {
            return;
        };
        if let (State::Arriving, Some(syn)) = (&connection.state, &connection.held) {
            hold.let_through(syn);
        }
    }

    /// Begins a connection to the first target that does not fail at once.
    fn connect(
        &mut self,
        direction: Direction,
        near: Option<OwnedFd>,
        targets: Vec<Target>,
        held: Option<Syn>,
    ) {
        let Some((far, rest)) = self.begin(targets) else {
            return self.refuse(
                near.map(|near| Watched::new(near, Source::Near(0))),
                held.as_ref(),
            );
        };
        let index = self.connections.insert(|index| Connection {
            direction,
            near: near.map(|near| Watched::new(near, Source::Near(index))),
            far: Watched::new(far, Source::Far(index)),
            state: State::Connecting(rest),
            held,
            since: Instant::now(),
        });
        self.await_far(index);
    }

    fn begin(&self, targets: Vec<Target>) -> Option<(OwnedFd, Vec<Target>)> {
        let mut rest = targets.into_iter();
        while let Some(target) = rest.next() {
            if let Ok(socket) = target.connect(&self.inside) {
                self.bound(&socket);
                return Some((socket, rest.collect()));
            }
        }
        None
    }

    fn await_far(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.far.want(&self.poll, false, true).is_err() {
            self.close(index);
        }
    }

    fn far_ready(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let State::Connecting(rest) = &mut connection.state else {
            return self.carry_one(index);
        };
        let rest = std::mem::take(rest);
        match sockopt::socket_error(&connection.far.fd) {
            Ok(Ok(())) if getpeername(&connection.far.fd).is_ok() => self.connected(index),
            // An event of a connection that had this number before.
            Ok(Ok(())) => connection.state = State::Connecting(rest),
            _ => self.try_next(index, rest),
        }
    }

    fn try_next(&mut self, index: usize, rest: Vec<Target>) {
        match self.begin(rest) {
            Some((far, rest)) => {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.far = Watched::new(far, Source::Far(index));
                    connection.state = State::Connecting(rest);
                }
                self.await_far(index);
            }
            None => self.close(index),
        }
    }

    fn connected(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let (Some(syn), Some((hold, _))) = (&connection.held, &self.hold) {
            connection.state = State::Arriving;
            connection.since = Instant::now();
            let _ = connection.far.want(&self.poll, false, false);
            return hold.let_through(syn);
        }
        connection.state = State::Open(Stream::default());
        self.carry_one(index);
    }

    fn carry_one(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let (Some(near), State::Open(stream)) = (&mut connection.near, &mut connection.state)
        else {
            return;
        };
        match stream.carry(near, &mut connection.far, &mut self.pipes, &self.poll) {
            Ok(false) => {}
            Ok(true) => drop(self.connections.remove(index)),
            Err(_) => self.close(index),
        }
    }

    /// Ends a connection before its end: both sides see a failure.
    fn close(&mut self, index: usize) {
        if let Some(Connection {
            near, far, held, ..
        }) = self.connections.remove(index)
        {
            break_off(far);
            self.refuse(near, held.as_ref());
        }
    }

    fn refuse(&self, near: Option<Watched>, held: Option<&Syn>) {
        if let Some(near) = near {
            break_off(near);
        }
        if let (Some((hold, _)), Some(syn)) = (&self.hold, held) {
            hold.refuse(syn);
        }
    }

    fn take_datagrams(&mut self, index: usize) {
        let (Some(mouth), Some(kind)) = (self.mouths.get(index), self.mouth_kinds.get(index))
        else {
            return;
        };
        let (wiring, inside) = (&self.wiring, &self.inside);
        let ask = |question: Question| question.ask(inside);
        match *kind {
            Mouth::Outward => self.flows.take(
                &self.poll,
                |room| {
                    sockets::receive(&mouth.fd, room).map(|(length, from, to)| (length, (from, to)))
                },
                |(from, to)| {
                    let way = policy::way(wiring, Protocol::Udp, to, &ThisHost);
                    let way = way.ok_or(io::ErrorKind::PermissionDenied)?;
                    let outside = sockets::datagrams_to(way.to)?;
                    let answers = inside.run(move || sockets::datagrams_as(to, from))?;
                    Ok((answers, Outside::Own(outside)))
                },
                ask,
            ),
            Mouth::Published(port) => self.flows.take(
                &self.poll,
                |room| sockets::receive_from(&mouth.fd, room),
                |(client, _)| {
                    let mut rest = container_questions(client, wiring, port).into_iter();
                    let asking = rest.find_map(|question| ask(question).ok());
                    let asking = asking.ok_or(io::ErrorKind::Unsupported)?;
                    let client = Client {
                        mouth: index,
                        address: client,
                        rest: rest.collect(),
                    };
                    Ok((asking, Outside::Published(client)))
                },
                ask,
            ),
        }
    }
}

/// Whether a further connection of this direction is accepted. One of the container's that was let
/// through has its place already.
fn takes(connections: &Connections, direction: Direction) -> bool {
    let arrives = direction == Direction::Outward && connections.expects();
    connections.has_room(direction) || arrives
}
