//! What an open does with what it finds: nothing, a replay, or a refusal.
//!
//! The index says in page 0, beyond redb's header, which journal it needs. The journal says which
//! first sectors the index may have: the one that each segment began with and every one that it
//! recorded, because redb's header changes with every commit. So neither file can be taken for a
//! part of the other's history when one of them was restored from a backup, or when the index was
//! changed by a program that knows of no journal.

use std::collections::HashSet;
use std::io;

use super::contents::{Contents, Latest};
use super::home::write_layer;
use super::medium::{Medium, Part};
use super::overlay::PAGE;
use super::record::{Head, Record, Sum, sum};
use super::segment::{Begin, End};
use super::{Core, Limits, segment};
use crate::store::step::Steps;

/// redb's header ends before byte 512 of page 0 and nothing of it ever stands here.
const MARK_AT: u64 = 1024;
const MARK_MAGIC: [u8; 8] = *b"dpjourn1";
const SECTOR: usize = 512;

/// Why an index and its journal are not opened together.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal cannot be used")]
    Io(#[from] io::Error),
    #[error(
        "index was not closed and its journal is missing; put the .journal files back beside it, \
         or make an empty file .journal.lost to go on with what the index has"
    )]
    Missing,
    #[error(
        "journal belongs to another state of the index; restore both from one backup, or make an \
         empty file .journal.lost to go on with what the index has"
    )]
    Foreign,
    #[error(
        "journal segment .journal.{number} is damaged; restore the files from a backup, or make an \
         empty file .journal.lost to go on with what can be read"
    )]
    Damaged { number: u64 },
    #[error(
        "index cannot be used without the rest of its journal; as they were before this attempt, the \
         index and both segments are kept beside it as files that end in .lost"
    )]
    Beyond(#[source] Option<Box<redb::DatabaseError>>),
}

/// Random bytes that nobody can guess.
pub(super) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| io::Error::other("the system's random source failed"))?;
    Ok(bytes)
}

/// The sum of page 0's first sector, which holds all of redb's header.
pub(super) fn base_of(page: &[u8]) -> Sum {
    sum(&[page.get(..SECTOR).unwrap_or(page)])
}

pub(super) fn file_base(medium: &dyn Medium) -> io::Result<Sum> {
    let mut sector = [0; SECTOR];
    medium.read(Part::Index, 0, &mut sector)?;
    Ok(base_of(&sector))
}

/// Brings home what a crash left in the segments, and starts a new journal. With `forgive`, what does
/// not fit or does not read is given up instead of refused.
pub(crate) fn open(
    medium: Box<dyn Medium>,
    contents: Box<dyn Contents>,
    steps: Steps,
    limits: Limits,
    forgive: bool,
) -> Result<Core, JournalError> {
    // What is read below may only be in the kernel's memory: the process before this one was killed
    // before its sync. Nothing may build on that which a power cut then takes away.
    for part in [Part::Index, Part::Segment(0), Part::Segment(1)] {
        medium.sync(part)?;
    }
    let found = survey(medium.as_ref())?;
    if let Some(trouble) = found.trouble {
        if !forgive {
            return Err(trouble);
        }
        tracing::warn!(%trouble, "what the journal has beyond that is given up as asked");
    }
    for (head, end) in &found.heads {
        segment::harden(medium.as_ref(), head, *end)?;
    }
    replay(medium.as_ref(), contents.as_ref(), &found.heads)?;
    detach(medium.as_ref())?;
    medium.reserve();
    let head = attach(medium.as_ref(), limits)?;
    Ok(Core::new(medium, contents, head, steps, limits)?)
}

/// What the segments are good for.
struct Survey {
    /// The segments to replay, in order, each with where it ends.
    heads: Vec<(Head, End)>,
    /// What is beyond them, or why there are none.
    trouble: Option<JournalError>,
}

impl Survey {
    fn of(heads: Vec<(Head, End)>) -> Self {
        let trouble = None;
        Self { heads, trouble }
    }

    fn refused(trouble: JournalError) -> Self {
        let (heads, trouble) = (Vec::new(), Some(trouble));
        Self { heads, trouble }
    }
}

fn survey(medium: &dyn Medium) -> io::Result<Survey> {
    let mark = read_mark(medium)?;
    let (mut heads, mut damaged) = (Vec::new(), None);
    for number in [0, 1] {
        match segment::begin_of(medium, number) {
            Ok(Begin::Head(head)) => heads.push(head),
            Ok(Begin::Damaged) => damaged = Some(number),
            Ok(Begin::Empty) => {}
            Err(error) => {
                tracing::error!(?error, number, "journal segment cannot be read");
                damaged = Some(number);
            }
        }
    }
    heads.sort_by_key(|head: &Head| head.generation);
    let wanted = mark.or(heads.last().map(|head| head.journal));
    heads.retain(|head| Some(head.journal) == wanted);
    let seen = scan(medium, heads);
    let damaged = damaged.or(seen.damaged);
    let base = file_base(medium)?;
    let fits = seen.records == 0 || seen.bases.contains(&base);
    Ok(match (mark, damaged) {
        // All is home already; the power went between the two halves of a close.
        (None, None) if seen.records == 0 || seen.last == Some(base) => Survey::of(Vec::new()),
        (Some(_), None) if seen.heads.is_empty() => Survey::refused(JournalError::Missing),
        (Some(_), None) if fits => Survey::of(seen.heads),
        (_, None) => Survey::refused(JournalError::Foreign),
        (mark, Some(number)) => Survey {
            // The index is at one of these states or behind a segment that does not read.
            heads: if mark.is_some() && fits {
                seen.heads
            } else {
                Vec::new()
            },
            trouble: Some(JournalError::Damaged { number }),
        },
    })
}

/// What a reading of the segments found.
#[derive(Default)]
struct Seen {
    /// The segments in order, as far as they read without a gap, with where each ends.
    heads: Vec<(Head, End)>,
    records: u64,
    bases: HashSet<Sum>,
    last: Option<Sum>,
    /// The segment behind which nothing counts.
    damaged: Option<u64>,
}

fn scan(medium: &dyn Medium, heads: Vec<Head>) -> Seen {
    let mut seen = Seen::default();
    let firsts: Vec<u64> = heads.iter().map(|head| head.first).collect();
    for (at, head) in heads.into_iter().enumerate() {
        seen.bases.insert(head.base);
        let limit = firsts.get(at + 1).copied();
        let mut note = |record: Record| {
            seen.records += 1;
            if let Some(page) = record.layer.pages.get(&0) {
                seen.last = Some(base_of(page));
                seen.bases.extend(seen.last);
            }
        };
        let (end, failed) =
            segment::read_through(medium, &head, limit.unwrap_or(u64::MAX), &mut note);
        let cut_short = match limit {
            Some(limit) => end.sequence != limit,
            None => segment::goes_on(medium, &head, end).unwrap_or(true),
        };
        let number = head.generation % 2;
        seen.heads.push((head, end));
        if failed || cut_short {
            seen.damaged = Some(number);
            break;
        }
    }
    seen
}

fn replay(medium: &dyn Medium, contents: &dyn Contents, heads: &[(Head, End)]) -> io::Result<()> {
    let mut latest = Latest::default();
    for (head, seen) in heads {
        let mut apply = |record: Record| {
            write_layer(medium, &record.layer, record.length)?;
            latest.take(record.entries);
            Ok(())
        };
        let end = segment::replay(medium, head, seen.sequence, &mut apply)?;
        if end.sequence != seen.sequence {
            let changed = "a segment of the journal reads otherwise than a moment ago";
            return Err(io::Error::new(io::ErrorKind::InvalidData, changed));
        }
    }
    if !heads.is_empty() {
        contents.settle(&latest.restore(contents)?)?;
        medium.sync(Part::Index)?;
    }
    Ok(())
}

fn read_mark(medium: &dyn Medium) -> io::Result<Option<[u8; 16]>> {
    let (mut magic, mut journal) = ([0; 8], [0; 16]);
    medium.read(Part::Index, MARK_AT, &mut magic)?;
    medium.read(Part::Index, MARK_AT + 8, &mut journal)?;
    Ok((magic == MARK_MAGIC).then_some(journal))
}

/// The index needs no journal any more; and then there is none. All must be home. What reads as done
/// is done again: it may be so only in the kernel's memory.
pub(super) fn detach(medium: &dyn Medium) -> io::Result<()> {
    medium.write(Part::Index, MARK_AT, &[0; 24])?;
    medium.sync(Part::Index)?;
    let mut segments = [(None, 0), (None, 1)];
    for (generation, number) in &mut segments {
        if let Ok(Begin::Head(head)) = segment::begin_of(medium, *number) {
            *generation = Some(head.generation);
        }
    }
    // The newest goes last: what it says of the index is true until it is gone.
    segments.sort();
    for (_, number) in segments {
        let part = Part::Segment(number);
        medium.set_len(part, 0)?;
        medium.sync(part)?;
    }
    Ok(())
}

/// Starts an empty journal and lets the index say that it needs it, in this order.
fn attach(medium: &dyn Medium, limits: Limits) -> io::Result<Head> {
    let head = Head {
        journal: random()?,
        nonce: random()?,
        generation: 0,
        first: 0,
        base: file_base(medium)?,
    };
    segment::begin(medium, &head, limits.full)?;
    let mark = [MARK_MAGIC.as_slice(), &head.journal].concat();
    debug_assert!(MARK_AT as usize + mark.len() < PAGE);
    medium.write(Part::Index, MARK_AT, &mark)?;
    medium.sync(Part::Index)?;
    Ok(head)
}
