//! Reading a blob from beginning to end without pushing others out of the page cache.
//!
//! What was in the cache before stays there; what was not is dropped again after it was read. A
//! file system that cannot say whether something is cached loses it.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

/// Reads `file` in pieces of at most `piece` bytes; `told` gets each and says whether to go on.
/// Answers whether the end was reached.
pub(super) fn read_through(
    file: &File,
    piece: usize,
    told: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    // Read-ahead would put into the cache what was not there, and hide that it was not.
    let _ = fadvise(file, 0, None, Advice::Random);
    let mut buffer = vec![0; piece.max(1)];
    let mut offset = 0;
    loop {
        let (count, was_cached) = read_piece(file, &mut buffer, offset)?;
        let Some(length) = NonZeroU64::new(count as u64) else {
            return Ok(true);
        };
        if !was_cached {
            // Only advice: where it is not taken, nothing is wrong.
            let _ = fadvise(file, offset, Some(length), Advice::DontNeed);
        }
        if !told(buffer.get(..count).unwrap_or_default()) {
            return Ok(false);
        }
        offset += length.get();
    }
}

/// Bytes read at `offset`, and whether all of them were in the cache.
fn read_piece(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<(usize, bool)> {
    let mut slices = [io::IoSliceMut::new(buffer)];
    let cached = preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT);
    if let Ok(count) = cached
        && count == buffer.len()
    {
        return Ok((count, true));
    }
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // The last piece is shorter than the buffer: cached if it came whole at once.
    Ok((filled, cached.is_ok_and(|count| count == filled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_once_and_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        io::Write::write_all(&mut file, &content).unwrap();
        for piece in [1_000, 4096, 99_999, 100_000, 1_000_000] {
            let mut seen = Vec::new();
            let mut take = |bytes: &[u8]| {
                seen.extend_from_slice(bytes);
                true
            };
            assert!(read_through(&file, piece, &mut take).unwrap());
            assert!(seen == content, "in pieces of {piece}");
        }
        let mut pieces = 0;
        let mut stop = |_: &[u8]| {
            pieces += 1;
            pieces < 3
        };
        assert!(!read_through(&file, 1000, &mut stop).unwrap());
        assert_eq!(pieces, 3);
    }
}
