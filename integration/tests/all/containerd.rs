//! containerd by its own client: images in and out, one platform and many.

use std::path::Path;

use integration::appliance::TestAppliance;
use integration::base_image;
use integration::clients::skopeo_copy;
use integration::containerd::Containerd;
use integration::folder::Folder;
use integration::{layout, probe};

/// Two images under one index; `false` after having told why not.
pub(crate) fn two_platforms(folder: &Folder) -> bool {
    let (one, two) = (folder.join("one"), folder.join("two"));
    if !base_image::busybox(&one) {
        return false;
    }
    let layer = layout::tar(&[("other", layout::Entry::File(0o644, b"another platform\n"))]);
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    };
    let config = serde_json::json!({ "Cmd": ["/other"] });
    layout::write_for(other, &two, &[layer], config);
    let images: [(&Path, &str); 2] = [(&one, own), (&two, other)];
    layout::write_index(&folder.join("both"), &images);
    true
}

/// Copies an index with everything that it names.
pub(crate) fn skopeo_copy_all(from: &str, to: &str) {
    let mut command = integration::clients::skopeo_copy_command(from, to);
    command.arg("--all");
    integration::process::run(&mut command).ok();
}

#[test]
fn containerd_pulls_and_pushes() {
    let folder = Folder::new();
    let Some(containerd) = Containerd::start() else {
        return;
    };
    if !probe::programs(&["skopeo"]) || !two_platforms(&folder) {
        return;
    }
    let appliance = TestAppliance::start();
    let both = folder.join("both");
    let name = appliance.reference("team/many:1");
    skopeo_copy_all(
        &format!("oci:{}:latest", both.display()),
        &format!("docker://{name}"),
    );
    let pull = ["images", "pull", "--plain-http", "--all-platforms", &name];
    containerd.run(&pull).ok();
    let digest = layout::manifest_digest(&both);
    containerd.run(&["images", "list"]).ok().says(&digest);
    // Everything again under another name, by containerd's own pusher.
    let pushed = appliance.reference("team/again:1");
    containerd.run(&["images", "tag", &name, &pushed]).ok();
    containerd
        .run(&["images", "push", "--plain-http", &pushed])
        .ok();
    let out = format!("oci:{}:latest", folder.join("out").display());
    skopeo_copy_all(&format!("docker://{pushed}"), &out);
    assert_eq!(layout::manifest_digest(&folder.join("out")), digest);
    let absent = appliance.reference("team/absent:1");
    let refused = containerd.run(&["images", "pull", "--plain-http", &absent]);
    assert_ne!(refused.code, 0, "{refused}");
    refused.says("not found");
}

#[test]
fn one_platform_of_many_is_enough_for_containerd() {
    let folder = Folder::new();
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let image = folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    let appliance = TestAppliance::start();
    let name = appliance.reference("team/single:1");
    skopeo_copy(
        &format!("oci:{}:latest", image.display()),
        &format!("docker://{name}"),
    );
    let pull = ["images", "pull", "--plain-http", &name];
    containerd.run(&pull).ok();
    let digest = layout::manifest_digest(&image);
    containerd.run(&["images", "list"]).ok().says(&digest);
    let blobs = containerd.run(&["content", "list", "--quiet"]).ok();
    for entry in std::fs::read_dir(image.join("blobs/sha256")).unwrap() {
        let blob = entry.unwrap().file_name();
        assert!(blobs.stdout.contains(&*blob.to_string_lossy()), "{blobs}");
    }
}
