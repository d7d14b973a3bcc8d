//! The connections that a relay carries, and how many of which kind there may be.
//!
//! Those that the container makes and those that are made to its published ports have bounds of
//! their own, so that neither can keep the other from being served. A connection that is still
//! waiting for its destination's answer makes room for a new one: its sender will try again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::Syn;
use super::poll::{Slots, Watched};
use super::stream::Stream;
use super::target::Target;

/// How long a connection that was let through may take to arrive, and one without an answer keeps
/// its place from others.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How large the buffers of a further connection's sockets may be, by how many there are: the first
/// as the kernel likes, which is megabytes, for those who want them have few. The others together
/// take less than these could.
const BUFFERS: [(usize, Option<usize>); 3] = [
    (32, None),
    (512, Some(128 * 1024)),
    (usize::MAX, Some(64 * 1024)),
];

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// A program of the container.
    Outward,
    /// Somebody who asked a published port.
    Published,
}

#[derive(Debug)]
pub(super) enum State {
    /// The far side is being connected; these may be tried after it.
    Connecting(Vec<Target>),
    /// The far side is there, and the near one was let through.
    Arriving,
    Open(Stream),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) direction: Direction,
    pub(super) near: Option<Watched>,
    pub(super) far: Watched,
    pub(super) state: State,
    /// The first packet of a connection that was held.
    pub(super) held: Option<Syn>,
    /// When it came into its state.
    pub(super) since: Instant,
}

impl Connection {
    fn waits(&self) -> bool {
        self.near.is_none() && self.since.elapsed() >= PATIENCE
    }
}

/// Which side of a held connection's first packet is who.
pub(super) type Ends = (SocketAddr, SocketAddr);

/// All connections of a container.
#[derive(Debug)]
pub(super) struct Connections {
    slots: Slots<Connection>,
    /// Held connections by who asked for what.
    expected: HashMap<Ends, usize>,
    outward: Share,
    published: Share,
}

#[derive(Debug)]
struct Share {
    used: usize,
    most: usize,
}

impl Connections {
    /// At most so many; a quarter of them for published ports.
    pub(super) fn new(most: usize) -> Self {
        let published = (most / 4).max(1);
        let share = |most| Share { used: 0, most };
        Self {
            slots: Slots::default(),
            expected: HashMap::new(),
            outward: share(most.saturating_sub(published).max(1)),
            published: share(published),
        }
    }

    fn share(&mut self, direction: Direction) -> &mut Share {
        match direction {
            Direction::Outward => &mut self.outward,
            Direction::Published => &mut self.published,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }

    pub(super) fn has_room(&self, direction: Direction) -> bool {
        let share = match direction {
            Direction::Outward => &self.outward,
            Direction::Published => &self.published,
        };
        share.used < share.most
    }

    /// What the buffers of a further connection's sockets are bounded to.
    pub(super) fn buffers(&self) -> Option<usize> {
        let open = self.slots.len();
        BUFFERS.iter().find(|(below, _)| open < *below)?.1
    }

    /// Whether connections that were let through may arrive.
    pub(super) fn expects(&self) -> bool {
        !self.expected.is_empty()
    }

    /// A held connection by its ends.
    pub(super) fn held(&self, ends: Ends) -> Option<usize> {
        self.expected.get(&ends).copied()
    }

    /// A held connection whose near side is there now.
    pub(super) fn arrived(&mut self, ends: Ends) -> Option<usize> {
        self.expected.remove(&ends)
    }

    pub(super) fn insert(&mut self, make: impl FnOnce(usize) -> Connection) -> usize {
        let index = self.slots.insert(make);
        if let Some(connection) = self.slots.get_mut(index) {
            let (direction, ends) = (connection.direction, ends(connection));
            self.share(direction).used += 1;
            if let Some(ends) = ends {
                self.expected.insert(ends, index);
            }
        }
        index
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Connection> {
        self.slots.get_mut(index)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Connection> {
        let connection = self.slots.remove(index)?;
        self.share(connection.direction).used -= 1;
        if let Some(ends) = ends(&connection) {
            self.expected.remove(&ends);
        }
        Some(connection)
    }

    /// Ends those for which nobody waits any more, now that the container is gone.
    pub(super) fn forget_held(&mut self) {
        let held = self.slots.iter();
        let held = held.filter(|(_, connection)| connection.near.is_none());
        let held: Vec<_> = held.map(|(index, _)| index).collect();
        for index in held {
            self.remove(index);
        }
    }

    /// Those that were let through and did not arrive in time.
    pub(super) fn late(&self) -> Vec<usize> {
        if self.expected.is_empty() {
            return Vec::new();
        }
        let late = |connection: &Connection| {
            matches!(connection.state, State::Arriving) && connection.waits()
        };
        let all = self.slots.iter().filter(|(_, connection)| late(connection));
        all.map(|(index, _)| index).collect()
    }

    /// The connection of the container that waited longest without an answer, if it has waited long
    /// enough to make room for another.
    pub(super) fn unanswered(&self) -> Option<usize> {
        let waiting = self
            .slots
            .iter()
            .filter(|(_, connection)| connection.waits());
        let oldest = waiting.min_by_key(|(_, connection)| connection.since);
        oldest.map(|(index, _)| index)
    }
}

fn ends(connection: &Connection) -> Option<Ends> {
    connection.held.as_ref().map(|syn| (syn.from, syn.to))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::super::packet::a_syn;
    use super::super::poll::Source;
    use super::*;

    fn socket() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().unwrap().0.into()
    }

    fn held(port: u16, age: Duration) -> Connection {
        Connection {
            direction: Direction::Outward,
            near: None,
            far: Watched::new(socket(), Source::Far(0)),
            state: State::Connecting(Vec::new()),
            held: Some(a_syn(port)),
            since: Instant::now().checked_sub(age).unwrap(),
        }
    }

    fn published() -> Connection {
        Connection {
            direction: Direction::Published,
            near: Some(Watched::new(socket(), Source::Near(0))),
            held: None,
            ..held(0, Duration::ZERO)
        }
    }

    #[test]
    fn neither_direction_takes_the_other_s_room() {
        let mut all = Connections::new(8);
        for port in 1..=6 {
            assert!(all.has_room(Direction::Outward));
            all.insert(|_| held(port, Duration::ZERO));
        }
        assert!(!all.has_room(Direction::Outward));
        let mut last = 0;
        for _ in 0..2 {
            assert!(all.has_room(Direction::Published));
            last = all.insert(|_| published());
        }
        assert!(!all.has_room(Direction::Published));
        assert_eq!(all.remove(last).unwrap().direction, Direction::Published);
        assert!(all.has_room(Direction::Published) && !all.has_room(Direction::Outward));
    }

    #[test]
    fn many_connections_have_small_buffers() {
        let mut all = Connections::new(4096);
        assert_eq!(all.buffers(), None);
        for port in 0..32 {
            all.insert(|_| held(port, Duration::ZERO));
        }
        let some = all.buffers().unwrap();
        for port in 32..512 {
            all.insert(|_| held(port, Duration::ZERO));
        }
        let many = all.buffers().unwrap();
        assert!(many < some, "{many} {some}");
        // Two sockets each, two buffers each, which the kernel takes twice.
        let most = (480 * some + 3584 * many) * 2 * 2 * 2;
        assert!(most < 3 << 30, "{most}");
    }

    #[test]
    fn who_waited_long_makes_room_and_is_no_longer_expected() {
        let mut all = Connections::new(8);
        all.insert(|_| held(1, Duration::ZERO));
        assert_eq!(all.unanswered(), None);
        all.insert(|_| held(2, 2 * PATIENCE));
        let oldest = all.insert(|_| held(3, 3 * PATIENCE));
        assert_eq!(all.unanswered(), Some(oldest));
        let ends = ends(&held(3, Duration::ZERO)).unwrap();
        assert_eq!(all.held(ends), Some(oldest));
        all.remove(oldest);
        assert_eq!(all.held(ends), None);
        assert!(all.late().is_empty(), "none of them was let through");
        all.forget_held();
        assert!(all.is_empty() && !all.expects());
    }
}
