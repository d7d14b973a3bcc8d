//! What goes in comes out, whatever it is: docker's own manifests, zstd layers, indexes, and what is
//! mounted or deleted.

use std::fs;
use std::path::Path;

use integration::appliance::TestAppliance;
use integration::clients::{skopeo_copy, skopeo_copy_command};
use integration::folder::Folder;
use integration::process::{Ran, run};
use integration::{base_image, layout, probe};
use serde_json::Value;

use super::containerd::{skopeo_copy_all, two_platforms};

fn skopeo(arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new("skopeo");
    run(command.args(arguments))
}

/// A manifest's bytes as the registry answers them.
fn raw(name: &str) -> String {
    let name = format!("docker://{name}");
    let ran = skopeo(&["inspect", "--raw", "--tls-verify=false", &name]);
    ran.ok().stdout
}

/// Copies an image to a folder of files and answers its manifest's bytes.
fn pulled(name: &str, folder: &Path) -> String {
    skopeo_copy(
        &format!("docker://{name}"),
        &format!("dir:{}", folder.display()),
    );
    fs::read_to_string(folder.join("manifest.json")).unwrap()
}

#[test]
fn formats_come_back_as_they_went_in() {
    let folder = Folder::new();
    let image = folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    let appliance = TestAppliance::start();
    let from = format!("oci:{}:latest", image.display());
    for (name, options, kind, layers) in [
        (
            "docker",
            &["--format", "v2s2"][..],
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (
            "zstd",
            &["--dest-compress", "--dest-compress-format", "zstd"],
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    ] {
        // Written to files first: that copy is what the registry is compared with.
        let files = folder.join(name);
        let mut command = std::process::Command::new("skopeo");
        command.args(["copy", "--quiet"]).args(options);
        run(command.arg(&from).arg(format!("dir:{}", files.display()))).ok();
        let to = appliance.reference(&format!("formats/{name}:1"));
        let mut push = skopeo_copy_command(
            &format!("dir:{}", files.display()),
            &format!("docker://{to}"),
        );
        run(&mut push).ok();
        let original = fs::read_to_string(files.join("manifest.json")).unwrap();
        assert_eq!(raw(&to), original, "{name}");
        let again = folder.join(format!("{name}-again"));
        assert_eq!(pulled(&to, &again), original, "{name}");
        let manifest: Value = serde_json::from_str(&original).unwrap();
        assert_eq!(manifest["mediaType"], kind);
        for layer in manifest["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], layers);
            let digest = layer["digest"].as_str().unwrap();
            let hex = digest.strip_prefix("sha256:").unwrap();
            let bytes = fs::read(again.join(hex)).unwrap();
            assert_eq!(layout::digest(&bytes), digest);
        }
    }
}

#[test]
fn an_index_keeps_its_images_until_it_is_deleted() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !two_platforms(&folder) {
        return;
    }
    let appliance = TestAppliance::start();
    let both = folder.join("both");
    let from = format!("oci:{}:latest", both.display());
    let name = appliance.reference("many/app:1");
    skopeo_copy_all(&from, &format!("docker://{name}"));
    // From repository to repository: what is there is mounted.
    let copy = appliance.reference("many/copy:1");
    skopeo_copy_all(&format!("docker://{name}"), &format!("docker://{copy}"));
    let digest = layout::manifest_digest(&both);
    for name in [&name, &copy] {
        assert_eq!(layout::digest(raw(name).as_bytes()), digest);
    }
    let deleted = format!("docker://{name}");
    skopeo(&["delete", "--tls-verify=false", &deleted]).ok();
    let gone = skopeo(&["inspect", "--raw", "--tls-verify=false", &deleted]);
    assert_ne!(gone.code, 0, "{gone}");
    appliance.run(&["image", "prune"]).ok();
    // The other repository has lost nothing.
    let out = folder.join("out");
    skopeo_copy_all(
        &format!("docker://{copy}"),
        &format!("oci:{}:latest", out.display()),
    );
    assert_eq!(layout::manifest_digest(&out), digest);
    let count = |folder: &Path| fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
    assert_eq!(count(&out), count(&both));
}
