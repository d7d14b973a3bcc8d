//! OCI image layouts (image-spec image-layout.md) written by the harness itself: an image that
//! nothing of ours has made, with digests computed by another implementation than ours.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes a layout with one image, tagged `latest`. `layers` are uncompressed tars, lowest first.
pub fn write(folder: &Path, layers: &[Vec<u8>], config: Value) {
    write_for(architecture(), folder, layers, config);
}

/// As [`write`], for an architecture that need not be this machine's.
pub fn write_for(architecture: &str, folder: &Path, layers: &[Vec<u8>], config: Value) {
    let image = json!({ "architecture": architecture, "config": config });
    write_with(folder, layers, image);
}

/// As [`write`], with more of the configuration than its `config`.
pub fn write_with(folder: &Path, layers: &[Vec<u8>], mut image: Value) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("folders");
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in layers {
        diff_ids.push(digest(layer));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(layer).expect("memory");
        let blob = gzip.finish().expect("memory");
        let media = "application/vnd.oci.image.layer.v1.tar+gzip";
        descriptors.push(put(&blobs, media, &blob));
    }
    if image["architecture"].is_null() {
        image["architecture"] = architecture().into();
    }
    image["os"] = "linux".into();
    image["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = put(
        &blobs,
        "application/vnd.oci.image.config.v1+json",
        &bytes(&image),
    );
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media, "config": config, "layers": descriptors,
    });
    let entry = put(&blobs, media, &bytes(&manifest));
    finish(folder, entry);
}

/// Writes a layout whose `latest` is an index of the images of other layouts, each for an architecture.
pub fn write_index(folder: &Path, images: &[(&Path, &str)]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("folders");
    let mut entries = Vec::new();
    for (image, architecture) in images {
        for blob in fs::read_dir(image.join("blobs/sha256")).expect("blobs") {
            let blob = blob.expect("a blob");
            fs::copy(blob.path(), blobs.join(blob.file_name())).expect("a copy");
        }
        let mut entry = read_index(image)["manifests"][0].clone();
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        let members = entry.as_object_mut().expect("a descriptor");
        members.remove("annotations");
        entries.push(entry);
    }
    let media = "application/vnd.oci.image.index.v1+json";
    let list = json!({ "schemaVersion": 2, "mediaType": media, "manifests": entries });
    let entry = put(&blobs, media, &bytes(&list));
    finish(folder, entry);
}

fn read_index(folder: &Path) -> Value {
    let index = fs::read(folder.join("index.json")).expect("index.json");
    serde_json::from_slice(&index).expect("JSON")
}

/// Names what `latest` is.
fn finish(folder: &Path, mut entry: Value) {
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(folder.join("index.json"), bytes(&index)).expect("index.json");
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(folder.join("oci-layout"), bytes(&version)).expect("oci-layout");
}

/// A tar of folders (a name that ends in a slash), files and links.
pub fn tar(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, entry) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        let (kind, mode, data) = match entry {
            Entry::Folder(mode) => (tar::EntryType::Directory, *mode, &b""[..]),
            Entry::File(mode, data) => (tar::EntryType::Regular, *mode, *data),
            Entry::Link(_) => (tar::EntryType::Symlink, 0o777, &b""[..]),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        match entry {
            Entry::Link(target) => tar.append_link(&mut header, name, target),
            _ => tar.append_data(&mut header, name, data),
        }
        .expect("a tar entry");
    }
    tar.into_inner().expect("memory")
}

/// What a tar entry is; numbers are modes.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    Folder(u32),
    File(u32, &'a [u8]),
    Link(&'a str),
}

/// `sha256:…` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

/// Digest of the manifest that `latest` means in a layout.
pub fn manifest_digest(folder: &Path) -> String {
    let index = read_index(folder);
    let digest = index["manifests"][0]["digest"].as_str();
    digest.expect("a digest").to_owned()
}

fn put(blobs: &Path, media: &str, bytes: &[u8]) -> Value {
    let digest = digest(bytes);
    let name = digest.strip_prefix("sha256:").expect("sha256");
    fs::write(blobs.join(name), bytes).expect("a blob");
    json!({ "mediaType": media, "digest": digest, "size": bytes.len() })
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
