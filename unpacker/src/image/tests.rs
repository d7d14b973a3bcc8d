//! Images in a layout: made here, read by others; made by others, read here.

mod beside;
mod readings;
mod verified;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use oci_spec::image::{Descriptor, MediaType};
use serde_json::json;
use tempfile::TempDir;

use super::check;
use super::collect::Freed;
use super::config::ImageConfig;
use super::layout::Layout;
use super::read::{ImageError, Platform, choose, load, load_for};
use super::unpack::{UnpackError, unpack, unpack_to};
use crate::content::Content;
use crate::digest::sha256;
use crate::layer::Ownership;
use crate::layer::apply::ApplyOptions;
use crate::layer::compress::{Compression, encoder};
use crate::layer::diff::DiffOptions;
use crate::layer::pack::pack;
use crate::layer::root::metadata::Kind;
use crate::layer::tests::*;
use crate::progress::{Cancel, Event, Silent};
use crate::snapshot::store::Snapshots;

/// An image in a layout of its own, tagged `t`.
struct Made {
    dir: TempDir,
    layout: Layout,
    manifest: Vec<u8>,
}

/// Stores tars as layers.
fn image_of(tars: &[Vec<u8>], compression: Compression) -> Made {
    let dir = TempDir::new().unwrap();
    let layout = Layout::create(&dir.path().join("layout")).unwrap();
    let store: &dyn Content = &layout;
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for tar in tars {
        let mut packed = encoder(compression, Vec::new()).unwrap();
        std::io::Write::write_all(&mut packed, tar).unwrap();
        let (digest, size) = store.put(&packed.finish().unwrap()).unwrap();
        layers.push(Descriptor::new(compression.media_type(), size, digest));
        diff_ids.push(sha256(tar).to_string());
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = store_manifest(&layout, &config, &layers);
    Made {
        dir,
        layout,
        manifest,
    }
}

fn store_manifest(layout: &Layout, config: &serde_json::Value, layers: &[Descriptor]) -> Vec<u8> {
    let store: &dyn Content = layout;
    let (digest, size) = store.put(config.to_string().as_bytes()).unwrap();
    let config = Descriptor::new(MediaType::ImageConfig, size, digest);
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::ImageManifest,
        "config": config, "layers": layers});
    let bytes = manifest.to_string().into_bytes();
    let (digest, size) = store.put(&bytes).unwrap();
    let descriptor = Descriptor::new(MediaType::ImageManifest, size, digest);
    layout.tag("t", &descriptor).unwrap();
    bytes
}

fn flat(made: &Made, destination: &Path) -> Result<(), UnpackError> {
    let image = load(&made.layout, &made.manifest).unwrap();
    let options = ApplyOptions {
        ownership: Ownership::detect(),
        ..ApplyOptions::default()
    };
    unpack_to(
        &image,
        &made.layout,
        destination,
        &options,
        &Silent,
        &Cancel::default(),
    )
}

fn hard_layers() -> Vec<Vec<Item>> {
    vec![
        vec![
            dir(".").mode(0o755),
            dir("usr/lib").mode(0o755).mtime(500, 0),
            symlink("lib", "usr/lib"),
            file("etc/shadow", "s").mode(0o640).owner(0, 42),
            file("bin/su", "su").mode(0o4755),
            file("gone/a", "1"),
            file("d/old", "1"),
            file("t", "target").owner(8, 9),
        ],
        vec![
            file("lib/x", "via the link"),
            hard("link", "t"),
            wh(".wh.gone"),
            wh("d/.wh..wh..opq"),
            file("d/new", "2").mtime(1234, 567_000_000),
            dir("root").mode(0o700).owner(5, 5),
            file("f", "").xattr("user.k", "v"),
        ],
        vec![
            file("root/x", "3"),
            node("dev/null", Kind::CharDevice, 1, 3).mode(0o666),
        ],
    ]
}

fn missing(tool: &str) -> bool {
    let absent = Command::new(tool).arg("--version").output().is_err();
    if absent {
        println!("skipped: {tool} is not installed");
    }
    absent
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The tree that umoci makes of an image, or what it says.
fn umoci(made: &Made) -> Result<PathBuf, String> {
    let image = format!("{}:t", made.dir.path().join("layout").display());
    let bundle = made.dir.path().join("bundle");
    let done = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    match done.status.success() {
        true => Ok(bundle.join("rootfs")),
        false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
    }
}

#[test]
fn unpacks_as_umoci_does() {
    if missing("umoci") || !privileged() {
        return;
    }
    let tars: Vec<Vec<u8>> = hard_layers().iter().map(|layer| tar_of(layer)).collect();
    let made = image_of(&tars, Compression::Gzip);
    let ours = made.dir.path().join("ours");
    flat(&made, &ours).unwrap();
    let theirs = umoci(&made).unwrap();
    let theirs = listing(&open(theirs), false);
    let mine = listing(&open(&ours), false);
    for (path, line) in &theirs {
        assert_eq!(mine.get(path), Some(line), "{path}");
    }
    assert_eq!(mine.len(), theirs.len());
}

#[test]
fn snapshots_show_what_the_flat_tree_has() {
    if !privileged() {
        return;
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let tars: Vec<Vec<u8>> = hard_layers().iter().map(|layer| tar_of(layer)).collect();
        let made = image_of(&tars, compression);
        let image = load(&made.layout, &made.manifest).unwrap();
        let snapshots = Snapshots::open(&made.dir.path().join("snapshots")).unwrap();
        let events = Mutex::new(Vec::new());
        let progress = |event: Event| events.lock().unwrap().push(event);
        let go = || {
            unpack(
                &image,
                &made.layout,
                &snapshots,
                &progress,
                &Cancel::default(),
            )
        };
        let ids = go().unwrap();
        assert_eq!(ids.len(), 3);
        let folders: Vec<PathBuf> = ids
            .iter()
            .map(|id| snapshots.get(id).unwrap().unwrap())
            .collect();
        let merged = mount_overlay(&folders).unwrap();
        let ours = made.dir.path().join("flat");
        flat(&made, &ours).unwrap();
        let cut = |text: String| text.split(" =").next().unwrap().to_owned();
        let left: Vec<String> = listing(&merged, true).into_values().map(cut).collect();
        let right: Vec<String> = listing(&open(&ours), true).into_values().map(cut).collect();
        assert_eq!(left, right);
        // The second time nothing is done.
        events.lock().unwrap().clear();
        assert_eq!(go().unwrap(), ids);
        let seen = events.lock().unwrap().clone();
        assert_eq!(seen.len(), 3);
        assert!(
            seen.iter()
                .all(|e| matches!(e, Event::Finished { note: Some(_), .. }))
        );
        assert!(matches!(
            flat(&made, &ours),
            Err(UnpackError::NotEmpty { .. })
        ));
    }
}

#[test]
fn threads_that_unpack_one_image_do_it_once() {
    if !privileged() {
        return;
    }
    let made = image_of(
        &[tar_of(&[file("a", &"x".repeat(3_000_000))])],
        Compression::Gzip,
    );
    let image = load(&made.layout, &made.manifest).unwrap();
    let snapshots = Snapshots::open(&made.dir.path().join("snapshots")).unwrap();
    let written = Mutex::new(0);
    let progress = |event: Event| {
        if matches!(event, Event::Finished { note: None, .. }) {
            *written.lock().unwrap() += 1;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                unpack(
                    &image,
                    &made.layout,
                    &snapshots,
                    &progress,
                    &Cancel::default(),
                )
                .unwrap();
            });
        }
    });
    assert_eq!(*written.lock().unwrap(), 1);
}

#[test]
fn blobs_that_lie_leave_nothing_behind() {
    let tar = tar_of(&[file("a", "x")]);
    let made = image_of(&[tar], Compression::Gzip);
    let good = load(&made.layout, &made.manifest).unwrap();
    let snapshots = Snapshots::open(&made.dir.path().join("snapshots")).unwrap();
    let try_it = |image: &super::Image| {
        let result = unpack(image, &made.layout, &snapshots, &Silent, &Cancel::default());
        assert!(snapshots.list().unwrap().is_empty());
        result.unwrap_err()
    };
    let mut image = good.clone();
    image.layers[0].diff_id = sha256(b"other").to_string().parse().unwrap();
    assert!(matches!(try_it(&image), UnpackError::DiffId { .. }));
    let mut image = good.clone();
    let size = image.layers[0].blob.size();
    image.layers[0].blob.set_size(size + 1);
    assert!(matches!(try_it(&image), UnpackError::Verify(_)));
    let mut image = good.clone();
    image.layers[0].blob.set_digest(sha256(b"nothing"));
    assert!(matches!(try_it(&image), UnpackError::Missing { .. }));
    let cancel = Cancel::default();
    cancel.cancel();
    let result = unpack(&good, &made.layout, &snapshots, &Silent, &cancel);
    assert!(matches!(result, Err(UnpackError::Cancelled(_))));
    // The bytes on disk change behind our back.
    let digest = good.layers[0].blob.digest();
    let path = made
        .dir
        .path()
        .join("layout/blobs/sha256")
        .join(digest.digest());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(try_it(&good), UnpackError::Verify(_)));
}

#[test]
fn packed_folders_are_images_for_others() {
    if missing("skopeo") || missing("umoci") || !privileged() {
        return;
    }
    let stack = Stack::overlay(&hard_layers()[..1]).unwrap();
    let root = open(&stack.folders[0]);
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let made = image_of(&[], compression);
        let options = DiffOptions {
            mtime: None,
            ownership: Ownership::Mapped,
        };
        let pack = || {
            pack(
                &root,
                &made.layout,
                compression,
                &options,
                &Silent,
                &Cancel::default(),
            )
            .unwrap()
        };
        let packed = pack();
        assert_eq!(packed.blob, pack().blob);
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [packed.diff_id.to_string()]}});
        let manifest = store_manifest(&made.layout, &config, &[packed.blob]);
        let image = format!("{}:t", made.dir.path().join("layout").display());
        let copy = made.dir.path().join("copy");
        run(Command::new("skopeo")
            .arg("copy")
            .arg(format!("oci:{image}"))
            .arg(format!("oci:{}:t", copy.display())));
        let made = Made { manifest, ..made };
        let ours = made.dir.path().join("ours");
        flat(&made, &ours).unwrap();
        let (mut seen, mut expected) = (listing(&open(&ours), true), listing(&root, true));
        // A root that has nothing else to tell does not tell its time.
        seen.remove("/");
        expected.remove("/");
        assert_eq!(seen, expected);
    }
}

#[test]
fn documents_that_contradict_themselves_are_refused() {
    let made = image_of(&[], Compression::None);
    let blob = |text: &str| {
        let store: &dyn Content = &made.layout;
        let (digest, size) = store.put(text.as_bytes()).unwrap();
        json!({"mediaType": MediaType::ImageConfig, "digest": digest.to_string(), "size": size})
    };
    let layer = json!({"mediaType": "x", "digest": sha256(b"").to_string(), "size": 0});
    let two = blob(r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#);
    let strange = blob(r#"{"rootfs":{"type":"windows","diff_ids":[]}}"#);
    let mut artifact = two.clone();
    artifact["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
    let mut short = two.clone();
    short["size"] = 3.into();
    let index = "application/vnd.oci.image.index.v1+json";
    for (document, word) in [
        (json!({"schemaVersion": 1, "fsLayers": []}), "SchemaOne"),
        (
            json!({"schemaVersion": 2, "config": two, "layers": [layer]}),
            "LayerCount",
        ),
        (
            json!({"schemaVersion": 2, "config": strange, "layers": []}),
            "RootFsType",
        ),
        (
            json!({"schemaVersion": 2, "config": artifact, "layers": []}),
            "Artifact",
        ),
        (
            json!({"schemaVersion": 2, "config": short, "layers": []}),
            "Size",
        ),
        (
            json!({"schemaVersion": 2, "config": two, "layers": [], "manifests": []}),
            "Ambiguous",
        ),
        (
            json!({"schemaVersion": 2, "mediaType": index, "config": two, "layers": []}),
            "NotAnImage",
        ),
        (json!({"schemaVersion": 2, "manifests": []}), "NotAnImage"),
        (json!([]), "Json"),
    ] {
        let error = load(&made.layout, document.to_string().as_bytes()).unwrap_err();
        assert!(format!("{error:?}").contains(word), "{word}: {error:?}");
    }
    let large = vec![b' '; (4 << 20) + 1];
    assert!(matches!(
        load(&made.layout, &large),
        Err(ImageError::TooLarge { .. })
    ));
}

#[test]
fn an_index_answers_the_platform() {
    let row = |platform: &str, nested: bool| {
        let parts: Vec<&str> = platform.split('/').collect();
        let kind = if nested {
            MediaType::ImageIndex
        } else {
            MediaType::ImageManifest
        };
        let mut row = json!({"mediaType": kind, "size": 1,
            "digest": sha256(platform.as_bytes()).to_string(),
            "platform": {"os": parts[0], "architecture": parts[1]}});
        if let Some(variant) = parts.get(2) {
            row["platform"]["variant"] = (*variant).into();
        }
        row
    };
    let rows = [
        "linux/arm/v5",
        "linux/arm/v7",
        "linux/arm64/v8",
        "linux/amd64/v3",
        "linux/amd64",
        "unknown/unknown",
    ];
    let rows: Vec<_> = rows.iter().map(|name| row(name, false)).collect();
    let index = json!({"schemaVersion": 2, "manifests": rows}).to_string();
    for (wanted, chosen) in [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/amd64/v2", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v6", "linux/arm/v5"),
        ("linux/arm", "linux/arm/v7"),
    ] {
        let found = choose(index.as_bytes(), &wanted.parse().unwrap()).unwrap();
        assert_eq!(found.digest(), &sha256(chosen.as_bytes()), "{wanted}");
    }
    let error = choose(index.as_bytes(), &"windows/amd64".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no image for windows/amd64; there is linux/arm/v5, linux/arm, linux/arm64, \
         linux/amd64/v3, linux/amd64"
    );
    for bad in ["", "linux", "linux/", "a/b/c/d", "linux/am d64"] {
        assert!(bad.parse::<Platform>().is_err(), "{bad}");
    }
}

#[test]
fn indexes_nest_but_not_for_ever() {
    let made = image_of(&[tar_of(&[])], Compression::None);
    let store: &dyn Content = &made.layout;
    let mut document = made.manifest.clone();
    let mut kind = MediaType::ImageManifest;
    let platform = "linux/amd64".parse().unwrap();
    for depth in 0..6 {
        let found = load_for(store, &document, &platform);
        match depth < 4 {
            true => assert_eq!(found.unwrap().layers.len(), 1),
            false => assert!(matches!(found, Err(ImageError::TooDeep))),
        }
        let (digest, size) = store.put(&document).unwrap();
        let row = Descriptor::new(kind, size, digest);
        document = json!({"schemaVersion": 2, "manifests": [row]})
            .to_string()
            .into_bytes();
        kind = MediaType::ImageIndex;
    }
}

#[test]
fn indexes_that_name_one_another_often_are_read_once() {
    let made = image_of(&[tar_of(&[])], Compression::None);
    let store: &dyn Content = &made.layout;
    let mut document = made.manifest.clone();
    let mut kind = MediaType::ImageManifest;
    // A hundred million ways to one image.
    for _ in 0..4 {
        let (digest, size) = store.put(&document).unwrap();
        let row = Descriptor::new(kind, size, digest);
        let rows = vec![row; 100];
        document = json!({"schemaVersion": 2, "manifests": rows})
            .to_string()
            .into_bytes();
        kind = MediaType::ImageIndex;
    }
    let (digest, size) = store.put(&document).unwrap();
    let report = check::check(store, &document, &digest, &Silent, &Cancel::default()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.manifests, 5);
    let row = Descriptor::new(kind, size, digest);
    made.layout.tag("t", &row).unwrap();
    assert_eq!(made.layout.collect().unwrap(), Some(Freed::default()));
    assert!(store.open(row.digest()).unwrap().is_some());
}

#[test]
fn a_layout_keeps_what_others_wrote() {
    let made = image_of(&[], Compression::None);
    let dir = made.dir.path().join("layout");
    let index = dir.join("index.json");
    let mut value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    value["x-other"] = 1.into();
    std::fs::write(&index, value.to_string()).unwrap();
    let layout = Layout::open(&dir).unwrap();
    let descriptor = layout.find("t").unwrap().unwrap();
    layout.tag("u", &descriptor).unwrap();
    layout.tag("t", &descriptor).unwrap();
    assert_eq!(layout.images().unwrap().len(), 2);
    assert!(layout.remove_name("t").unwrap());
    assert_eq!(layout.find("t").unwrap(), None);
    assert_eq!(
        layout.find("u").unwrap().unwrap().digest(),
        descriptor.digest()
    );
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    assert_eq!(value["x-other"], 1);
    // The wrong digest is not kept, and a link out of the folder is not followed.
    let other = sha256(b"other");
    let mut writer = Content::writer(&layout, Some(&other)).unwrap();
    std::io::Write::write_all(&mut writer, b"bytes").unwrap();
    assert_eq!(
        writer.commit().unwrap_err().kind(),
        std::io::ErrorKind::InvalidData
    );
    assert!(Content::open(&layout, &other).unwrap().is_none());
    let link = dir.join("blobs/sha256").join(other.digest());
    std::os::unix::fs::symlink("/etc/passwd", link).unwrap();
    assert!(Content::open(&layout, &other).unwrap().is_none());
    assert!(Layout::open(made.dir.path()).is_err());
}

#[test]
fn configurations_read_as_they_are() {
    let made = image_of(&[], Compression::None);
    let image = load(&made.layout, &made.manifest).unwrap();
    assert_eq!(image.digest, sha256(&made.manifest));
    let expected = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..ImageConfig::default()
    };
    assert_eq!(image.config, expected);
}
