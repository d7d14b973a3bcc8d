//! Which descriptors the relay waits for, and for what.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// How many events are taken at a time.
const BATCH: usize = 128;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Whoever watches the container.
    Keeper,
    /// Held packets.
    Hold,
    /// A listener, by number.
    Listener(usize),
    /// A socket for datagrams of many, by number.
    Mouth(usize),
    /// The side of a connection that came to us.
    Near(usize),
    /// The side that we made.
    Far(usize),
    /// The side of a flow of datagrams that is inside.
    FlowInside(usize),
    FlowOutside(usize),
}

impl Source {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Keeper => (0, 0),
            Self::Hold => (1, 0),
            Self::Listener(index) => (2, index),
            Self::Mouth(index) => (3, index),
            Self::Near(index) => (4, index),
            Self::Far(index) => (5, index),
            Self::FlowInside(index) => (6, index),
            Self::FlowOutside(index) => (7, index),
        };
        (index as u64) << 3 | kind
    }

    fn unpack(bits: u64) -> Self {
        let index = (bits >> 3) as usize;
        match bits & 7 {
            0 => Self::Keeper,
            1 => Self::Hold,
            2 => Self::Listener(index),
            3 => Self::Mouth(index),
            4 => Self::Near(index),
            5 => Self::Far(index),
            6 => Self::FlowInside(index),
            _ => Self::FlowOutside(index),
        }
    }
}

/// The set of watched descriptors.
#[derive(Debug)]
pub(super) struct Poll(OwnedFd);

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for something to do; `None` for as long as it takes.
    pub(super) fn wait(&self, patience: Option<Duration>) -> io::Result<Vec<Source>> {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        let patience = patience
            .map(|patience| rustix::event::Timespec::try_from(patience).unwrap_or_default());
        match epoll::wait(
            &self.0,
            rustix::buffer::spare_capacity(&mut events),
            patience.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events
            .iter()
            .map(|event| Source::unpack(event.data.u64()))
            .collect())
    }
}

/// A descriptor that is watched only while something is wanted of it: one that has hung up would
/// otherwise be told again and again.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) fd: OwnedFd,
    source: Source,
    wanted: EventFlags,
}

impl Watched {
    pub(super) fn new(fd: OwnedFd, source: Source) -> Self {
        Self {
            fd,
            source,
            wanted: EventFlags::empty(),
        }
    }

    /// Watches for these from now on.
    pub(super) fn want(&mut self, poll: &Poll, read: bool, write: bool) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, read);
        wanted.set(EventFlags::OUT, write);
        if wanted == self.wanted {
            return Ok(());
        }
        let data = EventData::new_u64(self.source.pack());
        match (self.wanted.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(&poll.0, &self.fd, data, wanted)?,
            (false, true) => epoll::delete(&poll.0, &self.fd)?,
            (false, false) => epoll::modify(&poll.0, &self.fd, data, wanted)?,
        }
        self.wanted = wanted;
        Ok(())
    }
}

/// Things with small numbers that are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    used: BTreeMap<usize, T>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            used: BTreeMap::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    pub(super) fn insert(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        let index = self.free.pop().unwrap_or(self.used.len());
        self.used.insert(index, make(index));
        index
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.used.get_mut(&index)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<T> {
        let taken = self.used.remove(&index)?;
        self.free.push(index);
        Some(taken)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.used.iter().map(|(index, thing)| (*index, thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_their_packing() {
        for source in [
            Source::Keeper,
            Source::Hold,
            Source::Listener(3),
            Source::Mouth(1),
            Source::Near(4095),
            Source::Far(0),
            Source::FlowInside(77),
            Source::FlowOutside(78),
        ] {
            assert_eq!(Source::unpack(source.pack()), source);
        }
    }

    #[test]
    fn numbers_are_used_again() {
        let mut slots = Slots::default();
        let first = slots.insert(|index| index);
        let second = slots.insert(|index| index);
        assert_ne!(first, second);
        assert_eq!(slots.remove(first), Some(first));
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.insert(|index| index), first);
        assert_eq!(slots.len(), 2);
    }
}
