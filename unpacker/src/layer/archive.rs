//! A tar stream as headers and data: blocks, checksums, numbers, PAX and GNU extensions.
//!
//! Reads what Go's `archive/tar` reads, because every tool that writes or checks layers is built on
//! it and two readings of one archive are an attack (CVE-2025-62518). What is malformed is an
//! error, never skipped. Says nothing about what entries mean. Source: POSIX pax; GNU tar manual,
//! "Basic Tar Format".

use std::io::{self, Read};

use super::field::{Record, decimal, numeric, records, unsigned, until_nul};
use super::sparse::{Cursor, Form, Lines, Map, Old, Part, Region, form, of_records, size_of};
use crate::progress::{Cancel, Cancelled};

const BLOCK: usize = 512;
/// One extended header or long name.
const MAX_EXTENSION: u64 = 1 << 20;
/// Extended headers and long names before one entry; writers need three.
const MAX_EXTENSIONS: usize = 16;

/// The stream is not a tar that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    #[error("the tar ends in the middle of an entry")]
    Truncated,
    #[error("tar header at byte {offset} has a wrong checksum")]
    Checksum { offset: u64 },
    #[error("tar header at byte {offset} has no valid number in its field {field}")]
    Number { offset: u64, field: &'static str },
    #[error("extended header before byte {offset} is malformed")]
    Record { offset: u64 },
    #[error("extended header before byte {offset} has {size} bytes, more than {MAX_EXTENSION}")]
    ExtensionTooLarge { offset: u64, size: u64 },
    #[error("more than {MAX_EXTENSIONS} extended headers stand before byte {offset}")]
    TooManyExtensions { offset: u64 },
    #[error("the extended header before byte {offset} belongs to no entry, a global one follows")]
    Stray { offset: u64 },
    #[error("only one zero block stands at byte {offset}, where the tar should end")]
    HalfEnd { offset: u64 },
    #[error("the sparse file before byte {offset} has a malformed map, or one of an unknown form")]
    Sparse { offset: u64 },
    #[error("the layer has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// One header with its extensions resolved, not yet interpreted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) flag: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// Bytes of the file; a sparse one has fewer in the archive.
    pub(crate) size: u64,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds; a PAX record may say it more exactly.
    pub(crate) mtime: i64,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// PAX records in order; a later one of the same key counts.
    pub(crate) records: Vec<Record>,
}

impl RawEntry {
    /// What a PAX record says instead of the header. An empty value says nothing (POSIX pax), so
    /// the header counts.
    pub(crate) fn record(&self, key: &str) -> Option<&[u8]> {
        let found = self.records.iter().rev().find(|(k, _)| k == key.as_bytes());
        let value = found.map(|(_, value)| value.as_slice());
        value.filter(|value| !value.is_empty())
    }
}

/// Reads one entry after the other.
pub(crate) struct Archive<'a> {
    input: &'a mut dyn Read,
    offset: u64,
    limit: u64,
    /// Data of the current entry that was not read yet, and the padding after it.
    data: u64,
    padding: u64,
    /// Where the data of the current entry goes, when it is sparse.
    sparse: Option<Cursor>,
    /// Bytes that sparse files had more than the archive; they count as if it had them.
    holes: u64,
    ended: bool,
    cancel: &'a Cancel,
}

/// What a map says, where it could be read.
type SizeAndRegions = (Option<u64>, Option<Vec<Region>>);

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Extensions {
    count: usize,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<Record>,
}

impl<'a> Archive<'a> {
    /// More than `limit` bytes in the whole stream are an error.
    pub(crate) fn new(input: &'a mut dyn Read, limit: u64, cancel: &'a Cancel) -> Self {
        Self {
            input,
            offset: 0,
            limit,
            data: 0,
            padding: 0,
            sparse: None,
            holes: 0,
            ended: false,
            cancel,
        }
    }

    /// The next entry. Data of the one before that was not read is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<RawEntry>, ArchiveError> {
        let mut extensions = Extensions::default();
        while !self.ended {
            self.skip_data()?;
            let Some(block) = self.header_block()? else {
                self.ended = true;
                break;
            };
            let at = self.offset;
            let entry = parse_header(&block, at)?;
            self.data = entry.size;
            self.padding = padding_of(entry.size);
            match entry.flag {
                b'x' | b'L' | b'K' => self.note(entry.flag, at, &mut extensions)?,
                // Nobody applies global headers (Go does not either), but they must be sound. They
                // are entries, so that they are counted.
                b'g' if extensions.count > 0 => return Err(ArchiveError::Stray { offset: at }),
                b'g' => {
                    self.records(at)?;
                    return Ok(Some(entry));
                }
                _ => {
                    let entry = self.extend(entry, extensions)?;
                    return self.spread(entry, &block).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Keeps an extension for the entry to come. Of several of one kind the last one counts, as in
    /// Go.
    fn note(&mut self, flag: u8, at: u64, known: &mut Extensions) -> Result<(), ArchiveError> {
        known.count += 1;
        if known.count > MAX_EXTENSIONS {
            return Err(ArchiveError::TooManyExtensions { offset: at });
        }
        match flag {
            b'x' => known.records = self.records(at)?,
            b'L' => known.name = Some(until_nul(&self.extension()?)),
            _ => known.link = Some(until_nul(&self.extension()?)),
        }
        Ok(())
    }

    /// Reads what the file of the current entry holds, holes as zeros.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let Some(cursor) = &mut self.sparse else {
            return self.read_stored(buffer);
        };
        let room =
            |bytes: u64| usize::try_from(bytes).map_or(buffer.len(), |n| n.min(buffer.len()));
        let read = match cursor.part() {
            Part::End => 0,
            Part::Hole(bytes) => {
                self.cancel.check()?;
                let length = room(bytes);
                buffer[..length].fill(0);
                length
            }
            Part::Data(bytes) => {
                let length = room(bytes);
                self.read_stored(&mut buffer[..length])?
            }
        };
        if let Some(cursor) = &mut self.sparse {
            cursor.advance(read as u64);
        }
        Ok(read)
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let left = usize::try_from(self.data).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let read = self.read_some(&mut buffer[..length])?;
        if read == 0 {
            return Err(ArchiveError::Truncated);
        }
        self.data -= read as u64;
        Ok(read)
    }

    /// Reads the stream to its end: what follows the archive belongs to the diffID.
    pub(crate) fn drain(&mut self) -> Result<u64, ArchiveError> {
        let mut chunk = vec![0; 64 * 1024];
        while self.read_some(&mut chunk)? > 0 {}
        Ok(self.offset)
    }

    /// Applies what came before the header to it.
    fn extend(
        &mut self,
        mut entry: RawEntry,
        extensions: Extensions,
    ) -> Result<RawEntry, ArchiveError> {
        entry.records = extensions.records;
        let at = self.offset;
        let bad = || ArchiveError::Record { offset: at };
        if let Some(path) = entry.record("path") {
            entry.name = path.to_vec();
        }
        if let Some(link) = entry.record("linkpath") {
            entry.link = link.to_vec();
        }
        // A long name of GNU wins over one of PAX, in Go too; an empty one is none.
        if let Some(name) = extensions.name.filter(|name| !name.is_empty()) {
            entry.name = name;
        }
        if let Some(link) = extensions.link.filter(|link| !link.is_empty()) {
            entry.link = link;
        }
        for (key, field) in [("size", 0), ("uid", 1), ("gid", 2)] {
            let Some(text) = entry.record(key) else {
                continue;
            };
            let number = decimal(text).ok_or_else(bad)?;
            match field {
                0 => entry.size = number,
                1 => entry.uid = number,
                _ => entry.gid = number,
            }
        }
        // Version 7 tars have no type for directories; the final name says it.
        if entry.flag == 0 && entry.name.ends_with(b"/") {
            entry.flag = b'5';
        }
        // Entries without data: whatever their size says, none follows (Go's isHeaderOnly).
        if matches!(entry.flag, b'1'..=b'6') {
            entry.size = 0;
        }
        self.data = entry.size;
        self.padding = padding_of(entry.size);
        Ok(entry)
    }

    /// Whether the current entry is a sparse file, which holds more than the archive does.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse.is_some()
    }

    /// Finds out where the data of a sparse file goes.
    fn spread(
        &mut self,
        mut entry: RawEntry,
        block: &[u8; BLOCK],
    ) -> Result<RawEntry, ArchiveError> {
        let at = self.offset;
        let bad = || ArchiveError::Sparse { offset: at };
        let (size, regions) = match form(&entry).ok_or_else(bad)? {
            Form::Plain => return Ok(entry),
            Form::Header => self.old_map(block)?,
            Form::Records => (size_of(&entry), of_records(&entry)),
            Form::Lines => (size_of(&entry), self.lines()?),
        };
        let map = size.zip(regions);
        let map = map.and_then(|(size, regions)| Map::new(size, regions));
        let map = map
            .filter(|map| map.stored() == self.data)
            .ok_or_else(bad)?;
        // A tar may say so many zeros in so few bytes that only writing them down again, for a copy
        // or for a layer of them, would fill the disk.
        self.holes = self.holes.saturating_add(map.size() - map.stored());
        self.check_limit()?;
        entry.size = map.size();
        entry.flag = b'0';
        if let Some(name) = entry.record("GNU.sparse.name") {
            entry.name = name.to_vec();
        }
        self.sparse = Some(Cursor::new(map));
        Ok(entry)
    }

    /// The map in the header and in the blocks after it, which no size counts.
    fn old_map(&mut self, block: &[u8; BLOCK]) -> Result<SizeAndRegions, ArchiveError> {
        let at = self.offset;
        let Some(mut map) = Old::of_header(block) else {
            return Ok((None, None));
        };
        while map.more {
            self.bound_map(at)?;
            let block = self.block()?.ok_or(ArchiveError::Truncated)?;
            if map.take(&block).is_none() {
                return Ok((None, None));
            }
        }
        Ok((Some(map.size), Some(map.regions)))
    }

    /// The map in the first blocks of the data.
    fn lines(&mut self) -> Result<Option<Vec<Region>>, ArchiveError> {
        let at = self.offset;
        let mut lines = Lines::default();
        let mut block = [0; BLOCK];
        loop {
            self.bound_map(at)?;
            if self.data < BLOCK as u64 {
                return Ok(None);
            }
            self.read_whole(&mut block)?;
            self.data -= BLOCK as u64;
            match lines.take(&block) {
                Some(false) => {}
                Some(true) => return Ok(lines.regions()),
                None => return Ok(None),
            }
        }
    }

    fn bound_map(&self, from: u64) -> Result<(), ArchiveError> {
        let (offset, size) = (self.offset, self.offset - from);
        match size > MAX_EXTENSION {
            true => Err(ArchiveError::ExtensionTooLarge { offset, size }),
            false => Ok(()),
        }
    }

    /// The records of an extended header.
    fn records(&mut self, at: u64) -> Result<Vec<Record>, ArchiveError> {
        records(&self.extension()?).ok_or(ArchiveError::Record { offset: at })
    }

    /// The data of an extension, whole.
    fn extension(&mut self) -> Result<Vec<u8>, ArchiveError> {
        let size = self.data;
        if size > MAX_EXTENSION {
            return Err(ArchiveError::ExtensionTooLarge {
                offset: self.offset,
                size,
            });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_whole(&mut bytes)?;
        self.data = 0;
        Ok(bytes)
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let mut chunk = [0_u8; 8192];
        let mut left = self.data.saturating_add(self.padding);
        while left > 0 {
            let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let read = self.read_some(&mut chunk[..length])?;
            // The padding of the last entry may be missing, its data may not.
            if read == 0 && left > self.padding {
                return Err(ArchiveError::Truncated);
            }
            if read == 0 {
                break;
            }
            left -= read as u64;
        }
        (self.data, self.padding, self.sparse) = (0, 0, None);
        Ok(())
    }

    /// A block that is a header; `None` at the end, which is two zero blocks or that of the stream.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.block()? {
            None => Ok(None),
            Some(second) if second == [0; BLOCK] => Ok(None),
            Some(_) => Err(ArchiveError::HalfEnd {
                offset: self.offset - 2 * BLOCK as u64,
            }),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        let first = self.read_some(&mut block)?;
        if first == 0 {
            return Ok(None);
        }
        self.read_whole(&mut block[first..])?;
        Ok(Some(block))
    }

    fn read_whole(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_some(&mut buffer[done..])? {
                0 => return Err(ArchiveError::Truncated),
                read => done += read,
            }
        }
        Ok(())
    }

    /// The only place that reads; counts against the limit, and stops when it is cancelled.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        self.cancel.check()?;
        let read = loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(ArchiveError::Read)?,
            }
        };
        self.offset += read as u64;
        self.check_limit()?;
        Ok(read)
    }

    fn check_limit(&self) -> Result<(), ArchiveError> {
        let limit = self.limit;
        match self.offset.saturating_add(self.holes) > limit {
            true => Err(ArchiveError::TooLarge { limit }),
            false => Ok(()),
        }
    }
}

fn parse_header(block: &[u8; BLOCK], end: u64) -> Result<RawEntry, ArchiveError> {
    let offset = end - BLOCK as u64;
    let number = |range: std::ops::Range<usize>, field| {
        unsigned(&block[range]).ok_or(ArchiveError::Number { offset, field })
    };
    check_sum(block, offset)?;
    let ustar = &block[257..263] == b"ustar\0";
    let gnu = &block[257..265] == b"ustar  \0";
    let star = ustar && &block[508..512] == b"tar\0";
    let mut name = until_nul(&block[..100]);
    let prefix = match (star, ustar) {
        (true, _) => until_nul(&block[345..476]),
        (_, true) => until_nul(&block[345..500]),
        _ => Vec::new(),
    };
    if !prefix.is_empty() {
        name = [prefix, b"/".to_vec(), name].concat();
    }
    let device = ustar || gnu;
    let mtime = numeric(&block[136..148]).and_then(|n| i64::try_from(n).ok());
    Ok(RawEntry {
        flag: block[156],
        name,
        link: until_nul(&block[157..257]),
        size: number(124..136, "size")?,
        mode: number(100..108, "mode")?,
        uid: number(108..116, "uid")?,
        gid: number(116..124, "gid")?,
        mtime: mtime.ok_or(ArchiveError::Number {
            offset,
            field: "mtime",
        })?,
        major: if device {
            number(329..337, "devmajor")?
        } else {
            0
        },
        minor: if device {
            number(337..345, "devminor")?
        } else {
            0
        },
        records: Vec::new(),
    })
}

/// The sum of all bytes with the field itself as spaces; old tars summed signed bytes.
fn check_sum(block: &[u8; BLOCK], offset: u64) -> Result<(), ArchiveError> {
    let rest = || block[..148].iter().chain(&block[156..]);
    let unsigned: i128 = rest().map(|b| i128::from(*b)).sum::<i128>() + 8 * 32;
    let signed: i128 = rest().map(|b| i128::from(b.cast_signed())).sum::<i128>() + 8 * 32;
    match numeric(&block[148..156]) {
        Some(said) if said == unsigned || said == signed => Ok(()),
        _ => Err(ArchiveError::Checksum { offset }),
    }
}

fn padding_of(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
