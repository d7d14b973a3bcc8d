//! Pull of ten 20 MB layers from docker's registry on loopback, beside `skopeo copy` to a folder.
//!
//! Prints one line per run; fails when what arrived is not what was pushed. Needs docker-registry
//! and skopeo, and says so where one is missing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[allow(dead_code)]
#[path = "../tests/remote/registry.rs"]
mod registry;
#[allow(dead_code)]
#[path = "../tests/remote/store.rs"]
mod store;

use std::sync::Arc;
use std::time::Instant;

use config::name::Reference;
use ring::rand::{SecureRandom, SystemRandom};
use unpacker::content::Content;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Silent};
use unpacker::pull::pull;
use unpacker::push::{Document, push};
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;

use registry::{REGISTRY, Registry, Setup, have};
use store::Store;

const LAYERS: usize = 10;
const LAYER_BYTES: usize = 20_000_000;
const RUNS: usize = 5;

fn main() {
    if !have(&[REGISTRY, "skopeo"]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    unpacker::remote::install_crypto();
    let remote = Remote::new(Options::default(), Arc::new(Anonymous)).unwrap();
    let reference = registry.at("bench/ten:t");
    let document = runtime.block_on(fill(&remote, &reference));
    for run in 0..RUNS {
        let started = Instant::now();
        let store = runtime.block_on(ours(&remote, &reference, &document));
        report("devpod", run, started);
        drop(store);
        let started = Instant::now();
        let folder = skopeo(&reference);
        report("skopeo", run, started);
        drop(folder);
    }
}

fn report(tool: &str, run: usize, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let rate = (LAYERS * LAYER_BYTES) as f64 / 1e6 / seconds;
    println!("{tool} run {run}: {seconds:.2} s, {rate:.0} MB/s");
}

/// Pushes an image of incompressible layers.
async fn fill(remote: &Remote, reference: &Reference) -> Document {
    let content: Arc<dyn Content> = Store::new();
    let config = descriptor(&*content, b"{}", "config.v1+json");
    let layers: Vec<_> = (0..LAYERS)
        .map(|_| {
            let mut bytes = vec![0; LAYER_BYTES];
            SystemRandom::new().fill(&mut bytes).unwrap();
            descriptor(&*content, &bytes, "layer.v1.tar")
        })
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers
    });
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let document = Document { media_type, bytes };
    let cancel = Cancel::default();
    let started = Instant::now();
    push(
        remote, content, reference, &document, None, &Silent, &cancel,
    )
    .await
    .unwrap();
    report("devpod push", 0, started);
    document
}

fn descriptor(content: &dyn Content, bytes: &[u8], kind: &str) -> serde_json::Value {
    let (digest, size) = content.put(bytes).unwrap();
    let media_type = format!("application/vnd.oci.image.{kind}");
    serde_json::json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

async fn ours(remote: &Remote, reference: &Reference, pushed: &Document) -> Arc<Store> {
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let (platform, cancel) = (Platform::host(), Cancel::default());
    let pulled = pull(remote, content, reference, &platform, &Silent, &cancel);
    let pulled = pulled.await.unwrap();
    assert_eq!(pulled.manifest, pushed.bytes);
    store
}

fn skopeo(reference: &Reference) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", folder.path().display());
    let source = format!("docker://{reference}");
    registry::skopeo(&["copy", "-q", "--src-tls-verify=false", &source, &target]);
    folder
}
