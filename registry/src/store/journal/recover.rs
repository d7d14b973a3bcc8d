//! What an open does with what it finds: nothing, a replay, or a refusal.
//!
//! The index says in page 0, beyond redb's header, which journal it needs. The journal says which
//! first sectors the index may have: the one that each segment began with and every one that it
//! recorded, because redb's header changes with every commit. So neither file can be taken for a
//! part of the other's history when one of them was restored from a backup, or when the index was
//! changed by a program that knows of no journal.

use std::collections::HashSet;
use std::io;

use super::contents::{Contents, Kept};
use super::medium::{Medium, Part};
use super::overlay::PAGE;
use super::record::{Head, Record, Sum, sum};
use super::{Core, Limits, segment, write_layer};
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
        "journal segment {generation} is damaged; restore the files from a backup, or make an \
         empty file .journal.lost to go on with what the index has"
    )]
    Damaged { generation: u64 },
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

/// Brings home what a crash left in the segments, and starts a new journal. With `forgive`, a
/// journal that does not fit is given up instead of refused.
pub(crate) fn open(
    medium: Box<dyn Medium>,
    contents: Box<dyn Contents>,
    steps: Steps,
    limits: Limits,
    forgive: bool,
) -> Result<Core, JournalError> {
    match survey(medium.as_ref()) {
        Ok(heads) => replay(medium.as_ref(), contents.as_ref(), &heads)?,
        Err(JournalError::Io(error)) => return Err(error.into()),
        Err(error) if forgive => tracing::warn!(%error, "journal is given up as asked"),
        Err(error) => return Err(error),
    }
    detach(medium.as_ref())?;
    medium.reserve();
    let head = attach(medium.as_ref(), limits)?;
    Ok(Core::new(medium, contents, head, steps, limits)?)
}

/// The segments to replay, in order, each with the sequence where it ends.
fn survey(medium: &dyn Medium) -> Result<Vec<(Head, u64)>, JournalError> {
    let mark = read_mark(medium)?;
    let mut heads = Vec::new();
    for number in [0, 1] {
        heads.extend(segment::read_head(medium, number)?);
    }
    heads.sort_by_key(|head: &Head| head.generation);
    let wanted = mark.or(heads.last().map(|head| head.journal));
    heads.retain(|head| Some(head.journal) == wanted);
    let (heads, seen) = scan(medium, heads)?;
    let base = file_base(medium)?;
    match mark {
        Some(_) if heads.is_empty() => Err(JournalError::Missing),
        Some(_) if seen.records == 0 || seen.bases.contains(&base) => Ok(heads),
        // All is home already; the power went between the two halves of a close.
        None if seen.records == 0 || seen.last == Some(base) => Ok(Vec::new()),
        _ => Err(JournalError::Foreign),
    }
}

#[derive(Default)]
struct Seen {
    records: u64,
    bases: HashSet<Sum>,
    last: Option<Sum>,
}

fn scan(medium: &dyn Medium, heads: Vec<Head>) -> Result<(Vec<(Head, u64)>, Seen), JournalError> {
    let mut seen = Seen::default();
    let mut limited = Vec::new();
    for (at, head) in heads.iter().enumerate() {
        seen.bases.insert(head.base);
        let limit = heads.get(at + 1).map(|next| next.first);
        let mut note = |record: Record| {
            seen.records += 1;
            if let Some(page) = record.layer.pages.get(&0) {
                seen.last = Some(base_of(page));
                seen.bases.extend(seen.last);
            }
            Ok(())
        };
        let reached = segment::replay(medium, head, limit.unwrap_or(u64::MAX), &mut note)?;
        if limit.is_some_and(|limit| reached != limit) {
            let generation = head.generation;
            return Err(JournalError::Damaged { generation });
        }
        limited.push((head.clone(), reached));
    }
    Ok((limited, seen))
}

fn replay(medium: &dyn Medium, contents: &dyn Contents, heads: &[(Head, u64)]) -> io::Result<()> {
    let mut kept = Vec::new();
    for (head, limit) in heads {
        let mut apply = |record: Record| {
            write_layer(medium, &record.layer, record.length)?;
            for entry in &record.entries {
                contents.restore(entry)?;
                kept.push(Kept::of(entry));
            }
            Ok(())
        };
        segment::replay(medium, head, *limit, &mut apply)?;
    }
    if !heads.is_empty() {
        contents.settle(&kept)?;
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

/// The index needs no journal any more; and then there is none. All must be home.
pub(super) fn detach(medium: &dyn Medium) -> io::Result<()> {
    if read_mark(medium)?.is_some() {
        medium.write(Part::Index, MARK_AT, &[0; 24])?;
        medium.sync(Part::Index)?;
    }
    let mut segments = [(None, 0), (None, 1)];
    for (generation, number) in &mut segments {
        *generation = segment::read_head(medium, *number)?.map(|head| head.generation);
    }
    // The newest goes last: what it says of the index is true until it is gone.
    segments.sort();
    for (_, number) in segments {
        let part = Part::Segment(number);
        if medium.len(part)? > 0 {
            medium.set_len(part, 0)?;
            medium.sync(part)?;
        }
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
