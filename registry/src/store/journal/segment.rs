//! Reading and writing a segment: its head, and the records that stand in it without a gap.

use std::io;

use super::medium::{Medium, Part};
use super::overlay::PAGE;
use super::record::{Head, RECORD_HEAD, Record};

/// The head of a segment file; `None` where it has none that is whole.
pub(crate) fn read_head(medium: &dyn Medium, number: u64) -> io::Result<Option<Head>> {
    let mut block = vec![0; PAGE];
    medium.read(Part::Segment(number), 0, &mut block)?;
    let head = Head::decode(&block);
    Ok(head.filter(|head| head.generation % 2 == number % 2))
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

/// Hands every record below sequence `limit` to `each`, in order; answers the sequence after the
/// last one. A torn or foreign record is the end.
pub(crate) fn replay(
    medium: &dyn Medium,
    head: &Head,
    limit: u64,
    each: &mut dyn FnMut(Record) -> io::Result<()>,
) -> io::Result<u64> {
    let part = Part::Segment(head.generation);
    let (length, mut offset, mut sequence) = (medium.len(part)?, PAGE as u64, head.first);
    while sequence < limit {
        let mut start = vec![0; RECORD_HEAD];
        medium.read(part, offset, &mut start)?;
        let Some(size) = Record::expect(&start, head, sequence) else {
            break;
        };
        let begin = offset + RECORD_HEAD as u64;
        let Some(end) = begin.checked_add(size).filter(|end| *end <= length) else {
            break;
        };
        let mut payload = vec![0; size as usize];
        medium.read(part, begin, &mut payload)?;
        let Some(record) = Record::decode(&start, &payload, head) else {
            break;
        };
        each(record)?;
        sequence += 1;
        offset = end.next_multiple_of(PAGE as u64);
    }
    Ok(sequence)
}
