//! What stands in the place of `/proc` decides what programs believe of who is who inside, so nothing
//! is mounted over it. Pure: a path is judged by its names, once as it was written and once as it was
//! found beneath the root, because an image's links may lead there.

use std::path::Path;

/// What a file system for processes shows of itself, and may be shown otherwise: by runc's rule, which is
/// there for LXCFS.
const SHOWN_OTHERWISE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether a mount at this place, absolute and clean, would hide what the kernel says.
pub fn is_hidden_by(place: &Path) -> bool {
    let is_shown_otherwise = |place: &Path| {
        let mut shown = SHOWN_OTHERWISE.iter();
        shown.any(|shown| place == Path::new(shown))
    };
    place.starts_with("/proc") && !is_shown_otherwise(place)
}
