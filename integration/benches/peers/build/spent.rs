//! What a command cost: time, and processor seconds of it and of the daemon that works for it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::param::clock_ticks_per_second;

use crate::figures::run;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Runs a command that must succeed.
pub(crate) fn spent(command: &mut Command, daemon: Option<u32>) -> Spent {
    let pids = [Some(std::process::id()), daemon];
    let cpu = || pids.iter().flatten().map(|pid| ticks(*pid)).sum::<u64>();
    let (before, begun) = (cpu(), Instant::now());
    run(command);
    let wall = begun.elapsed();
    let ticks = cpu() - before;
    Spent {
        wall,
        cpu: Duration::from_millis(ticks * 1000 / clock_ticks_per_second()),
    }
}

/// Of a process and of its children that ended.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    // utime, stime, cutime and cstime, from the state on.
    let four = fields.skip(11).take(4);
    four.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// The middle one of some, by time.
pub(crate) fn middle(mut all: Vec<Spent>) -> Spent {
    all.sort_by_key(|spent| spent.wall);
    all[all.len() / 2]
}

/// Forgets how much memory a process once had.
pub(crate) fn forget_peak(pid: u32) {
    // Where that is refused, the peak since its start is told, which is no less.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// The most memory that a process had at once, in MiB.
pub(crate) fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    kib.parse::<u64>().unwrap() / 1024
}
