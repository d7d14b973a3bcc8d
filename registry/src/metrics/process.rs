//! This process, as the kernel sees it (proc(5)). What cannot be read counts as zero: metrics must
//! not fail for it.

use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Memory that is resident now.
pub(super) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Descriptors that are open now, but for the one that counts them.
pub(super) fn open_descriptors() -> u64 {
    let entries = fs::read_dir("/proc/self/fd").map(Iterator::count);
    (entries.unwrap_or(0) as u64).saturating_sub(1)
}

/// Seconds since 1970 at which the process began; found once.
pub(super) fn started() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| since_boot().unwrap_or(0.0))
}

/// The start stands in clock ticks since boot; the machine's age turns it into a date.
fn since_boot() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name that may hold spaces; the rest comes after its parenthesis.
    let (_, rest) = text.rsplit_once(')')?;
    let ticks: f64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.as_secs_f64() - uptime + ticks / per_second)
}
