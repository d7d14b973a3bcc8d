//! A disk and a content folder in memory that remember every operation, so that the state after a
//! power cut at any moment can be made: what was synced stands, of the rest any sectors may.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::digest::Digest;
use crate::store::journal::contents::{Contents, Kept};
use crate::store::journal::medium::{Medium, Part};
use crate::store::journal::record::Entry;

const SECTOR: usize = 512;

/// A small generator: the same seed gives the same run.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub(super) fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Write(Part, u64, Arc<[u8]>),
    SetLen(Part, u64),
    Sync(Part),
    /// A sync that failed: what it should have written may be lost for good, whatever later syncs
    /// say.
    FailedSync(Part),
    /// A blob got its final name, without a sync.
    Bind(Digest, Arc<[u8]>),
    Settle(Vec<Digest>),
    /// As [`Op::FailedSync`], for these blobs.
    FailedSettle(Vec<Digest>),
    Forget(String),
    /// Batch n was sent to be sealed.
    Begin(u64),
    /// Batch n was acknowledged.
    Ack(u64),
}

/// What is on the platters.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) parts: BTreeMap<Part, Vec<u8>>,
    pub(super) finals: HashMap<Digest, Arc<[u8]>>,
    /// Stand-ins; their entries and data are durable from the beginning.
    pub(super) names: BTreeMap<String, Arc<[u8]>>,
}

fn set_len(file: &mut Vec<u8>, length: u64) {
    file.resize(length as usize, 0);
}

fn write(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if file.len() < to {
        file.resize(to, 0);
    }
    file[from..to].copy_from_slice(bytes);
}

/// How much of what was not synced survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Survives {
    Nothing,
    All,
    Some,
}

impl Image {
    fn part(&mut self, part: Part) -> &mut Vec<u8> {
        let part = match part {
            Part::Segment(number) => Part::Segment(number % 2),
            Part::Index => part,
        };
        self.parts.entry(part).or_default()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(part, offset, bytes) => write(self.part(*part), *offset, bytes),
            Op::SetLen(part, length) => set_len(self.part(*part), *length),
            Op::Bind(digest, bytes) => drop(self.finals.insert(digest.clone(), Arc::clone(bytes))),
            Op::Forget(name) => drop(self.names.remove(name)),
            _ => {}
        }
    }

    /// Applies what was not synced as the power cut left it.
    fn apply_torn(&mut self, op: &Op, survives: Survives, dice: &mut Dice) {
        match (survives, op) {
            (Survives::Nothing, _) => {}
            (Survives::All, _) => self.apply(op),
            (Survives::Some, Op::Write(part, offset, bytes)) => {
                for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                    if dice.chance(2) {
                        write(self.part(*part), offset + (at * SECTOR) as u64, sector);
                    }
                }
            }
            (Survives::Some, Op::Bind(digest, _)) if dice.chance(3) => {
                // The name without the data.
                self.finals.insert(digest.clone(), Arc::from([]));
            }
            (Survives::Some, _) if dice.chance(2) => self.apply(op),
            _ => {}
        }
    }
}

/// The state after a power cut behind the first `count` operations.
pub(super) fn crash(
    base: &Image,
    ops: &[Op],
    count: usize,
    survives: Survives,
    dice: &mut Dice,
) -> Image {
    let ops = &ops[..count];
    let mut synced: BTreeMap<Part, usize> = BTreeMap::new();
    let mut lost: BTreeSet<usize> = BTreeSet::new();
    let mut settled: HashMap<&Digest, usize> = HashMap::new();
    let same = |a: Part, b: Part| match (a, b) {
        (Part::Segment(a), Part::Segment(b)) => a % 2 == b % 2,
        (a, b) => a == b,
    };
    let norm = |part: Part| match part {
        Part::Segment(number) => Part::Segment(number % 2),
        part => part,
    };
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Sync(part) => drop(synced.insert(norm(*part), at)),
            Op::FailedSync(part) => {
                let since = synced.get(&norm(*part)).copied().unwrap_or(0);
                lost.extend((since..at).filter(|at| match &ops[*at] {
                    Op::Write(of, ..) | Op::SetLen(of, _) => same(*of, *part),
                    _ => false,
                }));
            }
            Op::FailedSettle(digests) => lost.extend((0..at).filter(|at| match &ops[*at] {
                Op::Bind(of, _) => {
                    digests.contains(of) && settled.get(of).is_none_or(|settle| at > settle)
                }
                _ => false,
            })),
            Op::Settle(digests) => settled.extend(digests.iter().map(|digest| (digest, at))),
            _ => {}
        }
    }
    let mut image = base.clone();
    for (at, op) in ops.iter().enumerate() {
        let durable = match op {
            Op::Write(part, ..) | Op::SetLen(part, _) => {
                !lost.contains(&at) && synced.get(&norm(*part)).is_some_and(|sync| at < *sync)
            }
            Op::Bind(digest, _) => {
                !lost.contains(&at) && settled.get(digest).is_some_and(|settle| at < *settle)
            }
            _ => false,
        };
        if durable {
            image.apply(op);
        } else {
            image.apply_torn(op, survives, dice);
        }
    }
    image
}

/// The running disk.
#[derive(Debug)]
pub(super) struct Sim {
    pub(super) base: Image,
    pub(super) now: Image,
    pub(super) ops: Vec<Op>,
    /// Fails about every n-th operation that can fail.
    pub(super) faults: Option<(u64, Dice)>,
}

#[derive(Debug, Clone)]
pub(super) struct Handle(Arc<Mutex<Sim>>);

impl Handle {
    pub(super) fn new(base: Image) -> Self {
        Self(Arc::new(Mutex::new(Sim {
            now: base.clone(),
            base,
            ops: Vec::new(),
            faults: None,
        })))
    }

    /// What the next process finds after this one was killed behind these operations: all of it, the
    /// disk has only what was synced.
    pub(super) fn killed(base: &Image, ops: &[Op]) -> Self {
        let handle = Self::new(base.clone());
        for op in ops {
            handle.note(op.clone());
        }
        handle
    }

    pub(super) fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    pub(super) fn note(&self, op: Op) {
        let mut sim = self.sim();
        sim.now.apply(&op);
        sim.ops.push(op);
    }

    /// A stand-in whose name and data are durable.
    pub(super) fn stand_in(&self, name: &str, bytes: &[u8]) {
        let mut sim = self.sim();
        let bytes: Arc<[u8]> = bytes.into();
        sim.base.names.insert(name.to_owned(), Arc::clone(&bytes));
        sim.now.names.insert(name.to_owned(), bytes);
    }

    fn fault(&self) -> bool {
        match &mut self.sim().faults {
            Some((often, dice)) => dice.chance(*often),
            None => false,
        }
    }
}

impl Medium for Handle {
    fn len(&self, part: Part) -> io::Result<u64> {
        Ok(self.sim().now.part(part).len() as u64)
    }

    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sim = self.sim();
        let file = sim.now.part(part);
        let rest = file.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        out[count..].fill(0);
        Ok(())
    }

    fn write(&self, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fault() {
            // A short write: the front is there.
            let half = &bytes[..bytes.len() / 2];
            self.note(Op::Write(part, offset, half.into()));
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.note(Op::Write(part, offset, bytes.into()));
        Ok(())
    }

    fn set_len(&self, part: Part, length: u64) -> io::Result<()> {
        self.note(Op::SetLen(part, length));
        Ok(())
    }

    fn sync(&self, part: Part) -> io::Result<()> {
        if self.fault() {
            self.note(Op::FailedSync(part));
            return Err(io::Error::from_raw_os_error(5));
        }
        self.note(Op::Sync(part));
        Ok(())
    }

    fn reserve(&self) {}

    fn allocate(&self, _: &mut dyn Iterator<Item = u64>) -> io::Result<()> {
        if self.fault() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Now and then.
    fn is_short(&self) -> bool {
        self.sim().ops.len().is_multiple_of(3)
    }
}

impl Contents for Handle {
    fn restore(&self, entry: &Entry) -> io::Result<()> {
        let bytes: Arc<[u8]> = match entry {
            Entry::Bytes { bytes, .. } => bytes.as_slice().into(),
            Entry::Named { name, .. } => match self.sim().now.names.get(name) {
                Some(bytes) => Arc::clone(bytes),
                None => return Ok(()),
            },
        };
        self.note(Op::Bind(entry.digest().clone(), bytes));
        Ok(())
    }

    fn settle(&self, kept: &[Kept]) -> io::Result<()> {
        let digests = kept.iter().map(|kept| kept.digest.clone()).collect();
        if self.fault() {
            self.note(Op::FailedSettle(digests));
            return Err(io::Error::from_raw_os_error(5));
        }
        self.note(Op::Settle(digests));
        Ok(())
    }

    fn forget(&self, kept: &[Kept]) {
        for name in kept.iter().filter_map(|kept| kept.name.clone()) {
            self.note(Op::Forget(name));
        }
    }
}
