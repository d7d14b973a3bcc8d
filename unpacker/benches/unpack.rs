//! Unpacking of an image in an OCI layout, beside `umoci unpack` into a bundle.
//!
//! `DEVPOD_BENCH_LAYOUT` names the layout's folder, `DEVPOD_BENCH_TAG` the image in it; everything
//! is written below `TMPDIR`. Ours runs in a process of its own, so that its memory can be told.
//! Prints one line per run; fails when both did not make as many files. Says so where something is
//! missing. `integration/benches/peers` has more peers, and makes its image itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use unpacker::content::Content;
use unpacker::image::Image;
use unpacker::image::layout::Layout;
use unpacker::image::read::{Platform, load_for};
use unpacker::image::unpack::{unpack, unpack_to};
use unpacker::layer::apply::ApplyOptions;
use unpacker::progress::{Cancel, Silent};
use unpacker::snapshot::store::Snapshots;

const RUNS: usize = 3;
/// Set in the process that unpacks: where to.
const INSIDE: &str = "DEVPOD_BENCH_INSIDE";

fn main() {
    let Some(folder) = std::env::var_os("DEVPOD_BENCH_LAYOUT").map(PathBuf::from) else {
        println!("skipped: DEVPOD_BENCH_LAYOUT names no image layout");
        return;
    };
    let tag = std::env::var("DEVPOD_BENCH_TAG").unwrap_or_else(|_| "latest".into());
    if let Some(place) = std::env::var_os(INSIDE) {
        inside(&folder, &tag, Path::new(&place));
        return;
    }
    for run in 0..RUNS {
        println!("run {run}");
        let dir = tempfile::tempdir().unwrap();
        for name in ["snapshots", "flat"] {
            let mut own = Command::new(std::env::current_exe().unwrap());
            let done = own.env(INSIDE, dir.path().join(name)).status().unwrap();
            assert!(done.success());
        }
        let bundle = dir.path().join("bundle");
        let started = Instant::now();
        if !umoci(&folder, &tag, &bundle) {
            println!("skipped: umoci is not installed or may not unpack");
            continue;
        }
        report("umoci", started);
        let flat = count(&dir.path().join("flat"));
        assert_eq!(flat, count(&bundle.join("rootfs")));
    }
}

fn inside(layout: &Path, tag: &str, place: &Path) {
    let layout = Layout::open(layout).unwrap();
    let image = image_of(&layout, tag);
    let cancel = Cancel::default();
    let idle = memory("VmRSS");
    if place.ends_with("flat") {
        let options = ApplyOptions::default();
        let started = Instant::now();
        unpack_to(&image, &layout, place, &options, &Silent, &cancel).unwrap();
        report("devpod, one tree", started);
    } else {
        let snapshots = Snapshots::open(place).unwrap();
        let go = || unpack(&image, &layout, &snapshots, &Silent, &cancel).unwrap();
        let started = Instant::now();
        go();
        report("devpod, snapshots", started);
        let started = Instant::now();
        go();
        report("devpod, the same again", started);
    }
    let peak = memory("VmHWM").saturating_sub(idle);
    println!("{:24} {peak} KiB above idle", "memory");
}

/// A figure of this process in KiB.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn image_of(layout: &Layout, tag: &str) -> Image {
    let descriptor = layout.find(tag).unwrap().expect("no image has this tag");
    let content: &dyn Content = layout;
    let bytes = content.read(descriptor.digest(), 1 << 20).unwrap().unwrap();
    load_for(content, &bytes, &Platform::host()).unwrap()
}

fn umoci(layout: &Path, tag: &str, bundle: &Path) -> bool {
    let image = format!("{}:{tag}", layout.display());
    let done = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(bundle)
        .status();
    done.is_ok_and(|status| status.success())
}

/// Files of every kind but devices, of which we make the harmless ones only.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            match kind.is_dir() {
                true => 1 + count(&entry.path()),
                false => usize::from(!kind.is_char_device() && !kind.is_block_device()),
            }
        })
        .sum()
}

fn report(what: &str, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:24} {seconds:.4} s");
}
