//! One sync for a batch of writes, whatever they touch.
//!
//! A request that changes the registry changes rows of the index and often a blob file. Synced where
//! they lie, that is four syncs: the file, its folder, and two for redb's commit. Instead, each
//! batch of the index's writer becomes one record of a journal, appended and synced once: the pages
//! that redb wrote, the bytes of small blobs, and the durable stand-in names of large ones. Then
//! the blobs get their final names, without a sync, and the callers their answers. A checkpoint
//! brings all that to where it belongs, in the background.
//!
//! ```text
//! <index>                    registry.redb, behind by what the segments hold
//! <index stem>.journal.0/.1  segments that take turns; see `record`
//! <content>/uploads/p-…      stand-in names of unfinished blobs; see `store::pool`
//! ```
//!
//! ```text
//! aside       copies of what is given up
//! medium      the three files, as a trait, so that a simulated disk can lose power
//! record      bytes of segments and records; pure
//! overlay     pages that the index file lacks, in layers
//! segment     reading and beginning a segment
//! backend     redb's door
//! checkpoint  the thread that empties the older segment
//! recover     what an open does with what it finds
//! home        what a checkpoint does
//! contents    names and syncs of blob files
//! ```
//!
//! What holds: (1) A record is appended only behind synced ones, and nothing is answered before
//! it is synced. (2) A segment begins its next turn only after a checkpoint made everything in it
//! durable elsewhere. (3) Replaying a checkpointed record again changes nothing that later records
//! do not set right, so a crash at any point, also during a recovery, is recovered by replaying both
//! segments in order. (4) While the index needs a journal it says which, beyond redb's header in
//! page 0; after a clean close it needs none and is a plain redb file. (5) A file is given its final
//! name only after its record is synced, so what stands under a final name is whole.

mod aside;
mod backend;
mod checkpoint;
mod contents;
mod home;
mod medium;
mod overlay;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use self::contents::Contents;
use self::medium::{Medium, Part};
use self::overlay::{Overlay, PAGE};
use self::record::{Head, Record, Sum};
use crate::store::step::{Step, Steps};

pub(crate) use self::aside::keep_aside;
pub(crate) use self::backend::Backend;
pub(crate) use self::checkpoint::{Journal, lock};
pub(crate) use self::contents::{Folder, Kept, Naming};
pub(crate) use self::medium::{Disk, folder_of};
pub(crate) use self::record::Entry;
pub use self::recover::JournalError;

/// When segments turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A segment of this many bytes is checkpointed as soon as the other one is free.
    pub(crate) turn: u64,
    /// At this many bytes writers wait for that. A single batch may be larger.
    pub(crate) full: u64,
    /// What is sealed is checkpointed once nothing was sealed for this long, so that it is not in
    /// the way of a push.
    pub(crate) quiet: Duration,
    /// And after this long in any case.
    pub(crate) age: Duration,
}

impl Default for Limits {
    /// Both segments together hold at most 24 MiB of pages, of which memory keeps a copy; with
    /// redb's cache that is half of what the server may use.
    fn default() -> Self {
        Self {
            turn: 8 << 20,
            full: 16 << 20,
            quiet: Duration::from_secs(5),
            age: Duration::from_secs(60),
        }
    }
}

/// The journal's state. Without [`Journal`]'s thread a full segment is checkpointed by the writer
/// that finds it so.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) medium: Box<dyn Medium>,
    contents: Box<dyn Contents>,
    overlay: RwLock<Overlay>,
    turns: Mutex<Turns>,
    turned: Condvar,
    steps: Steps,
    limits: Limits,
}

#[derive(Debug)]
struct Turns {
    /// The segment that records go to.
    active: Segment,
    /// Where the next record goes, and its sequence.
    end: u64,
    next: u64,
    /// An append failed: what stands at `end` is unknown, so nothing may follow it there.
    spoiled: bool,
    /// When the first and the last record of the active segment were sealed.
    since: Option<(Instant, Instant)>,
    /// What a checkpoint has to bring home before the other file can be used, and the sequence
    /// after its last record.
    frozen: Option<(Segment, u64)>,
    /// Why the last checkpoint failed.
    failure: Option<io::ErrorKind>,
    /// The next attempt is not to wait.
    hurry: bool,
    /// Blobs of batches that failed, whose records may stand all the same until the next turn.
    doubtful: Vec<Kept>,
    threaded: bool,
    closing: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    head: Head,
    kept: Vec<Kept>,
    /// A file did not get its name or a sync failed: bring everything home anew from the records.
    suspect: bool,
    /// Everything is home and synced; only the segment's space is still to be given back.
    home: bool,
}

impl Segment {
    fn new(head: Head) -> Self {
        Self {
            head,
            kept: Vec::new(),
            suspect: false,
            home: false,
        }
    }
}

impl Core {
    fn new(
        medium: Box<dyn Medium>,
        contents: Box<dyn Contents>,
        head: Head,
        steps: Steps,
        limits: Limits,
    ) -> io::Result<Self> {
        let length = medium.len(Part::Index)?;
        Ok(Self {
            medium,
            contents,
            overlay: RwLock::new(Overlay::new(length)),
            turns: Mutex::new(Turns {
                end: PAGE as u64,
                next: head.first,
                active: Segment::new(head),
                spoiled: false,
                since: None,
                frozen: None,
                failure: None,
                hurry: false,
                doubtful: Vec::new(),
                threaded: false,
                closing: false,
            }),
            turned: Condvar::new(),
            steps,
            limits,
        })
    }

    fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The overlay for the database that was opened in `epoch`. One of an earlier epoch has pages in
    /// memory that never became durable; until it is retired it may read for snapshots of sealed
    /// commits, which stay right as long as nobody else writes.
    fn reading(&self, epoch: u64) -> io::Result<RwLockReadGuard<'_, Overlay>> {
        let overlay = self.overlay();
        current(overlay.readable <= epoch).map(|()| overlay)
    }

    /// The overlay for a write of the database that was opened in `epoch`, which must be this one.
    fn changing(&self, epoch: u64) -> io::Result<RwLockWriteGuard<'_, Overlay>> {
        let overlay = self.overlay_mut();
        current(overlay.epoch == epoch).map(|()| overlay)
    }

    /// Makes all that redb wrote since the last seal durable, and `entries` with it; then `name`
    /// gives the entries' blobs their final names and answers whether all got theirs: no checkpoint
    /// may come between. After an error the index is what it was at the last seal, and must be
    /// opened again.
    pub(crate) fn seal(&self, entries: Vec<Entry>, name: impl FnOnce() -> bool) -> io::Result<()> {
        let kept: Vec<Kept> = entries.iter().map(Kept::of).collect();
        let sealed = self.append(entries, &kept, name);
        if sealed.is_err() {
            self.discard();
            let mut turns = self.turns();
            turns.doubtful.extend(kept);
            // Its record may stand: better it does not outlive what its callers were told. Where this
            // fails the next batch tries again.
            if turns.spoiled && turns.frozen.is_none() {
                let _ = self.turn(&mut turns);
            }
        }
        sealed
    }

    /// Drops what is not sealed. The database over it must be opened again.
    pub(crate) fn discard(&self) {
        self.overlay_mut().discard();
    }

    /// Nobody reads any more through databases of earlier epochs. Before they are closed, which
    /// would mix their pages with those that are sealed.
    pub(crate) fn retire(&self) {
        self.overlay_mut().retire();
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        kept: &[Kept],
        name: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        if entries.is_empty() && !self.overlay().has_pending() {
            return Ok(());
        }
        let mut turns = self.room()?;
        let (layer, length) = self.overlay_mut().start_seal();
        let record = Record {
            sequence: turns.next,
            length,
            layer,
            entries,
        };
        if self.medium.is_short() {
            // A checkpoint must find its place: what fails here fails before anything is promised.
            let pages = record.layer.pages.keys().copied();
            self.medium.allocate(&mut pages.into_iter())?;
        }
        let (mut part, bytes) = self.write_record(&mut turns, &record);
        let mut written = bytes;
        if let Err(error) = &written
            && is_full(error)
        {
            // The other segment has space set aside, and so has this one after its checkpoint.
            drop(turns);
            turns = self.room()?;
            (part, written) = self.write_record(&mut turns, &record);
        }
        let length_of_record = written?;
        drop(record);
        self.steps.at(Step::JournalAppended)?;
        self.medium.sync(part)?;
        self.steps.at(Step::JournalSynced)?;
        turns.spoiled = false;
        turns.next += 1;
        turns.end += length_of_record;
        turns.active.kept.extend_from_slice(kept);
        let now = Instant::now();
        let first = turns.since.is_none();
        turns.since = Some((turns.since.map_or(now, |(first, _)| first), now));
        if first || turns.end >= self.limits.turn {
            self.turned.notify_all();
        }
        self.overlay_mut().sealed(length);
        turns.active.suspect |= !name();
        Ok(())
    }

    /// Writes a record behind the others, or what fits of it; answers where, and its length.
    fn write_record(&self, turns: &mut Turns, record: &Record) -> (Part, io::Result<u64>) {
        let bytes = record.encode(&turns.active.head);
        turns.spoiled = true;
        let part = Part::Segment(turns.active.head.generation);
        let written = self.medium.write(part, turns.end, &bytes);
        (part, written.map(|()| bytes.len() as u64))
    }

    /// Waits until a record can be appended.
    fn room(&self) -> io::Result<MutexGuard<'_, Turns>> {
        let (mut turns, mut asked) = (self.turns(), false);
        loop {
            let due = turns.spoiled || turns.end >= self.limits.turn;
            if due && turns.frozen.is_none() {
                self.turn(&mut turns)?;
            }
            if !turns.spoiled && turns.end < self.limits.full {
                return Ok(turns);
            }
            if !turns.threaded {
                drop(turns);
                self.checkpoint()?;
                turns = self.turns();
                continue;
            }
            turns = self.tried_again(turns, &mut asked)?;
        }
    }

    /// Waits for the checkpoint. What made it fail may have ended meanwhile, so one more attempt is
    /// asked for before its failure is ours.
    fn tried_again<'a>(
        &'a self,
        mut turns: MutexGuard<'a, Turns>,
        asked: &mut bool,
    ) -> io::Result<MutexGuard<'a, Turns>> {
        if let Some(kind) = turns.failure {
            if std::mem::replace(asked, true) {
                return Err(kind.into());
            }
            turns.failure = None;
            turns.hurry = true;
            self.turned.notify_all();
        }
        let waited = self.turned.wait(turns);
        Ok(waited.unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a turn in the other file; the segment so far waits for its checkpoint.
    fn turn(&self, turns: &mut Turns) -> io::Result<()> {
        // A head that failed may stand all the same, and would end the segment before it here.
        turns.spoiled = true;
        let head = Head {
            journal: turns.active.head.journal,
            nonce: recover::random()?,
            generation: turns.active.head.generation + 1,
            first: turns.next,
            base: self.sealed_base()?,
        };
        segment::begin(self.medium.as_ref(), &head, self.limits.full)?;
        let before = std::mem::replace(&mut turns.active, Segment::new(head));
        turns.frozen = Some((before, turns.next));
        turns.end = PAGE as u64;
        turns.spoiled = false;
        turns.since = None;
        self.overlay_mut().freeze();
        self.contents.forget(&std::mem::take(&mut turns.doubtful));
        self.turned.notify_all();
        Ok(())
    }

    fn sealed_base(&self) -> io::Result<Sum> {
        let sealed = self.overlay().sealed_head();
        match sealed {
            Some(page) => Ok(recover::base_of(&page)),
            None => recover::file_base(self.medium.as_ref()),
        }
    }

    /// Checkpoints everything that is sealed by now.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let mut turns = self.thawed(self.turns())?;
        if turns.since.is_none() {
            return Ok(());
        }
        self.turn(&mut turns)?;
        self.thawed(turns).map(drop)
    }

    /// Waits until no segment is frozen.
    fn thawed<'a>(&'a self, mut turns: MutexGuard<'a, Turns>) -> io::Result<MutexGuard<'a, Turns>> {
        let mut asked = false;
        while turns.frozen.is_some() {
            if !turns.threaded {
                drop(turns);
                self.checkpoint()?;
                turns = self.turns();
                continue;
            }
            turns = self.tried_again(turns, &mut asked)?;
        }
        Ok(turns)
    }

    /// Seals and checkpoints everything; afterwards the index is a plain redb file that needs no
    /// journal.
    fn close(&self) -> io::Result<()> {
        self.seal(Vec::new(), || true)?;
        self.checkpoint()?;
        self.turn(&mut self.turns())?;
        self.checkpoint()?;
        recover::detach(self.medium.as_ref())?;
        // The next start finds space even where others have filled the disk meanwhile.
        self.medium.reserve();
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn current(is: bool) -> io::Result<()> {
    if is {
        return Ok(());
    }
    Err(io::Error::other("index went back to its last sealed state"))
}
