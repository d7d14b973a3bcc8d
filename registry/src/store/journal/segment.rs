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
    let untouched = block.iter().all(|byte| *byte == 0) && Record::turn(start).is_none();
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
}

/// Hands every record below sequence `limit` to `each`, in order. A torn or foreign record is the
/// end.
pub(crate) fn replay(
    medium: &dyn Medium,
    head: &Head,
    limit: u64,
    each: &mut dyn FnMut(Record) -> io::Result<()>,
) -> io::Result<End> {
    let mut end = End {
        sequence: head.first,
        offset: PAGE as u64,
    };
    while end.sequence < limit {
        let mut start = vec![0; RECORD_HEAD];
        medium.read(Part::Segment(head.generation), end.offset, &mut start)?;
        let Some(size) = Record::expect(&start, head, end.sequence) else {
            break;
        };
        let Some((record, next)) = read_record(medium, head, end.offset, &start, size)? else {
            break;
        };
        each(record)?;
        end.sequence += 1;
        end.offset = next;
    }
    Ok(end)
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
        if let Some((sequence, size)) = Record::announced(&start, head.generation)
            && sequence > end.sequence
            && read_record(medium, head, offset, &start, size)?.is_some()
        {
            return Ok(true);
        }
        offset += PAGE as u64;
    }
    Ok(false)
}
