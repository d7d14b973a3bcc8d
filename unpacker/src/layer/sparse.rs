//! Sparse files of a tar: which parts of a file its data fills. Everything between them is zeros.
//! Pure.
//!
//! | form | where the map stands |
//! |---|---|
//! | old GNU, type `S` | four regions in the header, 21 in each block that follows it |
//! | PAX 0.0 | `GNU.sparse.offset` and `GNU.sparse.numbytes`, in turns |
//! | PAX 0.1 | `GNU.sparse.map`, numbers between commas |
//! | PAX 1.0 | lines of numbers in the blocks before the data |
//!
//! As Go's `archive/tar` reads them; what it would take for an ordinary file (a version that it does
//! not know) is refused, because GNU tar reads that in another way. Source: GNU tar manual, "Storing
//! Sparse Files".

use super::archive::RawEntry;
use super::field::{decimal, unsigned};

/// Bytes of one region in a header, and where the regions of a header stand.
const REGION: usize = 24;
const IN_HEADER: std::ops::Range<usize> = 386..482;
const REAL_SIZE: std::ops::Range<usize> = 483..495;
const IN_BLOCK: std::ops::Range<usize> = 0..504;
/// A non-zero byte here says that another block of regions follows.
const MORE_OF_HEADER: usize = 482;
const MORE_OF_BLOCK: usize = 504;

/// A part of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The parts of one file, in order and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    size: u64,
    regions: Vec<Region>,
}

impl Map {
    /// `None` where regions overlap, go backwards, or reach beyond `size`.
    pub(crate) fn new(size: u64, regions: Vec<Region>) -> Option<Self> {
        let mut end = 0;
        for region in &regions {
            if region.offset < end {
                return None;
            }
            end = region.offset.checked_add(region.length)?;
        }
        (end <= size && i64::try_from(size).is_ok()).then_some(Self { size, regions })
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are in the archive.
    pub(crate) fn stored(&self) -> u64 {
        self.regions.iter().map(|region| region.length).sum()
    }
}

/// What comes next in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Data(u64),
    Hole(u64),
    End,
}

/// A way through a file.
#[derive(Debug)]
pub(crate) struct Cursor {
    map: Map,
    at: u64,
    next: usize,
}

impl Cursor {
    pub(crate) fn new(map: Map) -> Self {
        Self {
            map,
            at: 0,
            next: 0,
        }
    }

    pub(crate) fn part(&mut self) -> Part {
        while let Some(region) = self.map.regions.get(self.next) {
            let end = region.offset + region.length;
            if self.at >= end {
                self.next += 1;
            } else if self.at < region.offset {
                return Part::Hole(region.offset - self.at);
            } else {
                return Part::Data(end - self.at);
            }
        }
        match self.map.size - self.at {
            0 => Part::End,
            left => Part::Hole(left),
        }
    }

    pub(crate) fn advance(&mut self, bytes: u64) {
        self.at += bytes;
    }
}

/// Where the map of an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The file is not sparse.
    Plain,
    Header,
    Records,
    Lines,
}

/// `None` where the entry contradicts itself, or is of a form that nobody knows.
pub(crate) fn form(entry: &RawEntry) -> Option<Form> {
    let told = entry
        .records
        .iter()
        .any(|(key, _)| key.starts_with(b"GNU.sparse."));
    let version = (
        entry.record("GNU.sparse.major"),
        entry.record("GNU.sparse.minor"),
    );
    match (entry.flag, told, version) {
        (b'S', false, _) => Some(Form::Header),
        (_, false, _) => Some(Form::Plain),
        (0 | b'0' | b'7', true, (Some(b"1"), Some(b"0"))) => Some(Form::Lines),
        (0 | b'0' | b'7', true, (None, None) | (Some(b"0"), Some(b"0" | b"1"))) => {
            Some(Form::Records)
        }
        _ => None,
    }
}

/// The size that the records say.
pub(crate) fn size_of(entry: &RawEntry) -> Option<u64> {
    let size = entry.record("GNU.sparse.size");
    match size.or_else(|| entry.record("GNU.sparse.realsize")) {
        Some(text) => decimal(text),
        None => Some(entry.size),
    }
}

/// The regions of the forms 0.0 and 0.1.
pub(crate) fn of_records(entry: &RawEntry) -> Option<Vec<Region>> {
    let count = decimal(entry.record("GNU.sparse.numblocks")?)?;
    let mut numbers = in_turns(entry)?;
    if let (true, Some(map)) = (numbers.is_empty(), entry.record("GNU.sparse.map")) {
        let parts = map.split(|byte| *byte == b',').map(decimal);
        numbers = parts.collect::<Option<_>>()?;
    }
    let regions = paired(&numbers)?;
    (regions.len() as u64 == count).then_some(regions)
}

/// The numbers of form 0.0: an offset, a length, an offset …
fn in_turns(entry: &RawEntry) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    for (key, value) in &entry.records {
        let odd = match key.as_slice() {
            b"GNU.sparse.offset" => 0,
            b"GNU.sparse.numbytes" => 1,
            _ => continue,
        };
        if numbers.len() % 2 != odd {
            return None;
        }
        numbers.push(decimal(value)?);
    }
    Some(numbers)
}

fn paired(numbers: &[u64]) -> Option<Vec<Region>> {
    let pairs = numbers.chunks(2).map(|pair| match *pair {
        [offset, length] => Some(Region { offset, length }),
        _ => None,
    });
    pairs.collect()
}

/// The map of form 1.0: a count and then so many pairs, a number a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    numbers: Vec<u64>,
    digits: Vec<u8>,
}

impl Lines {
    /// Takes a block; true when the map is whole. What is left of its last block says nothing.
    pub(crate) fn take(&mut self, block: &[u8]) -> Option<bool> {
        for byte in block {
            if self.is_whole() {
                break;
            }
            match byte {
                b'\n' => {
                    self.numbers.push(decimal(&self.digits)?);
                    self.digits.clear();
                }
                // No number has more digits.
                byte if self.digits.len() < 20 => self.digits.push(*byte),
                _ => return None,
            }
        }
        Some(self.is_whole())
    }

    fn is_whole(&self) -> bool {
        let rest = self.numbers.len().saturating_sub(1) as u64;
        let wanted = self.numbers.first().map(|count| count.saturating_mul(2));
        wanted.is_some_and(|wanted| rest >= wanted)
    }

    pub(crate) fn regions(&self) -> Option<Vec<Region>> {
        paired(self.numbers.get(1..)?)
    }
}

/// The map of the old form, block by block.
#[derive(Debug)]
pub(crate) struct Old {
    pub(crate) size: u64,
    pub(crate) regions: Vec<Region>,
    /// Whether another block follows.
    pub(crate) more: bool,
}

impl Old {
    pub(crate) fn of_header(block: &[u8; 512]) -> Option<Self> {
        // star has the type `S` too, with a map that is written in another way.
        if &block[257..265] != b"ustar  \0" {
            return None;
        }
        let mut map = Self {
            size: unsigned(&block[REAL_SIZE])?,
            regions: Vec::new(),
            more: block[MORE_OF_HEADER] != 0,
        };
        map.add(&block[IN_HEADER])?;
        Some(map)
    }

    pub(crate) fn take(&mut self, block: &[u8; 512]) -> Option<()> {
        self.more = block[MORE_OF_BLOCK] != 0;
        self.add(&block[IN_BLOCK])
    }

    fn add(&mut self, fields: &[u8]) -> Option<()> {
        for field in fields.chunks_exact(REGION) {
            if field[0] == 0 {
                break;
            }
            self.regions.push(Region {
                offset: unsigned(&field[..12])?,
                length: unsigned(&field[12..])?,
            });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size: u64, regions: &[(u64, u64)]) -> Option<Map> {
        let regions = regions
            .iter()
            .map(|&(offset, length)| Region { offset, length });
        Map::new(size, regions.collect())
    }

    fn entry(records: &[(&str, &str)]) -> RawEntry {
        let owned = |(key, value): &(&str, &str)| (key.as_bytes().into(), value.as_bytes().into());
        RawEntry {
            flag: b'0',
            size: 7,
            records: records.iter().map(owned).collect(),
            ..RawEntry::default()
        }
    }

    #[test]
    fn regions_are_in_order_and_inside() {
        assert!(map(10, &[]).is_some());
        assert!(map(10, &[(0, 3), (3, 0), (3, 2), (10, 0)]).is_some());
        for bad in [
            &[(0, 11)][..],
            &[(11, 0)],
            &[(3, 2), (4, 1)],
            &[(3, 2), (0, 1)],
            &[(u64::MAX, 2)],
        ] {
            assert_eq!(map(10, bad), None, "{bad:?}");
        }
        assert_eq!(map(u64::MAX, &[]), None);
    }

    #[test]
    fn a_cursor_goes_over_holes_and_data() {
        let mut cursor = Cursor::new(map(10, &[(2, 3), (5, 0), (5, 1)]).unwrap());
        let mut seen = Vec::new();
        loop {
            let part = cursor.part();
            seen.push(part);
            match part {
                Part::Data(bytes) | Part::Hole(bytes) => cursor.advance(bytes),
                Part::End => break,
            }
        }
        let expected = [
            Part::Hole(2),
            Part::Data(3),
            Part::Data(1),
            Part::Hole(4),
            Part::End,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_form_is_told_or_refused() {
        let of = |records: &[(&str, &str)]| form(&entry(records));
        assert_eq!(of(&[]), Some(Form::Plain));
        let version =
            |major, minor| of(&[("GNU.sparse.major", major), ("GNU.sparse.minor", minor)]);
        assert_eq!(version("1", "0"), Some(Form::Lines));
        assert_eq!(version("0", "1"), Some(Form::Records));
        assert_eq!(version("1", "1"), None);
        assert_eq!(version("2", "0"), None);
        assert_eq!(of(&[("GNU.sparse.map", "0,1")]), Some(Form::Records));
        let mut folder = entry(&[("GNU.sparse.map", "0,1")]);
        folder.flag = b'5';
        assert_eq!(form(&folder), None);
        folder.flag = b'S';
        assert_eq!(form(&folder), None);
    }

    #[test]
    fn records_of_both_forms_say_the_same() {
        let list = [("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "1,2,5,2")];
        let turns = [
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "1"),
            ("GNU.sparse.numbytes", "2"),
            ("GNU.sparse.offset", "5"),
            ("GNU.sparse.numbytes", "2"),
        ];
        let found = of_records(&entry(&list)).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(of_records(&entry(&turns)), Some(found));
        assert_eq!(of_records(&entry(&list[1..])), None);
        assert_eq!(of_records(&entry(&turns[..4])), None);
        assert_eq!(of_records(&entry(&[turns[0], turns[2], turns[1]])), None);
        let wrong = [("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "1,2,5")];
        assert_eq!(of_records(&entry(&wrong)), None);
    }

    #[test]
    fn lines_end_with_their_last_number() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"2\n1\n2"), Some(false));
        assert_eq!(lines.take(b"0\n30\n4\n\0\0rest"), Some(true));
        let expected = [(1, 20), (30, 4)].map(|(offset, length)| Region { offset, length });
        assert_eq!(lines.regions().unwrap(), expected);
        assert_eq!(Lines::default().take(b"0\n"), Some(true));
        assert_eq!(Lines::default().take(b"x\n"), None);
        assert_eq!(Lines::default().take(&[b'1'; 30]), None);
        assert_eq!(
            Lines::default().take(b"18446744073709551615\n1\n"),
            Some(false)
        );
    }
}
