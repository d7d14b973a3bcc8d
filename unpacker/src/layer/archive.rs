//! A tar stream as headers and data: blocks, checksums, numbers, PAX and GNU extensions.
//!
//! Reads what Go's `archive/tar` reads, because every tool that writes or checks layers is built on
//! it and two readings of one archive are an attack (CVE-2025-62518). What is malformed is an
//! error, never skipped. Says nothing about what entries mean. Source: POSIX pax; GNU tar manual,
//! "Basic Tar Format".

use std::io::{self, Read};

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
    #[error("the layer has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A key and a value of an extended header.
type Record = (Vec<u8>, Vec<u8>);

/// One header with its extensions resolved, not yet interpreted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) flag: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// Bytes of data that follow.
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
    ended: bool,
    cancel: &'a Cancel,
}

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
                    parse_records(&self.extension()?, at)?;
                    return Ok(Some(entry));
                }
                _ => return self.extend(entry, extensions).map(Some),
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
        let bytes = self.extension()?;
        match flag {
            b'x' => known.records = parse_records(&bytes, at)?,
            b'L' => known.name = Some(until_nul(&bytes)),
            _ => known.link = Some(until_nul(&bytes)),
        }
        Ok(())
    }

    /// Reads data of the current entry.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
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
        (self.data, self.padding) = (0, 0);
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
        if self.offset > self.limit {
            return Err(ArchiveError::TooLarge { limit: self.limit });
        }
        Ok(read)
    }
}

fn parse_header(block: &[u8; BLOCK], end: u64) -> Result<RawEntry, ArchiveError> {
    let offset = end - BLOCK as u64;
    let number = |range: std::ops::Range<usize>, field| {
        numeric(&block[range])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or(ArchiveError::Number { offset, field })
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

/// An octal field, or a two's complement number behind a set high bit (GNU).
fn numeric(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start: i128 = if negative { -1 } else { 0 };
        // The top bit is the mark, not part of the number.
        let first = if negative { first } else { first & 0x7f };
        let bytes = std::iter::once(first).chain(field[1..].iter().copied());
        return Some(bytes.fold(start, |sum, byte| (sum << 8) | i128::from(byte)));
    }
    let text: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ' || *byte == 0)
        .take_while(|byte| *byte != b' ' && *byte != 0)
        .collect();
    text.iter().try_fold(0_i128, |sum, byte| match byte {
        b'0'..=b'7' => Some(sum * 8 + i128::from(byte - b'0')),
        _ => None,
    })
}

/// `length key=value\n`, again and again.
fn parse_records(mut bytes: &[u8], offset: u64) -> Result<Vec<Record>, ArchiveError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes).ok_or(ArchiveError::Record { offset })?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}

fn split_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    let (&last, record) = record.split_last()?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // Attribute values are binary; everything else is text, which has no NUL.
    let binary = key.starts_with(b"SCHILY.xattr.");
    let sound = last == b'\n' && !key.is_empty() && !key.contains(&0);
    if !sound || (!binary && value.contains(&0)) {
        return None;
    }
    Some(((key.to_vec(), value.to_vec()), &bytes[length..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field[..end.unwrap_or(field.len())].to_vec()
}

fn padding_of(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   644 \0"), Some(0o644));
        assert_eq!(numeric(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(numeric(b"0000648\0"), None);
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 0x20, 0, 0]), Some(0x20_0000));
        assert_eq!(numeric(&[0xff; 12]), Some(-1));
    }

    #[test]
    fn records_are_sound_or_refused() {
        let good = parse_records(b"8 a=bcd\n6 k=v\n", 0).unwrap();
        assert_eq!(good[0], (b"a".to_vec(), b"bcd".to_vec()));
        assert_eq!(good[1], (b"k".to_vec(), b"v".to_vec()));
        for bad in [
            &b"9 a=bcd\n"[..],
            b"8 a=bcdx",
            b"a=b\n",
            b"5 ab\n",
            b"5 =b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"7 a=\0b\n",
        ] {
            assert!(parse_records(bad, 0).is_err(), "{bad:?}");
        }
    }
}
