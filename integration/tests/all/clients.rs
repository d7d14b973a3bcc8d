//! docker, podman, buildah, skopeo and umoci against the registry: what goes in comes out.

use std::fs;
use std::path::Path;
use std::process::Command;

use integration::appliance::TestAppliance;
use integration::clients::{Storage, skopeo_copy, skopeo_copy_command};
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::run;
use integration::{base_image, layout, probe};
use serde_json::Value;

/// The digest that the registry answers for a name.
fn digest(appliance: &TestAppliance, name: &str) -> String {
    let reference = format!("docker://{}", appliance.reference(name));
    let mut command = Command::new("skopeo");
    command.args([
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &reference,
    ]);
    run(&mut command).ok().text().to_owned()
}

/// A tar of busybox's root file system, for tools that import one.
fn root_tar(folder: &Folder) -> Option<String> {
    let layers = base_image::busybox_layers()?;
    let path = folder.write("root.tar", &layers[0]);
    Some(path.display().to_string())
}

#[test]
fn skopeo_copies_in_and_out_byte_for_byte() {
    let folder = Folder::new();
    let (from, to) = (folder.join("from"), folder.join("to"));
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "team/busybox:1");
    // The same blobs under another name: mounted, not sent.
    appliance.load(&from, "other/busybox:1");
    assert_eq!(
        digest(&appliance, "team/busybox:1"),
        layout::manifest_digest(&from)
    );
    let source = format!("docker://{}", appliance.reference("other/busybox:1"));
    skopeo_copy(&source, &format!("oci:{}:latest", to.display()));
    assert_eq!(layout::manifest_digest(&to), layout::manifest_digest(&from));
    same_blobs(&from, &to);
}

fn same_blobs(a: &Path, b: &Path) {
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder.join("blobs/sha256")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        let read = |folder: &Path| fs::read(folder.join("blobs/sha256").join(&name)).unwrap();
        assert_eq!(read(a), read(b), "{}", name.display());
    }
}

#[test]
fn the_data_folder_is_a_layout_that_others_read() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "busybox:1");
    let place = appliance.stop();
    let content = place.data().join("content");
    let to = folder.join("to");
    let source = format!("oci:{}:busybox:1", content.display());
    skopeo_copy(&source, &format!("oci:{}:latest", to.display()));
    assert_eq!(layout::manifest_digest(&to), layout::manifest_digest(&from));
}

#[test]
fn what_was_pushed_is_there_after_a_crash() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "kept:1");
    let place = appliance.kill();
    let appliance = TestAppliance::start_at(place);
    assert_eq!(digest(&appliance, "kept:1"), layout::manifest_digest(&from));
}

#[test]
fn docker_pushes_and_pulls() {
    let folder = Folder::new();
    let Some(docker) = Dockerd::start() else {
        return;
    };
    let Some(tar) = root_tar(&folder) else { return };
    let appliance = TestAppliance::start();
    let name = appliance.reference("docker/app:1");
    let id = |name: &str| {
        let ran = docker.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        ran.ok().text().to_owned()
    };
    docker.run(&["import", &tar, &name]).ok();
    let before = id(&name);
    docker.run(&["push", &name]).ok();
    docker.run(&["rmi", &name]).ok();
    docker.run(&["pull", &name]).ok();
    assert_eq!(id(&name), before);
    // A second tag of the same image: everything exists already.
    let second = appliance.reference("docker/app:2");
    docker.run(&["tag", &name, &second]).ok();
    docker
        .run(&["push", &second])
        .ok()
        .says("Layer already exists");
    let rows = appliance.run(&["images", "--output", "json"]).ok().json();
    let tags = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["tag"].as_str().unwrap());
    let mut tags: Vec<&str> = tags.collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2"]);
    docker
        .run(&["pull", &appliance.reference("docker/app:3")])
        .failed(1)
        .says("not found");
}

#[test]
fn podman_pushes_and_pulls() {
    let folder = Folder::new();
    if !probe::root() || !probe::programs(&["podman"]) {
        return;
    }
    let Some(tar) = root_tar(&folder) else { return };
    let appliance = TestAppliance::start();
    let podman = Storage::new("podman", folder.path());
    let name = appliance.reference("podman/app:1");
    let id = |name: &str| {
        let ran = podman.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        ran.ok().text().to_owned()
    };
    podman.run(&["import", &tar, &name]).ok();
    let before = id(&name);
    podman.run(&["push", "--tls-verify=false", &name]).ok();
    podman.run(&["rmi", "--force", &name]).ok();
    podman.run(&["pull", "--tls-verify=false", &name]).ok();
    assert_eq!(id(&name), before);
    let refused = podman.run(&[
        "pull",
        "--tls-verify=false",
        &appliance.reference("podman/no:1"),
    ]);
    assert_ne!(refused.code, 0, "{refused}");
    refused.says("unknown");
}

#[test]
fn buildah_pushes_and_pulls() {
    let folder = Folder::new();
    if !probe::root() || !probe::programs(&["buildah", "skopeo"]) {
        return;
    }
    let from = folder.join("from");
    if !base_image::busybox(&from) {
        return;
    }
    let appliance = TestAppliance::start();
    let buildah = Storage::new("buildah", folder.path());
    let name = appliance.reference("buildah/app:1");
    appliance.load(&from, "busybox:1");
    let base = appliance.reference("busybox:1");
    buildah
        .run(&["from", "--tls-verify=false", "--name", "work", &base])
        .ok();
    buildah
        .run(&["config", "--env", "COLOUR=blue", "work"])
        .ok();
    buildah.run(&["commit", "work", &name]).ok();
    buildah.run(&["push", "--tls-verify=false", &name]).ok();
    let second = Folder::new();
    let buildah = Storage::new("buildah", second.path());
    buildah.run(&["pull", "--tls-verify=false", &name]).ok();
    let inspected = buildah
        .run(&["inspect", "--type", "image", &name])
        .ok()
        .json();
    let env = inspected["OCIv1"]["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&Value::from("COLOUR=blue")), "{env:?}");
    // What another tool has built runs here.
    let ran = appliance.run(&["sandbox", "run", "--rm", &name, "sh", "-c", "echo $COLOUR"]);
    assert_eq!(ran.ok().text(), "blue");
}

#[test]
fn pull_and_push_between_two_appliances() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    let (first, second) = (TestAppliance::start(), TestAppliance::start());
    first.load(&from, "shared:1");
    second.run(&["pull", &first.reference("shared:1")]).ok();
    let inspected = second.run(&["inspect", &first.reference("shared:1")]).ok();
    let digest = layout::manifest_digest(&from);
    assert!(inspected.stdout.contains(&digest), "{inspected}");
    let back = first.reference("back/again:1");
    second
        .run(&["tag", &first.reference("shared:1"), &back])
        .ok();
    second.run(&["push", &back]).ok();
    assert_eq!(self::digest(&first, "back/again:1"), digest);
}

#[test]
fn a_broken_upload_leaves_nothing() {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return;
    }
    // One byte of the layer changes: its digest is a lie now.
    let blobs = fs::read_dir(from.join("blobs/sha256")).unwrap();
    let largest = blobs
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let appliance = TestAppliance::start();
    let to = format!("docker://{}", appliance.reference("broken:1"));
    let copied = run(&mut skopeo_copy_command(
        &format!("oci:{}:latest", from.display()),
        &to,
    ));
    assert_ne!(copied.code, 0, "{copied}");
    let rows = appliance.run(&["images", "--output", "json"]).ok().json();
    assert_eq!(rows.as_array().unwrap().len(), 0, "{rows}");
}
