//! What an upload session accepts next; pure, no I/O and no clock.
//!
//! A session is a growing prefix of a blob. Bytes come as a stream without a position, or as chunks
//! that say where they stand; a chunk that does not begin at the end of what is here is out of
//! order and changes nothing (distribution-spec, "Pushing a blob in chunks", 416).

use std::str::FromStr;

/// `Content-Range` of a chunk: first and last byte, both counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRange {
    first: u64,
    last: u64,
}

/// The text is no chunk range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("content range {text:?} is not <first>-<last>")]
pub struct BadChunkRange {
    pub text: String,
}

impl ChunkRange {
    pub fn first(self) -> u64 {
        self.first
    }

    /// Bytes in the chunk, at least one.
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

impl FromStr for ChunkRange {
    type Err = BadChunkRange;

    /// `^[0-9]+-[0-9]+$`; there is no unit in front (distribution-spec, "Pushing a blob in chunks").
    fn from_str(text: &str) -> Result<Self, BadChunkRange> {
        let bad = || BadChunkRange {
            text: text.to_owned(),
        };
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !(digits(first) && digits(last)) {
            return Err(bad());
        }
        let first: u64 = first.parse().map_err(|_| bad())?;
        let last: u64 = last.parse().map_err(|_| bad())?;
        // The length of 0-u64::MAX does not fit a u64.
        if first > last || last == u64::MAX {
            return Err(bad());
        }
        Ok(Self { first, last })
    }
}

/// Why a chunk was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("chunk begins at byte {first}, but the session has {offset} bytes")]
    OutOfOrder { first: u64, offset: u64 },
    #[error("chunk of {stated} bytes comes with {length}")]
    Length { stated: u64, length: u64 },
    #[error("upload would have more than {limit} bytes")]
    TooLarge { limit: u64 },
}

/// How many bytes a request may add, and how many it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    most: u64,
    exact: bool,
}

/// Decides about a request's body before any byte of it is taken. `offset` is what the session has,
/// `length` the body's Content-Length where it is known, `limit` the size of the greatest blob.
pub fn admit(
    offset: u64,
    range: Option<ChunkRange>,
    length: Option<u64>,
    limit: u64,
) -> Result<Allowance, ChunkError> {
    let most = limit.saturating_sub(offset);
    let too_large = ChunkError::TooLarge { limit };
    let Some(range) = range else {
        return match length {
            Some(length) if length > most => Err(too_large),
            _ => Ok(Allowance { most, exact: false }),
        };
    };
    if range.first() != offset {
        let first = range.first();
        return Err(ChunkError::OutOfOrder { first, offset });
    }
    let stated = range.length();
    match length {
        Some(length) if length != stated => Err(ChunkError::Length { stated, length }),
        _ if stated > most => Err(too_large),
        _ => Ok(Allowance {
            most: stated,
            exact: true,
        }),
    }
}

impl Allowance {
    /// Whether `more` bytes may follow after `taken`.
    pub fn take(self, taken: u64, more: u64) -> Result<(), ChunkError> {
        let length = taken.saturating_add(more);
        if length <= self.most {
            return Ok(());
        }
        Err(self.violation(length))
    }

    /// Whether a body that ended after `taken` bytes was as long as it said.
    pub fn end(self, taken: u64) -> Result<(), ChunkError> {
        if self.exact && taken != self.most {
            return Err(self.violation(taken));
        }
        Ok(())
    }

    fn violation(self, length: u64) -> ChunkError {
        if self.exact {
            let stated = self.most;
            ChunkError::Length { stated, length }
        } else {
            ChunkError::TooLarge { limit: self.most }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_chunk_ranges() {
        for (text, expected) in [
            ("0-0", Some((0, 1))),
            ("0-9", Some((0, 10))),
            ("10-19", Some((10, 10))),
            ("bytes=0-9", None),
            ("bytes 0-9/10", None),
            ("9-0", None),
            ("-9", None),
            ("9-", None),
            ("+1-2", None),
            ("0-18446744073709551615", None),
            ("0-99999999999999999999", None),
            ("", None),
        ] {
            let range = text.parse::<ChunkRange>().ok();
            assert_eq!(range.map(|r| (r.first(), r.length())), expected, "{text}");
        }
    }

    #[test]
    fn admits_only_what_continues() {
        let range = |text: &str| Some(text.parse().unwrap());
        assert!(admit(0, range("0-4"), Some(5), 100).is_ok());
        assert!(admit(5, range("5-9"), None, 100).is_ok());
        assert_eq!(
            admit(5, range("6-9"), Some(4), 100),
            Err(ChunkError::OutOfOrder {
                first: 6,
                offset: 5
            })
        );
        assert_eq!(
            admit(0, range("0-4"), Some(4), 100),
            Err(ChunkError::Length {
                stated: 5,
                length: 4
            })
        );
        assert_eq!(
            admit(0, range("0-100"), None, 100),
            Err(ChunkError::TooLarge { limit: 100 })
        );
        assert_eq!(
            admit(90, None, Some(11), 100),
            Err(ChunkError::TooLarge { limit: 100 })
        );
        assert!(admit(90, None, None, 100).is_ok());
    }

    #[test]
    fn a_chunk_must_be_as_long_as_it_says() {
        let chunk = admit(0, Some("0-4".parse().unwrap()), None, 100).unwrap();
        assert!(chunk.take(0, 5).is_ok());
        assert!(chunk.take(3, 3).is_err());
        assert!(chunk.end(5).is_ok());
        assert!(chunk.end(4).is_err());
        let stream = admit(0, None, None, 100).unwrap();
        assert!(stream.end(3).is_ok());
        assert!(stream.take(100, 1).is_err());
    }

    proptest! {
        #[test]
        fn a_range_prints_to_itself(first in 0u64..1 << 40, length in 1u64..1 << 40) {
            let last = first + length - 1;
            let range: ChunkRange = format!("{first}-{last}").parse().unwrap();
            prop_assert_eq!((range.first(), range.length()), (first, length));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<ChunkRange>();
        }
    }
}
