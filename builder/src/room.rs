//! Room on a disk, of which some file systems say nothing.

use std::path::Path;

use rustix::fs::StatVfs;

/// Less than this is no room: file systems keep some back, and programs write more than one block.
const NO_ROOM: u64 = 1 << 20;

/// Whether there is less room than so many bytes. Who counts no blocks (ramfs, a tmpfs without a bound, some of
/// FUSE) says zero of all of them.
pub(crate) fn is_less_than(bytes: u64, disk: &StatVfs) -> bool {
    disk.f_blocks > 0 && disk.f_bavail.saturating_mul(disk.f_frsize) < bytes
}

/// Whether nothing more can be written there. What cannot be asked is not full.
pub(crate) fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| {
        // Some file systems count no files.
        is_less_than(NO_ROOM, &disk) || (disk.f_files > 0 && disk.f_favail == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_counts_no_blocks_has_room() {
        let of_a_disk = rustix::fs::statvfs("/").unwrap();
        for (blocks, available, is_less) in [
            (0, 0, false),
            (1000, 0, true),
            (1000, 9, true),
            (1000, 10, false),
        ] {
            let disk = StatVfs {
                f_blocks: blocks,
                f_bavail: available,
                f_frsize: 4096,
                ..of_a_disk
            };
            assert_eq!(is_less_than(40_960, &disk), is_less, "{blocks} {available}");
        }
        // The kernel's own file system counts none, and nothing of it is written.
        assert!(!is_full(Path::new("/proc")));
    }
}
