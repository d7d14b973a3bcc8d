//! Clients for images and for everything else that registries keep: crane, regctl, helm, oras and
//! cosign. Signatures, charts and bills of materials are found by the image that they belong to.
//!
//! `.ci/run` has the first three built from the Go module proxy. oras is not to be had there and
//! cosign takes minutes to build: their tests run with `--ignored` where they are installed.

use std::fs;

use integration::appliance::TestAppliance;
use integration::clients::at_home;
use integration::folder::Folder;
use integration::process::Ran;
use integration::{base_image, layout, probe};

use super::containerd::two_platforms;

/// An appliance and a client's empty home.
struct Scene {
    appliance: TestAppliance,
    folder: Folder,
}

impl Scene {
    /// `None` after having told what is missing.
    fn set(program: &str) -> Option<Self> {
        let folder = Folder::new();
        if !probe::programs(&[program]) || !two_platforms(&folder) {
            return None;
        }
        fs::create_dir(folder.join("home")).unwrap();
        let appliance = TestAppliance::start();
        Some(Self { appliance, folder })
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> Ran {
        at_home(&self.folder.join("home"), program, arguments)
    }

    /// regctl, told that the registry speaks plain HTTP.
    #[track_caller]
    fn regctl(&self, arguments: &[&str]) -> Ran {
        let host = format!("reg={},tls=disabled", self.appliance.registry());
        let all = [&["--host", &host][..], arguments].concat();
        self.run("regctl", &all)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

#[test]
fn crane_pushes_copies_lists_and_deletes() {
    let Some(scene) = Scene::set("crane") else {
        return;
    };
    let crane = |arguments: &[&str]| {
        let all = [arguments, &["--insecure"]].concat();
        scene.run("crane", &all)
    };
    let digest = layout::manifest_digest(&scene.folder.join("both"));
    let (name, copy) = (
        scene.appliance.reference("crane/app:1"),
        scene.appliance.reference("crane/copy:1"),
    );
    crane(&["push", "--index", &scene.path("both"), &name]).ok();
    crane(&["copy", &name, &copy]).ok();
    crane(&["tag", &name, "2"]).ok();
    // crane wraps a layout of one entry in an index of its own: what it pushed is what counts.
    let pushed = crane(&["digest", &name]).ok().text().to_owned();
    assert_eq!(crane(&["digest", &copy]).ok().text(), pushed);
    let shown = scene.appliance.run(&["inspect", "crane/app:1"]).ok().json();
    assert_eq!(shown["digest"], pushed.as_str());
    let inner = crane(&["manifest", &name]).ok().stdout;
    assert_eq!(layout::digest(inner.as_bytes()), pushed);
    assert!(pushed == digest || inner.contains(&digest), "{inner}");
    let repository = scene.appliance.reference("crane/app");
    assert_eq!(crane(&["ls", &repository]).ok().text(), "1\n2");
    crane(&["catalog", scene.appliance.registry()])
        .ok()
        .says("crane/copy");
    crane(&["validate", "--remote", &copy]).ok();
    crane(&["pull", "--format=oci", &copy, &scene.path("out")]).ok();
    for blob in fs::read_dir(scene.folder.join("both/blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let out = scene.folder.join("out/blobs/sha256").join(blob.file_name());
        assert_eq!(fs::read(out).unwrap(), fs::read(blob.path()).unwrap());
    }
    crane(&["delete", &format!("{repository}@{pushed}")]).ok();
    assert_ne!(crane(&["digest", &name]).code, 0);
    assert_eq!(crane(&["digest", &copy]).ok().text(), pushed);
}

#[test]
fn regctl_finds_artifacts_by_their_subject() {
    let Some(scene) = Scene::set("regctl") else {
        return;
    };
    let name = scene.appliance.reference("regctl/app:1");
    let layout = format!("ocidir://{}:latest", scene.path("both"));
    scene.regctl(&["image", "copy", &layout, &name]).ok();
    let digest = layout::manifest_digest(&scene.folder.join("both"));
    let head = scene.regctl(&["manifest", "head", &name]).ok();
    assert_eq!(head.text(), digest);
    let file = scene.folder.write("home/sbom.json", "{\"packages\":[]}");
    let file = file.display().to_string();
    let kind = "application/vnd.example.sbom+json";
    let put = ["artifact", "put", "--artifact-type", kind, "--subject"];
    scene
        .regctl(&[&put[..], &[&name, "--file", &file, "-m", kind]].concat())
        .ok();
    let list = scene.regctl(&["artifact", "list", &name]).ok();
    list.says(kind);
    let get = ["artifact", "get", "--subject", &name];
    let get = scene.regctl(&[&get[..], &["--filter-artifact-type", kind]].concat());
    assert_eq!(get.ok().text(), "{\"packages\":[]}");
    // No list was kept under a tag: the registry is asked.
    let repository = scene.appliance.reference("regctl/app");
    assert_eq!(scene.regctl(&["tag", "ls", &repository]).ok().text(), "1");
    // The artifact goes with its image to another repository.
    let copy = scene.appliance.reference("regctl/copy:1");
    scene
        .regctl(&["image", "copy", "--referrers", &name, &copy])
        .ok();
    scene.regctl(&["artifact", "list", &copy]).ok().says(kind);
    let raw = ["manifest", "get", "--format", "raw-body", &copy];
    let raw = scene.regctl(&raw).ok().stdout;
    assert_eq!(layout::digest(raw.as_bytes()), digest);
    scene.regctl(&["tag", "delete", &name]).ok();
    assert_ne!(scene.regctl(&["manifest", "head", &name]).code, 0);
    let by_digest = format!("{repository}@{digest}");
    scene.regctl(&["manifest", "head", &by_digest]).ok();
    scene.regctl(&["manifest", "delete", &by_digest]).ok();
    assert_ne!(scene.regctl(&["manifest", "head", &by_digest]).code, 0);
}

#[test]
fn helm_keeps_charts_here() {
    let Some(scene) = Scene::set("helm") else {
        return;
    };
    scene.folder.write(
        "home/app/Chart.yaml",
        "apiVersion: v2\nname: app\nversion: 1.2.3+build.4\n",
    );
    scene.folder.write(
        "home/app/templates/map.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app\n",
    );
    scene.run("helm", &["package", "app"]).ok();
    let charts = format!("oci://{}/charts", scene.appliance.registry());
    let package = "app-1.2.3+build.4.tgz";
    let push = ["push", package, &charts, "--plain-http"];
    scene.run("helm", &push).ok().says("Digest: sha256:");
    let chart = format!("{charts}/app");
    let pull = ["pull", &chart, "--version", "1.2.3+build.4"];
    let out = ["--plain-http", "--destination", "out"];
    fs::create_dir(scene.folder.join("home/out")).unwrap();
    scene.run("helm", &[&pull[..], &out].concat()).ok();
    let read = |name: &str| fs::read(scene.folder.join("home").join(name)).unwrap();
    assert_eq!(read(&format!("out/{package}")), read(package));
    // helm looks for the newest version among the tags.
    let show = ["show", "chart", &chart, "--plain-http"];
    scene.run("helm", &show).ok().says("1.2.3+build.4");
}

#[test]
#[ignore = "oras is in no package registry that we may use; install it and run with --ignored"]
fn oras_attaches_discovers_and_copies() {
    let Some(scene) = Scene::set("oras") else {
        return;
    };
    let name = scene.appliance.reference("oras/app:1");
    scene.folder.write("home/notes.txt", "what is in it\n");
    let push = ["push", "--plain-http", &name, "notes.txt:text/plain"];
    scene.run("oras", &push).ok();
    let kind = "application/vnd.example.signature";
    scene.folder.write("home/signature.txt", "signed\n");
    let attach = ["attach", "--plain-http", "--artifact-type", kind, &name];
    scene
        .run("oras", &[&attach[..], &["signature.txt"]].concat())
        .ok();
    let discover = |name: &str| {
        let ran = scene.run("oras", &["discover", "--plain-http", name]);
        ran.ok().says(kind)
    };
    discover(&name);
    let copy = scene.appliance.reference("oras/copy:1");
    let plain = ["cp", "-r", "--from-plain-http", "--to-plain-http"];
    scene
        .run("oras", &[&plain[..], &[&name, &copy]].concat())
        .ok();
    discover(&copy);
    let resolve = |name: &str| {
        let ran = scene.run("oras", &["resolve", "--plain-http", name]);
        ran.ok().text().to_owned()
    };
    assert_eq!(resolve(&name), resolve(&copy));
    let pull = ["pull", "--plain-http", "--output", "out", &copy];
    scene.run("oras", &pull).ok();
    let pulled = fs::read_to_string(scene.folder.join("home/out/notes.txt"));
    assert_eq!(pulled.unwrap(), "what is in it\n");
    let delete = ["manifest", "delete", "--plain-http", "--force", &copy];
    scene.run("oras", &delete).ok();
    let gone = scene.run("oras", &["resolve", "--plain-http", &copy]);
    assert_ne!(gone.code, 0, "{gone}");
}

#[test]
#[ignore = "cosign takes minutes to build; install it and run with --ignored"]
fn cosign_signs_and_verifies() {
    let Some(scene) = Scene::set("cosign") else {
        return;
    };
    let image = scene.folder.join("image");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&image) {
        return;
    }
    scene.appliance.load(&image, "signed/app:1");
    let digest = layout::manifest_digest(&image);
    let name = scene.appliance.reference(&format!("signed/app@{digest}"));
    scene.run("cosign", &["generate-key-pair"]).ok();
    let verify = || {
        let verify = ["verify", "--key", "cosign.pub", "--allow-http-registry"];
        let rest = ["--insecure-ignore-tlog=true", &name];
        scene.run("cosign", &[&verify[..], &rest].concat())
    };
    assert_ne!(verify().code, 0);
    let sign = ["sign", "--key", "cosign.key", "--allow-http-registry", "-y"];
    let rest = ["--tlog-upload=false", "--use-signing-config=false", &name];
    scene.run("cosign", &[&sign[..], &rest].concat()).ok();
    verify().ok().says(&digest);
}
