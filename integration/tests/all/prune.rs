//! Removing images gives the disk space back.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::base_image;
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::process::{eventually, signal, wait};
use rustix::process::Signal;
use serde_json::json;

/// Of each big file, which does not compress.
const SIZE: u64 = 4 << 20;

/// Bytes on disk below a folder.
fn du(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += du(&entry.path());
        }
    }
    bytes
}

/// A context with a file of noise.
fn context(seed: u64) -> (Folder, String) {
    let folder = Folder::new();
    folder.write("Dockerfile", "FROM scratch\nCOPY noise /\n");
    let mut state = seed;
    let noise = (0..SIZE / 8).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state ^ (state >> 29)).to_le_bytes()
    });
    folder.write("noise", noise.collect::<Vec<u8>>());
    let path = folder.path().display().to_string();
    (folder, path)
}

fn bytes(appliance: &TestAppliance, arguments: &[&str]) -> u64 {
    let all = [&["image", "prune", "--output", "json"], arguments].concat();
    let pruned = appliance.run(&all).ok().json();
    assert!(pruned["blobs"].is_u64() && pruned["snapshots"].is_u64());
    pruned["bytes"].as_u64().unwrap()
}

#[test]
fn removed_images_give_their_space_back() {
    let appliance = TestAppliance::start();
    let data = appliance.place().data();
    let (_first, first) = context(1);
    let (_second, second) = context(2);
    appliance.run(&["build", "-t", "first", &first]).ok();
    appliance.run(&["build", "-t", "second", &second]).ok();
    appliance.run(&["tag", "first", "another"]).ok();
    let full = du(&data);
    assert!(full > 4 * SIZE, "two blobs and two snapshots: {full}");

    // Another name still needs it.
    appliance.run(&["rmi", "first"]).ok();
    assert!(du(&data) > full - SIZE / 2);
    appliance.run(&["rmi", "another"]).ok();
    let without_blob = du(&data);
    assert!(without_blob < full - SIZE / 2, "{full} {without_blob}");
    assert!(
        bytes(&appliance, &[]) < SIZE / 2,
        "the build cache needs the rest"
    );

    let would = bytes(&appliance, &["--all", "--dry-run"]);
    assert!(would > SIZE / 2 && du(&data) > without_blob - SIZE / 2);
    assert_eq!(bytes(&appliance, &["--all"]), would);
    let pruned = du(&data);
    assert!(pruned < without_blob - SIZE / 2, "{without_blob} {pruned}");

    // What has a name is whole.
    let folder = Folder::new();
    let root = folder.join("root").display().to_string();
    appliance.run(&["unpack", "second", &root]).ok();
    assert_eq!(fs::metadata(folder.join("root/noise")).unwrap().len(), SIZE);
    appliance.run(&["build", "-t", "first", &first]).ok();
    appliance.run(&["rmi", "first", "second"]).ok();
    appliance
        .run(&["image", "prune", "--all"])
        .ok()
        .says("Removed");
    let empty = du(&data);
    assert!(empty < SIZE, "nothing is left: {empty}");
}

#[test]
fn a_rebuilt_name_does_not_keep_its_old_image() {
    let appliance = TestAppliance::start();
    let data = appliance.place().data();
    for seed in 0..4 {
        let (_folder, path) = context(seed);
        appliance
            .run(&["build", "-t", "app", "--no-cache", &path])
            .ok();
    }
    bytes(&appliance, &["--all"]);
    let left = du(&data);
    assert!(left < 3 * SIZE, "one blob and one snapshot: {left}");
}

#[test]
fn what_a_sandbox_stands_on_stays() {
    let appliance = TestAppliance::start();
    appliance.run(&["image", "from-host", "-t", "base"]).ok();
    let run = [
        "sandbox", "run", "-d", "--name", "stays", "base", "sleep", "600",
    ];
    appliance.run(&run).ok();
    appliance.run(&["rmi", "base"]).ok();
    appliance.run(&["image", "prune", "--all"]).ok();
    let listed = appliance.run(&["sandbox", "exec", "stays", "ls", "/"]).ok();
    assert!(listed.stdout.contains("bin"), "{listed}");
    let full = du(&appliance.place().data());
    appliance.run(&["sandbox", "rm", "--force", "stays"]).ok();
    let freed = bytes(&appliance, &[]);
    let left = du(&appliance.place().data());
    assert!(freed > SIZE && left < full - SIZE, "{full} {freed} {left}");
}

/// Names of snapshots of layers that are the same over any others, and of all.
fn snapshots(appliance: &TestAppliance) -> (usize, usize) {
    let folder = fs::read_dir(appliance.place().data().join("snapshots")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    let alone = names.iter().filter(|name| name.starts_with("diff-"));
    (alone.count(), names.len())
}

#[test]
fn a_layer_over_two_bases_stays_while_an_image_has_it() {
    let Some(base) = base_image::busybox_layers() else {
        return;
    };
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let app = layout::tar(&[
        ("app/", Entry::Folder(0o755)),
        ("app/f", Entry::File(0o644, b"x")),
    ]);
    for name in ["one", "two"] {
        let own = layout::tar(&[(name, Entry::File(0o644, name.as_bytes()))]);
        let layers = [&base[..], &[own, app.clone()]].concat();
        layout::write(&folder.join(name), &layers, json!({}));
        appliance.load(&folder.join(name), name);
    }
    let run = |name: &str| {
        let command = ["sandbox", "run", "--rm", name, "/bin/cat", "/app/f"];
        assert_eq!(appliance.run(&command).ok().stdout, "x");
    };
    run("one");
    let first = snapshots(&appliance);
    assert!(first.0 >= 2, "{first:?}");
    run("two");
    let both = snapshots(&appliance);
    assert_eq!(both, (first.0 + 1, first.1 + 1), "one layer of its own");
    appliance.run(&["rmi", "one"]).ok();
    appliance.run(&["image", "prune"]).ok();
    assert_eq!(snapshots(&appliance), first, "all that the other has");
    run("two");
    assert_eq!(snapshots(&appliance), first, "nothing was unpacked again");
    appliance.run(&["rmi", "two"]).ok();
    appliance.run(&["image", "prune", "--all"]).ok();
    assert_eq!(snapshots(&appliance), (0, 0));
}

#[test]
fn work_that_goes_on_is_not_pruned() {
    let appliance = TestAppliance::start();
    appliance.run(&["image", "from-host", "-t", "base"]).ok();
    let folder = Folder::new();
    folder.write("Dockerfile", "FROM base\nRUN sleep 300\n");
    let path = folder.path().display().to_string();
    let mut build = appliance.place().devpod(&["build", &path]);
    build.stdin(Stdio::null());
    build.stdout(Stdio::null()).stderr(Stdio::null());
    let mut build = build.spawn().unwrap();
    let minute = Duration::from_secs(60);
    let prune = || appliance.run(&["image", "prune", "--dry-run"]);
    eventually("prune is refused", minute, || prune().code == 4);
    prune().failed(4).says("work on images is going on");
    // The names of others go at once all the same.
    appliance.run(&["tag", "base", "other"]).ok();
    appliance.run(&["rmi", "other"]).ok();
    signal(&build, Signal::INT);
    wait(&mut build, minute).unwrap();
    eventually("prune goes on", minute, || prune().code == 0);
}
