//! Blobs that do not compress, each different from all others, without being made or hashed each
//! from its beginning: a shared body and an ending of its own.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use ring::digest::{Context, SHA256};

use crate::wire::Connection;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// The shared beginning of blobs of one size.
pub(crate) struct Noise {
    body: Vec<u8>,
    /// How often the body is repeated.
    times: usize,
    hash: Context,
}

/// A blob: its ending, and its digest.
pub(crate) struct Blob {
    pub(crate) ending: [u8; 16],
    pub(crate) digest: String,
    pub(crate) size: u64,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A number that no other caller gets, in this process or another.
pub(crate) fn unique() -> [u8; 16] {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    bytes
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    text(ring::digest::digest(&SHA256, bytes).as_ref())
}

fn text(hash: &[u8]) -> String {
    let hex: Vec<String> = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

impl Noise {
    /// Blobs of `megabytes` million bytes and a little, made of pieces of at most 50.
    pub(crate) fn new(megabytes: usize) -> Self {
        let piece = megabytes.min(50);
        let mut body = Vec::new();
        let source = File::open("/dev/urandom").unwrap();
        source
            .take(piece as u64 * 1_000_000)
            .read_to_end(&mut body)
            .unwrap();
        let times = megabytes / piece;
        let mut hash = Context::new(&SHA256);
        for _ in 0..times {
            hash.update(&body);
        }
        Self { body, times, hash }
    }

    pub(crate) fn blob(&self) -> Blob {
        let ending = unique();
        let mut hash = self.hash.clone();
        hash.update(&ending);
        let size = (self.body.len() * self.times + ending.len()) as u64;
        let digest = text(hash.finish().as_ref());
        Blob {
            ending,
            digest,
            size,
        }
    }

    /// The bytes of a blob, in parts.
    pub(crate) fn parts<'a>(&'a self, blob: &'a Blob) -> Vec<&'a [u8]> {
        let mut parts = vec![self.body.as_slice(); self.times];
        parts.push(&blob.ending);
        parts
    }
}

/// Pushes a blob by POST and PUT.
pub(crate) fn put_blob(to: &mut Connection, repository: &str, digest: &str, parts: &[&[u8]]) {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let location = to.send("POST", &path, &[], &[]).expect(202).location();
    let closing = closing(&location, digest);
    let header = [("content-type", "application/octet-stream")];
    to.send("PUT", &closing, &header, parts).expect(201);
}

/// Where a session is ended.
pub(crate) fn closing(location: &str, digest: &str) -> String {
    let sign = if location.contains('?') { '&' } else { '?' };
    format!("{location}{sign}digest={digest}")
}

/// An image of layers that are there, with a configuration that is pushed first; answers the
/// manifest's digest and the configuration's.
pub(crate) fn put_image(
    to: &mut Connection,
    repository: &str,
    tag: &str,
    layers: &[(String, u64)],
) -> (String, String) {
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "created": tag,
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.0).collect::<Vec<_>>() },
        "history": [{ "comment": format!("{:?}", unique()) }],
    })
    .to_string();
    let of_config = digest(config.as_bytes());
    put_blob(to, repository, &of_config, &[config.as_bytes()]);
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size)| {
            serde_json::json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": IMAGE, "layers": layers,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": of_config, "size": config.len() },
    })
    .to_string();
    let path = format!("/v2/{repository}/manifests/{tag}");
    let header = [("content-type", IMAGE)];
    to.send("PUT", &path, &header, &[manifest.as_bytes()])
        .expect(201);
    (digest(manifest.as_bytes()), of_config)
}
