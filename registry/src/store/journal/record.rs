//! The bytes of the journal: a segment's head and its records. Pure.
//!
//! ```text
//! segment  head (4096)  record  record  …        each record begins at a multiple of 4096
//! head     magic 8 · journal 16 · nonce 16 · generation 8 · first sequence 8 · base 32 · sha256 32
//! record   magic 8 · of the nonce 8 · generation 8 · sequence 8 · payload length 8 · sha256 32
//!          · payload · zeros
//! payload  index length 8 · cut 8 (all ones: none) · pages 4 · entries 4
//!          · page numbers 8 each · pages 4096 each · entries
//! entry    kind 1 · digest (2 + n) · kind 0: bytes (4 + n); kind 1: name (2 + n)
//! ```
//!
//! Payloads carry bytes that others chose. A record's sum covers the nonce of its segment, which is
//! drawn anew at each turn and never leaves this file, so nothing that was pushed can pass for a
//! record, nor can one of an earlier turn; a part of the nonce in front spares a reader from summing up
//! what only looks like one. A record never shares a sector with the one before it:
//! writing it cannot tear what is already synced.

use std::sync::Arc;

use config::name::parse_digest;
use ring::digest::{Context, SHA256};

use super::overlay::{Layer, PAGE};
use crate::digest::Digest;

const HEAD_MAGIC: [u8; 8] = *b"dpjhead1";
const RECORD_MAGIC: [u8; 8] = *b"dpjrecd1";
pub(crate) const RECORD_HEAD: usize = 72;
const TAG: usize = 8;
const SUM: usize = 32;
const NO_CUT: u64 = u64::MAX;

/// 32 bytes of SHA-256.
pub(crate) type Sum = [u8; SUM];

pub(crate) fn sum(parts: &[&[u8]]) -> Sum {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut sum = [0; SUM];
    sum.copy_from_slice(context.finish().as_ref());
    sum
}

/// The first block of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The journal that this segment belongs to; a new one with every open.
    pub(crate) journal: [u8; 16],
    pub(crate) nonce: [u8; 16],
    /// Counts turns; its lowest bit says which file.
    pub(crate) generation: u64,
    /// Of this segment's first record; the segment before counts only below it.
    pub(crate) first: u64,
    /// Sum of the first sector of the index as it was sealed when this turn began.
    pub(crate) base: Sum,
}

impl Head {
    fn tag(&self) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(self.nonce.split_at(TAG).0);
        tag
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(PAGE);
        block.extend_from_slice(&HEAD_MAGIC);
        block.extend_from_slice(&self.journal);
        block.extend_from_slice(&self.nonce);
        block.extend_from_slice(&self.generation.to_le_bytes());
        block.extend_from_slice(&self.first.to_le_bytes());
        block.extend_from_slice(&self.base);
        let sum = sum(&[&block]);
        block.extend_from_slice(&sum);
        block.resize(PAGE, 0);
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let mut input = Input(block);
        let (covered, _) = block.split_at_checked(8 + 16 + 16 + 8 + 8 + SUM)?;
        let magic: [u8; 8] = input.array()?;
        let head = Self {
            journal: input.array()?,
            nonce: input.array()?,
            generation: input.u64()?,
            first: input.u64()?,
            base: input.array()?,
        };
        let good = magic == HEAD_MAGIC && input.array::<SUM>()? == sum(&[covered]);
        good.then_some(head)
    }
}

/// A file of the content folder that a record vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The whole blob.
    Bytes { digest: Digest, bytes: Vec<u8> },
    /// The blob's data is synced under this name of the uploads folder, whose entry is durable.
    Named { digest: Digest, name: String },
}

impl Entry {
    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Self::Bytes { digest, .. } | Self::Named { digest, .. } => digest,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        match self {
            Self::Bytes { digest, bytes } => {
                out.push(0);
                text(out, digest.as_ref());
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Named { digest, name } => {
                out.push(1);
                text(out, digest.as_ref());
                text(out, name);
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        let [kind] = input.array()?;
        let digest = parse_digest(input.text()?).ok()?;
        match kind {
            0 => {
                let length = u32::from_le_bytes(input.array()?) as usize;
                let bytes = input.take(length)?.to_vec();
                Some(Self::Bytes { digest, bytes })
            }
            1 => {
                let name = input.text()?.to_owned();
                Some(Self::Named { digest, name })
            }
            _ => None,
        }
    }
}

/// One sealed batch.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    /// Of the index after this record, in bytes.
    pub(crate) length: u64,
    pub(crate) layer: Layer,
    pub(crate) entries: Vec<Entry>,
}

impl Record {
    /// The record's bytes, padded to whole blocks.
    pub(crate) fn encode(&self, head: &Head) -> Vec<u8> {
        let pages = &self.layer.pages;
        let mut out = vec![0; RECORD_HEAD];
        out.reserve(24 + pages.len() * (PAGE + 8));
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.layer.cut.unwrap_or(NO_CUT).to_le_bytes());
        out.extend_from_slice(&(pages.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for number in pages.keys() {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for bytes in pages.values() {
            out.extend_from_slice(bytes);
        }
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        let (start, payload) = out.split_at_mut(RECORD_HEAD);
        let numbers = [head.generation, self.sequence, payload.len() as u64];
        let mut fields = RECORD_MAGIC.to_vec();
        fields.extend_from_slice(&head.tag());
        fields.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let sum = sum(&[&head.nonce, &fields, payload]);
        fields.extend_from_slice(&sum);
        start.copy_from_slice(&fields);
        out.resize(out.len().next_multiple_of(PAGE), 0);
        out
    }

    /// The payload's length, where `start` begins record `sequence` of the segment.
    pub(crate) fn expect(start: &[u8], head: &Head, sequence: u64) -> Option<u64> {
        let (found, length) = Self::announced(start, head)?;
        (found == sequence).then_some(length)
    }

    /// The sequence and the payload's length that a record's head of this turn announces. Nothing
    /// is verified yet.
    pub(crate) fn announced(start: &[u8], head: &Head) -> Option<(u64, u64)> {
        let mut input = Input(start);
        let known = input.array()? == RECORD_MAGIC
            && input.array()? == head.tag()
            && input.u64()? == head.generation;
        let numbers = (input.u64()?, input.u64()?);
        known.then_some(numbers)
    }

    /// Whether a record of any turn seems to begin here.
    pub(crate) fn seems_to_begin(start: &[u8]) -> bool {
        start.starts_with(&RECORD_MAGIC)
    }

    /// The record out of its head and payload; `None` where the sum or the shape is wrong.
    pub(crate) fn decode(start: &[u8], payload: &[u8], head: &Head) -> Option<Self> {
        let (fields, expected) = start.split_at_checked(RECORD_HEAD - SUM)?;
        if sum(&[&head.nonce, fields, payload]) != *expected {
            return None;
        }
        let sequence = u64::from_le_bytes(fields.get(24..32)?.try_into().ok()?);
        let mut input = Input(payload);
        let length = input.u64()?;
        let cut = Some(input.u64()?).filter(|cut| *cut != NO_CUT);
        let pages = u32::from_le_bytes(input.array()?) as usize;
        let entries = u32::from_le_bytes(input.array()?);
        let mut numbers = Input(input.take(pages.checked_mul(8)?)?);
        let mut layer = Layer {
            cut,
            ..Layer::default()
        };
        for _ in 0..pages {
            let bytes: Arc<[u8]> = input.take(PAGE)?.into();
            layer.pages.insert(numbers.u64()?, bytes);
        }
        let entries = (0..entries).map(|_| Entry::decode(&mut input));
        Some(Self {
            sequence,
            length,
            layer,
            entries: entries.collect::<Option<_>>()?,
        })
    }
}

/// Bytes that are read from the front; `None` where they end too early.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u16::from_le_bytes(self.array()?);
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, digest_of};

    fn head() -> Head {
        Head {
            journal: [1; 16],
            nonce: [2; 16],
            generation: 7,
            first: 40,
            base: [3; 32],
        }
    }

    fn record() -> Record {
        let mut layer = Layer {
            cut: Some(9),
            ..Layer::default()
        };
        layer.pages.insert(0, vec![5; PAGE].into());
        layer.pages.insert(77, vec![6; PAGE].into());
        let digest = digest_of(Algorithm::Sha512, b"abc");
        Record {
            sequence: 40,
            length: 100 * PAGE as u64,
            layer,
            entries: vec![
                Entry::Bytes {
                    digest: digest.clone(),
                    bytes: b"abc".to_vec(),
                },
                Entry::Named {
                    digest,
                    name: "p-1".to_owned(),
                },
            ],
        }
    }

    #[test]
    fn comes_back_as_it_went_in() {
        let (head, record) = (head(), record());
        assert_eq!(Head::decode(&head.encode()), Some(head.clone()));
        let bytes = record.encode(&head);
        assert_eq!(bytes.len() % PAGE, 0);
        let length = Record::expect(&bytes, &head, 40).unwrap() as usize;
        let (start, rest) = bytes.split_at(RECORD_HEAD);
        let back = Record::decode(start, &rest[..length], &head).unwrap();
        assert_eq!((back.sequence, back.length), (40, record.length));
        assert_eq!(back.entries, record.entries);
        assert_eq!(back.layer.pages, record.layer.pages);
        assert_eq!(back.layer.cut, Some(9));
    }

    #[test]
    fn no_changed_bit_passes() {
        let (head, record) = (head(), record());
        let bytes = record.encode(&head);
        let length = Record::expect(&bytes, &head, 40).unwrap() as usize;
        for at in (0..RECORD_HEAD + length).step_by(61).chain(0..RECORD_HEAD) {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            let (start, rest) = torn.split_at(RECORD_HEAD);
            let expected = Record::expect(start, &head, 40);
            let payload = expected.and_then(|length| rest.get(..length as usize));
            let back = payload.and_then(|payload| Record::decode(start, payload, &head));
            assert!(back.is_none(), "bit at {at}");
        }
        for at in 0..head.encode().len().min(120) {
            let mut torn = head.encode();
            torn[at] ^= 1;
            assert_eq!(Head::decode(&torn), None, "bit at {at}");
        }
    }

    #[test]
    fn a_record_of_another_turn_is_none_of_ours() {
        let (head, record) = (head(), record());
        let bytes = record.encode(&head);
        let (start, rest) = bytes.split_at(RECORD_HEAD);
        let length = Record::expect(start, &head, 40).unwrap() as usize;
        let other = Head {
            nonce: [9; 16],
            ..head.clone()
        };
        assert!(Record::decode(start, &rest[..length], &other).is_none());
        assert_eq!(Record::expect(start, &head, 41), None);
        let later = Head {
            generation: 9,
            ..head
        };
        assert_eq!(Record::expect(start, &later, 40), None);
    }
}
