//! Reading an archive: every change is clean and bounded, and nothing depends on how the bytes come.

use std::io::{self, Read};
use std::path::{Component, Path};

use crate::layer::archive::Archive;
use crate::layer::entry::{Change, MAX_DEPTH, Node, interpret};
use crate::progress::Cancel;

/// Sparse files may say much; so much is gone through.
const LIMIT: u64 = 4 << 20;

/// Reads bytes as a layer, in one piece and in small ones.
pub fn read(bytes: &[u8]) {
    let whole = seen(&mut &bytes[..]);
    let mut pieces = Pieces { bytes, length: 1 };
    assert_eq!(whole, seen(&mut pieces), "the pieces count");
}

/// What the archive says, as text, to its end or its first fault.
fn seen(input: &mut dyn Read) -> Vec<String> {
    let cancel = Cancel::default();
    let mut archive = Archive::new(input, LIMIT, &cancel);
    let mut told = Vec::new();
    let end = loop {
        match one(&mut archive, &mut told) {
            Ok(true) => {}
            Ok(false) => break format!("{:?}", archive.drain()),
            Err(error) => break error,
        }
    };
    told.push(end);
    told
}

fn one(archive: &mut Archive<'_>, told: &mut Vec<String>) -> Result<bool, String> {
    let Some(raw) = archive.next().map_err(|error| format!("{error:?}"))? else {
        return Ok(false);
    };
    let (layered, flat) = (interpret(&raw, true), interpret(&raw, false));
    assert_eq!(layered.is_ok(), flat.is_ok(), "the forms disagree: {raw:?}");
    let change = flat.map_err(|error| format!("{error:?}"))?;
    check(&change);
    told.push(format!("{change:?}"));
    if let Change::Put {
        node: Node::File { size },
        ..
    } = change
    {
        let sum = data(archive, size)?;
        told.push(format!("{sum}"));
    }
    Ok(true)
}

/// A sum over what a file holds.
fn data(archive: &mut Archive<'_>, size: u64) -> Result<u64, String> {
    let (mut sum, mut left) = (0_u64, size);
    let mut buffer = [0; 4096];
    loop {
        let read = archive.read_data(&mut buffer);
        let read = read.map_err(|error| format!("{error:?}"))?;
        if read == 0 {
            break;
        }
        left = left
            .checked_sub(read as u64)
            .unwrap_or_else(|| unreachable!("more than said"));
        for byte in &buffer[..read] {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
        }
    }
    assert_eq!(left, 0, "less than said");
    Ok(sum)
}

fn check(change: &Change) {
    match change {
        Change::Nothing => {}
        Change::Whiteout(path) => {
            assert!(path.file_name().is_some(), "a whiteout of the root");
            clean(path);
        }
        Change::Opaque(path) => clean(path),
        Change::HardLink { path, target } => {
            clean(path);
            clean(target);
        }
        Change::Put {
            path, attributes, ..
        } => {
            clean(path);
            assert!(attributes.mode <= 0o7777 && attributes.mtime.nanos < 1_000_000_000);
            let (uid, gid) = (attributes.owner.uid, attributes.owner.gid);
            assert!(uid != u32::MAX && gid != u32::MAX, "nobody's id");
            for (name, value) in &attributes.xattrs {
                let bytes = name.as_encoded_bytes();
                let ours = bytes.starts_with(b"trusted.") || bytes.starts_with(b"security.s");
                assert!(!ours && bytes.len() < 256 && value.len() <= 1 << 16);
            }
        }
    }
}

fn clean(path: &Path) {
    assert!(path.as_os_str().len() < 4096 && path.iter().count() <= MAX_DEPTH);
    for part in path.components() {
        let Component::Normal(name) = part else {
            panic!("{path:?} leads out");
        };
        assert!(name.len() < 256, "{path:?}");
    }
}

/// Gives one byte, two, three, … at a time.
struct Pieces<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.length.min(buffer.len());
        self.length = self.length % 700 + 1;
        self.bytes.read(&mut buffer[..length])
    }
}

/// The bytes with right checksums where headers seem to stand: what a fuzzer changes would end
/// there otherwise.
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512) {
        at += 512;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let has_data = !matches!(block[156], b'1'..=b'6');
        let size = crate::layer::field::unsigned(&block[124..136]).unwrap_or(0);
        let blocks = usize::try_from(size.div_ceil(512)).unwrap_or(usize::MAX);
        if has_data {
            at = at.saturating_add(blocks.saturating_mul(512));
        }
    }
    bytes
}
