//! Reading and writing a segment: its head, and the records that stand in it without a gap.

use std::io;

use super::medium::{Medium, Part};
use super::overlay::PAGE;
use super::record::{Head, RECORD_HEAD, Record};

/// What stands where a segment begins.
#[derive(Debug)]
pub(crate) enum Begin {
    /// No turn was ever begun here, or it ended with the journal.
    Empty,
    Head(Head),
    /// A turn was begun here and its head does not read as it was written. A power cut does not do
    /// that: a head lies in one sector, and nothing follows it before it is synced.
    Damaged,
}

/// Reads the beginning of the segment file with this number, 0 or 1.
pub(crate) fn begin_of(medium: &dyn Medium, number: u64) -> io::Result<Begin> {
    let mut blocks = vec![0; PAGE + RECORD_HEAD];
    medium.read(Part::Segment(number), 0, &mut blocks)?;
    let (block, start) = blocks.split_at(PAGE);
    let head = Head::decode(block);
    if let Some(head) = head.filter(|head| head.generation % 2 == number % 2) {
        return Ok(Begin::Head(head));
    }
    let untouched = block.iter().all(|byte| *byte == 0) && !Record::seems_to_begin(start);
    Ok(if untouched {
        Begin::Empty
    } else {
        Begin::Damaged
    })
}

/// Begins a turn: from here on the file's former records are no records.
pub(crate) fn begin(medium: &dyn Medium, head: &Head, bound: u64) -> io::Result<()> {
    let part = Part::Segment(head.generation);
    if medium.len(part)? > bound {
        // One huge batch must not keep its space for ever.
        medium.set_len(part, 0)?;
    }
    medium.write(part, 0, &head.encode())?;
    medium.sync(part)
}

/// Where a replay ended: the sequence after the last record, and where that one's successor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) sequence: u64,
    offset: u64,
    /// Where the last record begins, if there is one.
    last: Option<u64>,
}

impl End {
    fn of(head: &Head) -> Self {
        Self {
            sequence: head.first,
            offset: PAGE as u64,
            last: None,
        }
    }
}

/// Hands every record below sequence `limit` to `each`, in order. A torn or foreign record is the
/// end.
pub(crate) fn replay(
    medium: &dyn Medium,
    head: &Head,
    limit: u64,
    each: &mut dyn FnMut(Record) -> io::Result<()>,
) -> io::Result<End> {
    let mut end = End::of(head);
    while end.sequence < limit {
        let Some((record, next)) = next_record(medium, head, end)? else {
            break;
        };
        each(record)?;
        end = next;
    }
    Ok(end)
}

/// As [`replay`], for a first look: what the disk does not give is the end as well. Answers too
/// whether it was.
pub(crate) fn read_through(
    medium: &dyn Medium,
    head: &Head,
    limit: u64,
    each: &mut dyn FnMut(Record),
) -> (End, bool) {
    let mut end = End::of(head);
    while end.sequence < limit {
        match next_record(medium, head, end) {
            Ok(Some((record, next))) => {
                each(record);
                end = next;
            }
            Ok(None) => break,
            Err(error) => {
                tracing::error!(?error, offset = end.offset, "journal cannot be read");
                return (end, true);
            }
        }
    }
    (end, false)
}

fn next_record(medium: &dyn Medium, head: &Head, end: End) -> io::Result<Option<(Record, End)>> {
    let mut start = vec![0; RECORD_HEAD];
    medium.read(Part::Segment(head.generation), end.offset, &mut start)?;
    let Some(size) = Record::expect(&start, head, end.sequence) else {
        return Ok(None);
    };
    let found = read_record(medium, head, end.offset, &start, size)?;
    Ok(found.map(|(record, offset)| {
        let next = End {
            sequence: end.sequence + 1,
            offset,
            last: Some(end.offset),
        };
        (record, next)
    }))
}

/// Writes the head and the last record once more, as they read. Their sync may have failed before the
/// process ended, and then the kernel takes for written what it only has in memory; earlier records
/// have one behind them, which is written after a sync that did not fail.
pub(crate) fn harden(medium: &dyn Medium, head: &Head, end: End) -> io::Result<()> {
    let part = Part::Segment(head.generation);
    medium.write(part, 0, &head.encode())?;
    if let Some(last) = end.last {
        let length = end.offset.min(medium.len(part)?).saturating_sub(last);
        let mut bytes = vec![0; length as usize];
        medium.read(part, last, &mut bytes)?;
        medium.write(part, last, &bytes)?;
    }
    medium.sync(part)
}

/// The whole record at `offset`, whose head is `start`, and where the next one begins.
fn read_record(
    medium: &dyn Medium,
    head: &Head,
    offset: u64,
    start: &[u8],
    size: u64,
) -> io::Result<Option<(Record, u64)>> {
    let part = Part::Segment(head.generation);
    let begin = offset + RECORD_HEAD as u64;
    let length = medium.len(part)?;
    let Some(end) = begin.checked_add(size).filter(|end| *end <= length) else {
        return Ok(None);
    };
    let mut payload = vec![0; size as usize];
    medium.read(part, begin, &mut payload)?;
    let record = Record::decode(start, &payload, head);
    Ok(record.map(|record| (record, end.next_multiple_of(PAGE as u64))))
}

/// Whether a whole record of this turn stands anywhere behind `end`. One is written only after
/// those before it are synced, so then the disk has damaged what stands at `end`, and it is no
/// batch that a crash cut short.
pub(crate) fn goes_on(medium: &dyn Medium, head: &Head, end: End) -> io::Result<bool> {
    let part = Part::Segment(head.generation);
    let length = medium.len(part)?;
    let mut offset = end.offset;
    while offset < length {
        let mut start = vec![0; RECORD_HEAD];
        medium.read(part, offset, &mut start)?;
        if let Some((sequence, size)) = Record::announced(&start, head)
            && sequence > end.sequence
            && read_record(medium, head, offset, &start, size)?.is_some()
        {
            return Ok(true);
        }
        offset += PAGE as u64;
    }
    Ok(false)
}
