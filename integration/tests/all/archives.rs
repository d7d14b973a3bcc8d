//! Images in files: what we write is read by everybody else, and what they write by us, with the
//! same digests wherever the format keeps them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::appliance::TestAppliance;
use integration::clients::{Storage, skopeo_copy};
use integration::containerd::Containerd;
use integration::dockerd::Dockerd;
use integration::folder::Folder;
use integration::process::{Ran, run};
use integration::{base_image, binary, layout, probe};
use serde_json::Value;

use super::containerd::{skopeo_copy_all, two_platforms};

/// An appliance with busybox under a name of another registry, so that it means the same everywhere.
pub(crate) struct Scene {
    pub(crate) folder: Folder,
    pub(crate) appliance: TestAppliance,
    /// Of the manifest.
    pub(crate) digest: String,
    /// Of the configuration.
    pub(crate) id: String,
}

pub(crate) const NAME: &str = "registry.example/team/box:1";

impl Scene {
    pub(crate) fn set(programs: &[&str]) -> Option<Self> {
        let folder = Folder::new();
        let image = folder.join("image");
        if !probe::programs(&["skopeo"])
            || !probe::programs(programs)
            || !base_image::busybox(&image)
        {
            return None;
        }
        let appliance = TestAppliance::start();
        let path = image.display().to_string();
        appliance.run(&["load", "-i", &path, "--name", NAME]).ok();
        let digest = layout::manifest_digest(&image);
        let manifest = blob(&image, &digest);
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let id = manifest["config"]["digest"].as_str().unwrap().to_owned();
        Some(Self {
            folder,
            appliance,
            digest,
            id,
        })
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(crate) fn save(&self, format: &str, file: &str) -> String {
        let path = self.path(file);
        let all = ["save", "--format", format, "-o", &path, NAME];
        self.appliance.run(&all).ok();
        path
    }

    /// The row of a name in another appliance that loaded a file.
    fn loaded(&self, file: &str, options: &[&str]) -> (TestAppliance, Value) {
        let other = TestAppliance::start();
        other.run(&[&["load", "-i", file], options].concat()).ok();
        let row = row(&other, NAME);
        works(&other, NAME);
        (other, row)
    }
}

fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").unwrap();
    fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
}

fn row(appliance: &TestAppliance, name: &str) -> Value {
    let rows = appliance.run(&["images", "-o", "json"]).ok().json();
    let is_it = |row: &&Value| {
        let (repository, tag) = (row["repository"].as_str(), row["tag"].as_str());
        format!("{}:{}", repository.unwrap(), tag.unwrap()) == name
    };
    let found = rows.as_array().unwrap().iter().find(is_it);
    found
        .unwrap_or_else(|| panic!("{name} is not in {rows}"))
        .clone()
}

/// The image is whole, and its files are what they were.
fn works(appliance: &TestAppliance, name: &str) {
    appliance
        .run(&["image", "check", name])
        .ok()
        .says("is sound");
    let folder = Folder::below(&appliance.place().home());
    let root = folder.join("root");
    appliance
        .run(&["unpack", name, &root.display().to_string()])
        .ok();
    assert_eq!(
        fs::read_to_string(root.join("etc/layer")).unwrap(),
        "second\n"
    );
    assert!(!root.join("gone").exists());
}

fn skopeo(arguments: &[&str]) -> Ran {
    let mut command = Command::new("skopeo");
    run(command.args(arguments))
}

/// A shell line with `$devpod`, for pipes.
pub(crate) fn shell(appliance: &TestAppliance, line: &str) -> Ran {
    let mut command = appliance.place().command("sh");
    command.env("devpod", binary::devpod());
    run(command.args(["-c", line]))
}

#[test]
fn skopeo_reads_and_writes_every_format() {
    let Some(scene) = Scene::set(&[]) else { return };
    let manifest =
        |from: &str| layout::digest(skopeo(&["inspect", "--raw", from]).ok().stdout.as_bytes());
    let archive = scene.save("oci-archive", "a.tar");
    assert_eq!(
        manifest(&format!("oci-archive:{archive}:{NAME}")),
        scene.digest
    );
    let dir = scene.save("oci-dir", "dir");
    assert_eq!(manifest(&format!("oci:{dir}:1")), scene.digest);
    let docker = scene.save("docker-archive", "d.tar");
    let config = skopeo(&[
        "inspect",
        "--config",
        "--raw",
        &format!("docker-archive:{docker}:{NAME}"),
    ]);
    assert_eq!(layout::digest(config.ok().stdout.as_bytes()), scene.id);
    // Back from what skopeo makes of them.
    let again = scene.path("again.tar");
    skopeo_copy(
        &format!("oci:{dir}:1"),
        &format!("oci-archive:{again}:{NAME}"),
    );
    let (_other, row) = scene.loaded(&again, &[]);
    assert_eq!(row["digest"], scene.digest.as_str());
    let again = scene.path("again-docker.tar");
    skopeo(&[
        "copy",
        "--quiet",
        &format!("oci-archive:{archive}"),
        &format!("docker-archive:{again}:{NAME}"),
    ])
    .ok();
    let (other, row) = scene.loaded(&again, &[]);
    assert_eq!(row["id"], scene.id.as_str());
    // The manifest that we make of docker's files is always the same.
    let (_third, ours) = scene.loaded(&docker, &[]);
    assert_eq!(ours["digest"], row["digest"]);
    drop(other);
}

#[test]
fn docker_reads_and_writes_both_archives() {
    let Some(scene) = Scene::set(&[]) else { return };
    let Some(docker) = Dockerd::start() else {
        return;
    };
    for format in ["oci-archive", "docker-archive"] {
        let archive = scene.save(format, format);
        docker.run(&["load", "-i", &archive]).ok().says(NAME);
        let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", NAME]);
        assert_eq!(id.ok().text(), scene.id, "{format}");
        let saved = scene.path(&format!("docker-{format}"));
        docker.run(&["save", "-o", &saved, NAME]).ok();
        let (_other, row) = scene.loaded(&saved, &[]);
        assert_eq!(row["id"], scene.id.as_str(), "{format}");
        docker.run(&["rmi", NAME]).ok();
    }
}

#[test]
fn podman_reads_and_writes_both_archives() {
    let Some(scene) = Scene::set(&["podman"]) else {
        return;
    };
    let podman = Storage::new("podman", scene.folder.path());
    for format in ["oci-archive", "docker-archive"] {
        let archive = scene.save(format, format);
        podman.run(&["load", "-i", &archive]).ok().says(NAME);
        let id = podman.run(&["image", "inspect", "--format", "{{.Id}}", NAME]);
        assert_eq!(format!("sha256:{}", id.ok().text()), scene.id, "{format}");
        let saved = scene.path(&format!("podman-{format}"));
        podman
            .run(&["save", "--format", format, "-o", &saved, NAME])
            .ok();
        let (_other, row) = scene.loaded(&saved, &[]);
        if format == "docker-archive" {
            assert_eq!(row["id"], scene.id.as_str());
        }
        podman.run(&["rmi", "--force", NAME]).ok();
    }
}

#[test]
fn umoci_unpacks_our_layout_and_we_load_what_it_repacked() {
    let Some(scene) = Scene::set(&["umoci"]) else {
        return;
    };
    let dir = scene.save("oci-dir", "dir");
    let umoci = |arguments: &[&str]| {
        let mut command = Command::new("umoci");
        run(command.args(arguments).current_dir(scene.folder.path())).ok();
    };
    umoci(&["unpack", "--rootless", "--image", "dir:1", "bundle"]);
    let root = scene.folder.join("bundle/rootfs");
    assert_eq!(
        fs::read_to_string(root.join("etc/layer")).unwrap(),
        "second\n"
    );
    assert!(!root.join("gone").exists());
    fs::write(root.join("etc/mine"), "repacked").unwrap();
    umoci(&["repack", "--image", "dir:2", "bundle"]);
    // umoci copies containerd's name and changes the specification's: the tag is that one's.
    scene.appliance.run(&["load", "-i", &dir]).ok();
    scene.appliance.run(&["image", "check", NAME]).ok();
    let two = "registry.example/team/box:2";
    let out = scene.folder.join("out");
    scene
        .appliance
        .run(&["unpack", two, &out.display().to_string()])
        .ok();
    assert_eq!(
        fs::read_to_string(out.join("etc/mine")).unwrap(),
        "repacked"
    );
}

#[test]
fn crane_writes_and_validates() {
    let Some(scene) = Scene::set(&["crane"]) else {
        return;
    };
    let crane = |arguments: &[&str]| {
        let mut command = Command::new("crane");
        run(command.args(arguments)).ok()
    };
    let docker = scene.save("docker-archive", "d.tar");
    crane(&["validate", "--tarball", &docker]).says("PASS");
    // Into a registry and out of it in crane's formats.
    scene.appliance.run(&["tag", NAME, "box:1"]).ok();
    let name = scene.appliance.reference("box:1");
    for (format, named) in [("oci", false), ("tarball", true), ("legacy", true)] {
        let out = scene.path(&format!("crane-{format}"));
        crane(&["pull", "--insecure", "--format", format, &name, &out]);
        let other = TestAppliance::start();
        other.run(&["load", "-i", &out, "--name", NAME]).ok();
        let row = row(&other, NAME);
        assert_eq!(row["id"], scene.id.as_str(), "{format}");
        if !named {
            assert_eq!(row["digest"], scene.digest.as_str());
        }
        works(&other, NAME);
    }
    let dir = scene.save("oci-dir", "dir");
    crane(&[
        "push",
        "--insecure",
        &dir,
        &scene.appliance.reference("pushed:1"),
    ]);
    let pushed = row(
        &scene.appliance,
        &format!("localhost:{}/pushed:1", port(&scene.appliance)),
    );
    assert_eq!(pushed["digest"], scene.digest.as_str());
}

fn port(appliance: &TestAppliance) -> &str {
    appliance.registry().rsplit_once(':').unwrap().1
}

#[test]
fn containerd_imports_and_exports() {
    let Some(scene) = Scene::set(&[]) else { return };
    let Some(containerd) = Containerd::start() else {
        return;
    };
    for format in ["oci-archive", "docker-archive"] {
        let archive = scene.save(format, format);
        containerd.run(&["images", "import", &archive]).ok();
        containerd.run(&["images", "check"]).ok().says(NAME);
        let out = scene.path(&format!("containerd-{format}"));
        containerd.run(&["images", "export", &out, NAME]).ok();
        let (_other, row) = scene.loaded(&out, &[]);
        assert_eq!(row["id"], scene.id.as_str(), "{format}");
        if format == "oci-archive" {
            assert_eq!(row["digest"], scene.digest.as_str());
        }
        containerd.run(&["images", "rm", NAME]).ok();
    }
}

#[test]
fn pipes_compression_and_many_images_at_once() {
    let Some(scene) = Scene::set(&["gzip", "zstd"]) else {
        return;
    };
    let here = &scene.appliance;
    here.run(&["tag", NAME, "registry.example/team/second:2"])
        .ok();
    let line = format!("$devpod save {NAME} registry.example/team/second:2 | gzip -1 > both.tgz");
    shell(here, &line).ok();
    let file = here.place().home().join("both.tgz");
    for line in [
        "cat $file | $devpod load",
        "gzip -dc $file | zstd -q | $devpod load -i -",
    ] {
        let other = TestAppliance::start();
        let line = line.replace("$file", &file.display().to_string());
        shell(&other, &line).ok();
        for name in [NAME, "registry.example/team/second:2"] {
            assert_eq!(row(&other, name)["digest"], scene.digest.as_str());
        }
        works(&other, NAME);
    }
    // An id is as good as a name, and then there is none in the archive.
    let id = &scene.id.strip_prefix("sha256:").unwrap()[..12];
    shell(here, &format!("$devpod save {id} > by-id.tar")).ok();
    let other = TestAppliance::start();
    let by_id = here.place().home().join("by-id.tar");
    let ran = other
        .run(&["load", "-i", &by_id.display().to_string(), "-q"])
        .ok();
    assert!(
        ran.text().ends_with(&format!("loaded@{}", scene.digest)),
        "{ran}"
    );
}

#[test]
fn an_index_goes_whole_or_by_platform() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !two_platforms(&folder) {
        return;
    }
    let (here, both) = (TestAppliance::start(), folder.join("both"));
    skopeo_copy_all(
        &format!("oci:{}:latest", both.display()),
        &format!("docker://{}", here.reference("many:1")),
    );
    let digest = layout::manifest_digest(&both);
    let (whole, one) = (folder.join("whole.tar"), folder.join("one.tar"));
    let text = |path: &PathBuf| path.display().to_string();
    here.run(&["save", "many:1", "--all-platforms", "-o", &text(&whole)])
        .ok();
    here.run(&["save", "many:1", "-o", &text(&one)]).ok();
    let there = TestAppliance::start();
    let load = |file: &PathBuf, name: &str, options: &[&str]| {
        let file = text(file);
        let all = [&["load", "-i", &file, "--name", name], options].concat();
        there.run(&all).ok();
        let inspected = there.run(&["inspect", name]).ok().json();
        inspected["digest"].as_str().unwrap().to_owned()
    };
    assert_eq!(load(&whole, "whole:1", &[]), digest);
    let own = load(&one, "one:1", &[]);
    assert_ne!(own, digest);
    let other = match std::env::consts::ARCH {
        "aarch64" => "linux/amd64",
        _ => "linux/arm64",
    };
    let foreign = load(&whole, "foreign:1", &["--platform", other]);
    assert!(foreign != own && foreign != digest);
    there.run(&["image", "check", "--all"]).ok();
    // skopeo finds both in what we wrote.
    let out = folder.join("out");
    skopeo_copy_all(
        &format!("oci-archive:{}", whole.display()),
        &format!("oci:{}:latest", out.display()),
    );
    assert_eq!(layout::manifest_digest(&out), digest);
    let refused = here.run(&[
        "save",
        "many:1",
        "--platform",
        "linux/s390x",
        "-o",
        &text(&one),
    ]);
    refused.failed(2).says("no image for linux/s390x");
    here.run(&[
        "save",
        "many:1",
        "--all-platforms",
        "--format",
        "docker-archive",
        "-o",
        &text(&one),
    ])
    .failed(2)
    .says("--format oci");
}
