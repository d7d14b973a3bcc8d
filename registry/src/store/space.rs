//! Room that is left to the index: a disk counts as full before it is.
//!
//! To delete something the index needs a few pages more than it has. Were the last byte of the disk
//! given to a blob, nothing could be deleted any more; so what adds content is refused earlier.

use std::io;

use rustix::fs::fstatvfs;

use crate::store::blobs::Blobs;

/// Bytes that pushes leave free, on a disk that has many.
pub const RESERVE: u64 = 32 * 1024 * 1024;
/// Of a small disk, so many hundredths are left free.
const HUNDREDTHS: u64 = 2;
/// What one body brings between two looks at the disk. Many that come at once must not overrun the
/// reserve together, and a look costs a microsecond.
pub(super) const LOOK_EVERY: u64 = 64 * 1024;

impl Blobs {
    /// An error of the kind [`io::ErrorKind::StorageFull`] where only the reserve is left.
    pub(super) fn room(&self) -> io::Result<()> {
        let disk = fstatvfs(self.uploads())?;
        if has_room(disk.f_blocks, disk.f_bavail, disk.f_frsize) {
            return Ok(());
        }
        Err(io::ErrorKind::StorageFull.into())
    }

    /// Bytes that may still come before only the reserve is left.
    pub fn free(&self) -> io::Result<u64> {
        let disk = fstatvfs(self.uploads())?;
        if disk.f_blocks == 0 {
            return Ok(u64::MAX);
        }
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(free.saturating_sub(reserve(disk.f_blocks, disk.f_frsize)))
    }
}

fn reserve(blocks: u64, block: u64) -> u64 {
    let hundredths = (blocks / 100)
        .saturating_mul(block)
        .saturating_mul(HUNDREDTHS);
    RESERVE.min(hundredths)
}

fn has_room(blocks: u64, free: u64, block: u64) -> bool {
    // A file system that does not say how large it is has no end.
    blocks == 0 || free.saturating_mul(block) >= reserve(blocks, block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_keep_a_part_and_large_ones_a_fixed_amount() {
        let gib = 1 << 30;
        for (total, free, expected) in [
            (10 * gib, 10 * gib, true),
            (10 * gib, RESERVE, true),
            (10 * gib, RESERVE - 4096, false),
            (gib, gib / 40, true),
            (gib, gib / 60, false),
            (1 << 62, 0, false),
            (0, 0, true),
        ] {
            assert_eq!(
                has_room(total / 4096, free / 4096, 4096),
                expected,
                "{total} {free}"
            );
        }
    }
}
