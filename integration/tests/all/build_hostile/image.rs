//! Base images that are made to do harm.

use std::path::{Path, PathBuf};

use integration::base_image;
use integration::layout::{self, Entry};
use integration::probe;
use serde_json::{Value, json};

use super::Scene;

/// A layer of anything over that of busybox, which has the folders that it replaces.
fn layer(change: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    change(&mut builder);
    builder.into_inner().unwrap()
}

fn link(name: &'static str, to: &'static str) -> Vec<u8> {
    layer(|tar| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, name, to).unwrap();
    })
}

fn node(name: &'static str, kind: tar::EntryType, (major, minor): (u32, u32)) -> Vec<u8> {
    layer(|tar| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        tar.append_data(&mut header, name, &b""[..]).unwrap();
    })
}

struct Image {
    scene: Scene,
    layers: Vec<Vec<u8>>,
}

impl Image {
    fn new() -> Option<Self> {
        let layers = base_image::busybox_layers()?;
        let scene = Scene::new()?;
        Some(Self { scene, layers })
    }

    /// An OCI layout of busybox with one more layer.
    fn layout(&self, name: &str, over: Option<Vec<u8>>, mut config: Value) -> PathBuf {
        let folder = self.scene.folder.join(name);
        if config["Env"].is_null() {
            config["Env"] = json!(["PATH=/bin"]);
        }
        let mut layers = self.layers.clone();
        layers.extend(over);
        layout::write(&folder, &layers, config);
        folder
    }

    /// Builds on top of one.
    fn build(&self, layout: &Path, steps: &str) -> integration::process::Ran {
        let text = format!("FROM base\n{steps}\n");
        let base = format!("base=oci-layout://{}", layout.display());
        self.scene
            .build_file(&text, &["--no-cache", "--build-context", &base])
    }
}

#[test]
fn configurations_that_mean_harm() {
    let Some(image) = Image::new() else { return };
    let many: Vec<String> = (0..20_000).map(|n| format!("v{n}=x")).collect();
    let triggers: Vec<Value> = vec![json!("ONBUILD RUN x")];
    for (name, config, code, says) in [
        ("user", json!({ "User": "../../x" }), 1, "no user"),
        ("negative", json!({ "User": "-1" }), 1, "no user"),
        ("large", json!({ "User": "4294967295" }), 1, "is no id"),
        ("long", json!({ "User": "x".repeat(100_000) }), 1, "no user"),
        ("nul", json!({ "WorkingDir": "/a\u{0}b" }), 1, "NUL"),
        ("shell", json!({ "Shell": ["/no/shell"] }), 1, "/no/shell"),
        (
            "entry",
            json!({ "Env": ["PATH=/bin", "A\u{0}B=c"] }),
            1,
            "nul byte",
        ),
        ("variables", json!({ "Env": many }), 2, "variables"),
        (
            "trigger",
            json!({ "OnBuild": triggers }),
            2,
            "ONBUILD trigger",
        ),
        (
            "from",
            json!({ "OnBuild": ["FROM busybox:1"] }),
            2,
            "ONBUILD trigger",
        ),
    ] {
        let layout = image.layout(name, None, config);
        let ran = image.build(&layout, "RUN true").failed(code).says(says);
        assert!(
            ran.stderr.len() < 20_000,
            "{name}: {} bytes",
            ran.stderr.len()
        );
    }
    // A folder that is relative, or that climbs, is one of the image's.
    let layout = image.layout("relative", None, json!({ "WorkingDir": "../../tmp" }));
    image.build(&layout, "RUN pwd > /said").ok();
    assert_eq!(image.scene.sh("cat /said"), "/tmp");
    image.scene.is_at_rest();
}

/// Names and homes are looked up in the image, and nowhere else.
#[test]
fn a_password_file_that_is_none() {
    let Some(image) = Image::new() else { return };
    let sparse = layer(|tar| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(8 << 20);
        let zeros = std::io::Read::take(std::io::repeat(0), 8 << 20);
        tar.append_data(&mut header, "etc/passwd", zeros).unwrap();
    });
    let mut cases = vec![
        (
            "pipe",
            node("etc/passwd", tar::EntryType::Fifo, (0, 0)),
            "not a regular file",
        ),
        (
            "out",
            link("etc/passwd", "/etc/../../../../../../../etc/shadow"),
            "no user",
        ),
        ("magic", link("etc/passwd", "/proc/self/environ"), "no user"),
        ("loop", link("etc/passwd", "passwd"), "symbolic links"),
        ("huge", sparse, "is larger than"),
    ];
    if probe::root() {
        let zero = node("etc/passwd", tar::EntryType::Char, (1, 5));
        cases.push(("device", zero, "not a regular file"));
    }
    for (name, over, says) in cases {
        let layout = image.layout(name, Some(over), json!({ "User": "guest" }));
        image.build(&layout, "RUN true").failed(1).says(says);
        image
            .build(&layout, "COPY --chown=guest Dockerfile /x")
            .failed(1)
            .says(says);
    }
    image.scene.is_at_rest();
}

/// The folders that everything is put into are links: to the image's own places, never to the host's.
#[test]
fn folders_that_are_links() {
    let Some(image) = Image::new() else { return };
    let mark = format!("dp-hostile-{}", std::process::id());
    let steps = format!(
        "RUN echo inside > /etc/{mark}; echo inside > /tmp/{mark}; true\nCOPY Dockerfile /etc/{mark}-2\n\
         WORKDIR /tmp/{mark}-3"
    );
    for (name, folder, to, code) in [
        ("etc", "etc", "/elsewhere/etc", 0),
        ("etc-up", "etc", "../../../../etc", 1),
        ("tmp", "tmp", "/elsewhere/tmp", 0),
        ("dev", "dev", "/elsewhere/dev", 0),
        ("dev-up", "dev", "../../../dev", 1),
        ("proc", "proc", "/tmp", 1),
        ("proc-dev", "proc", "/dev", 1),
        ("proc-up", "proc", "../../../proc", 1),
        ("sys", "sys", "/proc", 1),
    ] {
        let layers = [base_layer_without(folder), Some(link_of(folder, to))];
        let Some(layers) = layers.into_iter().collect::<Option<Vec<_>>>() else {
            return;
        };
        let at = image.scene.folder.join(name);
        layout::write(&at, &layers, json!({ "Env": ["PATH=/bin"] }));
        let ran = image.build(&at, &steps);
        assert_eq!(ran.code, code, "{name}: {ran}");
        if folder == "proc" || folder == "sys" {
            ran.says("is no folder");
        }
    }
    for left in ["/etc", "/tmp"] {
        let names = std::fs::read_dir(left).unwrap().flatten();
        let found: Vec<_> = names
            .filter(|entry| entry.file_name().to_string_lossy().contains(&mark))
            .collect();
        assert!(found.is_empty(), "{found:?}");
    }
    image.scene.is_at_rest();
}

fn link_of(name: &str, to: &str) -> Vec<u8> {
    layout::tar(&[(name, Entry::Link(to))])
}

/// The lowest layer of busybox with everything but a folder.
fn base_layer_without(folder: &str) -> Option<Vec<u8>> {
    let layers = base_image::busybox_layers()?;
    let mut kept = tar::Builder::new(Vec::new());
    let mut archive = tar::Archive::new(layers.first()?.as_slice());
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let path = entry.path().ok()?.into_owned();
        if path.starts_with(folder) {
            continue;
        }
        let mut header = entry.header().clone();
        match entry.link_name().ok()? {
            Some(to) => kept.append_link(&mut header, &path, &to).ok()?,
            None => kept.append_data(&mut header, &path, &mut entry).ok()?,
        }
    }
    kept.into_inner().ok()
}

/// A mount that an image's link leads to `/proc` with would show whatever its maker likes for it.
#[test]
fn no_mount_comes_over_proc_by_a_link() {
    let Some(image) = Image::new() else { return };
    let links = layout::tar(&[
        ("to-proc", Entry::Link("/proc")),
        ("to-root", Entry::Link("/")),
        ("to-self", Entry::Link("to-proc/self")),
        ("to-memory", Entry::Link("/proc/meminfo")),
    ]);
    let layout = image.layout("links", Some(links), json!({}));
    for target in [
        "/to-proc",
        "/to-proc/self/attr",
        "/to-self",
        "/to-root",
        "/x/../to-proc/version",
    ] {
        let file = target.ends_with("version");
        let kind = match file {
            true => "type=bind,source=Dockerfile",
            false => "type=tmpfs",
        };
        let step = format!("RUN --mount={kind},target={target} true");
        image
            .build(&layout, &step)
            .failed(1)
            .says("nothing is mounted over");
    }
    for target in ["/proc", "/proc/self", "/x/../proc/version"] {
        let step = format!("RUN --mount=type=tmpfs,target={target} true");
        image.build(&layout, &step).failed(2).says("Dockerfile:2");
    }
    // What may be shown otherwise may be so by a link, too.
    let step =
        "RUN --mount=type=bind,source=Dockerfile,target=/to-memory grep -q FROM /proc/meminfo";
    image.build(&layout, step).ok();
    // And sandboxes keep to the same.
    image.build(&layout, "RUN true").ok();
    let volume = format!("{}:/to-proc", image.scene.context());
    let run = [
        "sandbox",
        "run",
        "--rm",
        "--network",
        "host",
        "-v",
        &volume,
        "made",
        "true",
    ];
    let ran = image.scene.appliance.run(&run);
    assert_ne!(ran.code, 0, "{ran}");
    ran.says("nothing is mounted over /proc");
}
