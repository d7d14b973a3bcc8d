//! Unpacking of an image in an OCI layout, beside `umoci unpack` into a bundle.
//!
//! `DEVPOD_BENCH_LAYOUT` names the layout's folder, `DEVPOD_BENCH_TAG` the image in it. Prints one
//! line per run; fails when both did not make as many files. Says so where something is missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
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

fn main() {
    let Some(folder) = std::env::var_os("DEVPOD_BENCH_LAYOUT") else {
        println!("skipped: DEVPOD_BENCH_LAYOUT names no image layout");
        return;
    };
    let tag = std::env::var("DEVPOD_BENCH_TAG").unwrap_or_else(|_| "latest".into());
    let layout = Layout::open(Path::new(&folder)).unwrap();
    let image = image_of(&layout, &tag);
    for run in 0..RUNS {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let started = Instant::now();
        unpack(&image, &layout, &snapshots, &Silent, &Cancel::default()).unwrap();
        report("devpod, snapshots", run, started);
        let flat = dir.path().join("flat");
        let options = ApplyOptions::default();
        let started = Instant::now();
        unpack_to(
            &image,
            &layout,
            &flat,
            &options,
            &Silent,
            &Cancel::default(),
        )
        .unwrap();
        report("devpod, one tree", run, started);
        let bundle = dir.path().join("bundle");
        let started = Instant::now();
        if !umoci(Path::new(&folder), &tag, &bundle) {
            println!("skipped: umoci is not installed or may not unpack");
            continue;
        }
        report("umoci", run, started);
        assert_eq!(count(&flat), count(&bundle.join("rootfs")));
    }
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

fn report(tool: &str, run: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{tool} run {run}: {seconds:.2} s");
}
