//! Archives that cannot be read or written: a clear reason, an exit code, and nothing half-visible.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::probe;
use integration::process::{self, eventually, run};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::archives::{NAME, Scene, shell};

/// No image, no unfinished upload, and no blob that was not there before.
fn nothing_came(appliance: &TestAppliance, before: usize) {
    let rows = appliance
        .run(&["images", "--all", "-o", "json"])
        .ok()
        .json();
    assert_eq!(rows, json!([]));
    eventually("nothing stays", Duration::from_secs(60), || {
        unfinished(appliance.place()) == 0 && blobs(appliance.place()) == before
    });
}

fn blobs(place: &Place) -> usize {
    files(&place.data().join("content/blobs/sha256"))
}

/// Files of uploads, without the empty ones that are made ahead.
fn unfinished(place: &Place) -> usize {
    let entries = fs::read_dir(place.data().join("content/uploads")).unwrap();
    let full = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|data| data.len() > 0);
    entries.flatten().filter(full).count()
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn docker_archive(layers: &[&[u8]], claimed: &[&[u8]]) -> Vec<u8> {
    let diffs: Vec<String> = claimed.iter().map(|layer| layout::digest(layer)).collect();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diffs}})
    .to_string();
    let names: Vec<String> = (0..layers.len())
        .map(|n| format!("{n}/layer.tar"))
        .collect();
    let manifest = json!([{"Config": "c.json", "RepoTags": ["bad:1"], "Layers": names}]);
    let manifest = manifest.to_string();
    let mut entries: Vec<(&str, Entry<'_>)> = names
        .iter()
        .zip(layers)
        .map(|(name, bytes)| (name.as_str(), Entry::File(0o644, bytes)))
        .collect();
    entries.push(("c.json", Entry::File(0o644, config.as_bytes())));
    entries.push(("manifest.json", Entry::File(0o644, manifest.as_bytes())));
    layout::tar(&entries)
}

#[test]
fn bad_archives_say_what_is_wrong_and_leave_nothing() {
    let Some(scene) = Scene::set(&[]) else { return };
    let oci = fs::read(scene.save("oci-archive", "a.tar")).unwrap();
    let layer = layout::tar(&[("x", Entry::File(0o644, b"x"))]);
    let wrong_blob = format!("blobs/sha256/{}", "a".repeat(64));
    let mut flipped = oci.clone();
    // In the middle of the largest blob, far from every header.
    let middle = oci.len() / 2;
    flipped[middle] ^= 0xff;
    let mut huge = layout::tar(&[("h.tar", Entry::File(0o644, b""))]);
    // Ten gigabytes that will never come.
    huge[124..136].copy_from_slice(b"120000000000");
    let sum: u32 = huge[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let cases: [(&str, Vec<u8>, i32, &str); 10] = [
        ("empty", Vec::new(), 2, "the archive is empty"),
        ("truncated", oci[..oci.len() / 2].to_vec(), 2, "cut off"),
        ("flipped", flipped, 2, "does not hold what its name says"),
        ("no archive", b"#!/bin/sh\n".repeat(100), 2, "cut off"),
        (
            "no manifest",
            layout::tar(&[("etc/passwd", Entry::File(0o644, b"x"))]),
            2,
            "neither index.json nor manifest.json, but etc/passwd",
        ),
        (
            "wrong digest",
            layout::tar(&[(&wrong_blob, Entry::File(0o644, b"x"))]),
            2,
            "does not hold what its name says",
        ),
        (
            "other layer",
            docker_archive(&[b"", &layer], &[b"", b""]),
            2,
            "configuration says",
        ),
        (
            "missing layer",
            docker_archive(&[&layer], &[&layer, &layer]),
            2,
            "has 1 layers",
        ),
        (
            "twice",
            layout::tar(&[
                ("a.tar", Entry::File(0o644, b"1")),
                ("a.tar", Entry::File(0o644, b"2")),
            ]),
            2,
            "stands twice",
        ),
        ("huge", huge, 7, "bytes of disk"),
    ];
    let other = TestAppliance::start();
    let before = blobs(other.place());
    for (name, archive, code, words) in cases {
        // Where the disk has room for it, the archive is only cut off.
        let (code, words) = match name == "huge" && free(&other.place().data()) > (11 << 30) {
            true => (2, "cut off"),
            false => (code, words),
        };
        let file = scene.folder.write(name, archive).display().to_string();
        other.run(&["load", "-i", &file]).failed(code).says(words);
        let piped = shell(&other, &format!("$devpod load < '{file}'"));
        piped.failed(code).says(words);
    }
    // A name that leaves the archive; the `tar` crate does not write one.
    let mut traversal = layout::tar(&[("xx/etc/passwd", Entry::File(0o644, b"x"))]);
    traversal[..2].copy_from_slice(b"..");
    let sum: u32 = traversal[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    traversal[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let file = scene
        .folder
        .write("traversal", traversal)
        .display()
        .to_string();
    other
        .run(&["load", "-i", &file])
        .failed(2)
        .says("would leave the archive");
    for (arguments, code, words) in [
        (&["load", "-i", "/nowhere/x.tar"][..], 3, "/nowhere/x.tar"),
        (&["load", "-i", "/etc"], 2, "no image layout"),
        (&["load", "-i", &file, "--name", "Bad Name"], 2, "Bad Name"),
        (&["save", "unknown:1", "-o", "x.tar"], 3, "unknown:1"),
        (&["images", "-o", "yaml"], 2, "text or json"),
    ] {
        other.run(arguments).failed(code).says(words);
    }
    assert!(!other.place().home().join("x.tar").exists());
    nothing_came(&other, before);
}

fn free(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn an_interrupted_load_leaves_nothing() {
    let Some(scene) = Scene::set(&[]) else { return };
    let archive = fs::read(scene.save("docker-archive", "a.tar")).unwrap();
    let other = TestAppliance::start();
    let before = blobs(other.place());
    let mut command = other.place().devpod(&["load"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..archive.len() / 2]).unwrap();
    eventually("a part has come", Duration::from_secs(60), || {
        unfinished(other.place()) > 0 || blobs(other.place()) > before
    });
    process::signal(&child, Signal::INT);
    process::wait(&mut child, Duration::from_secs(60)).expect("an end");
    drop(stdin);
    nothing_came(&other, before);
    // A daemon that dies in the middle leaves no more.
    let mut child = other.place().devpod(&["load"]);
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..archive.len() / 2]).unwrap();
    eventually("a part has come", Duration::from_secs(60), || {
        unfinished(other.place()) > 0 || blobs(other.place()) > before
    });
    let place = other.kill();
    assert_ne!(process::wait(&mut child, Duration::from_secs(60)), Some(0));
    drop(stdin);
    let again = TestAppliance::start_at(place);
    again.run(&["image", "prune"]).ok();
    nothing_came(&again, before);
}

/// A file system of a few megabytes; unmounted when dropped.
struct Small(Folder);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        if !probe::root() {
            return None;
        }
        let folder = Folder::new();
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},mode=0755"),
            "none",
        ]);
        run(mount.arg(folder.path())).ok();
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        run(unmount.arg("--lazy").arg(self.0.path()));
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_stays() {
    let Some(scene) = Scene::set(&["mount", "umount"]) else {
        return;
    };
    let Some(small) = Small::mount("1m") else {
        return;
    };
    // Writing: the file is not there, and what was there before stays.
    let out = small.0.join("out.tar").display().to_string();
    fs::write(&out, "before").unwrap();
    scene
        .appliance
        .run(&["save", NAME, "-o", &out])
        .failed(7)
        .says("cannot write");
    assert_eq!(fs::read_to_string(&out).unwrap(), "before");
    assert_eq!(files(small.0.path()), 1);
    // Reading: the data folder of another appliance is on a disk that is nearly full.
    let archive = scene.save("oci-archive", "a.tar");
    let disk = Small::mount("128m").unwrap();
    let filler = disk.0.join("filler");
    let place = Place::within(Folder::below(disk.0.path()));
    let other = TestAppliance::start_at(place);
    let spare = free(disk.0.path()).saturating_sub(32 << 20);
    fs::write(&filler, vec![1; usize::try_from(spare).unwrap()]).unwrap();
    let before = blobs(other.place());
    other
        .run(&["load", "-i", &archive])
        .failed(7)
        .says("bytes of disk");
    nothing_came(&other, before);
    fs::remove_file(&filler).unwrap();
    other.run(&["load", "-i", &archive]).ok();
    other.run(&["image", "check", NAME]).ok();
    drop(other);
}

#[test]
fn what_may_not_be_written_is_said() {
    let Some(scene) = Scene::set(&[]) else { return };
    let home = scene.appliance.place().home();
    for (out, words) in [
        ("/proc/x.tar", "cannot write /proc/x.tar"),
        ("/nowhere/x.tar", "cannot write /nowhere/x.tar"),
        (home.to_str().unwrap(), "is a folder"),
    ] {
        let ran = scene.appliance.run(&["save", NAME, "-o", out]);
        assert_ne!(ran.code, 0, "{ran}");
        ran.says(words);
    }
    // A reader that goes away is no reason to wait for it.
    let ran = shell(
        &scene.appliance,
        &format!("$devpod save {NAME} | head -c 1000 | wc -c"),
    );
    assert_eq!(ran.ok().text(), "1000");
    scene.appliance.run(&["image", "prune"]).ok();
}

#[test]
fn damage_at_rest_is_found_and_never_saved() {
    let Some(scene) = Scene::set(&[]) else { return };
    let here = &scene.appliance;
    let inspected = here.run(&["inspect", NAME]).ok().json();
    let digest = inspected["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let path = here.place().data().join("content/blobs/sha256").join(hex);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    here.run(&["image", "check", NAME]).failed(1).says(&digest);
    let report: Value = here.run(&["image", "check", NAME, "-o", "json"]).json();
    assert_eq!(report[0]["faults"][0]["digest"], digest.as_str());
    for format in ["oci-archive", "docker-archive"] {
        let out = scene.path("out.tar");
        let ran = here.run(&["save", "--format", format, "-o", &out, NAME]);
        ran.failed(1).says("have the digest");
        assert!(!Path::new(&out).exists());
    }
}
