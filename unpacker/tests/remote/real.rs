//! Against docker's own registry, with images that skopeo and umoci made.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use config::credentials::Credential;
use config::name::Reference;
use unpacker::content::Content;
use unpacker::digest::sha256;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Event, Phase, Silent};
use unpacker::pull::{Pulled, pull};
use unpacker::push::{Document, push};
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::{Anonymous, Credentials, Fixed};
use unpacker::remote::error::RemoteError;
use unpacker::remote::transport::Certificates;

use crate::registry::{REGISTRY, Registry, Setup, have, run, skopeo};
use crate::store::Store;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI layout with one image of two layers, made by umoci.
fn image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..600_000u32)
        .flat_map(|n| sha256(&n.to_le_bytes()).digest().as_bytes()[..4].to_vec())
        .collect();
    fs::write(folder.path().join("noise"), noise).unwrap();
    for arguments in [
        "init --layout l",
        "new --image l:t",
        "insert --image l:t noise /noise",
        "insert --image l:t noise /again",
    ] {
        let mut umoci = Command::new("umoci");
        run(umoci.args(arguments.split(' ')).current_dir(folder.path()));
    }
    folder
}

fn remote(options: Options, credentials: impl Credentials + 'static) -> Remote {
    unpacker::remote::install_crypto();
    Remote::new(options, Arc::new(credentials)).unwrap()
}

async fn pull_to(remote: &Remote, reference: &Reference, store: &Arc<Store>) -> Pulled {
    let content: Arc<dyn Content> = store.clone();
    let platform = Platform::host();
    let pulled = pull(
        remote,
        content,
        reference,
        &platform,
        &Silent,
        &Cancel::default(),
    )
    .await;
    pulled.unwrap_or_else(|e| panic!("{reference}: {e:?}"))
}

/// Every blob of the layout, by its hexadecimal digest.
fn blobs_of(layout: &Path) -> HashMap<String, Vec<u8>> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn document(pulled: &Pulled) -> Document {
    Document {
        media_type: pulled.media_type.clone(),
        bytes: pulled.manifest.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_pushed_is_pulled_pushed_and_pulled_by_skopeo() {
    if !have(&[REGISTRY, "skopeo", "umoci"]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    let image = image();
    let layout = format!("oci:{}/l:t", image.path().display());
    let first = format!("docker://{}/a/b:t", registry.host);
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &layout, &first]);

    let remote = remote(Options::default(), Anonymous);
    let store = Store::new();
    let pulled = pull_to(&remote, &registry.at("a/b:t"), &store).await;
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &first]);
    assert_eq!(String::from_utf8_lossy(&pulled.manifest), raw);
    let blobs = blobs_of(&image.path().join("l"));
    assert_eq!(blobs.get(pulled.digest.digest()), Some(&pulled.manifest));
    let names: HashMap<String, ()> = digests(&pulled.manifest);
    assert_eq!(names.len(), 3);
    for name in names.keys() {
        let digest = format!("sha256:{name}").parse().unwrap();
        assert!(store.bytes(&digest) == blobs[name], "{name} differs");
    }

    let content: Arc<dyn Content> = store.clone();
    let to = registry.at("other:v1");
    let from: config::name::RepositoryName = "a/b".parse().unwrap();
    let notes: Arc<Mutex<Vec<_>>> = Arc::default();
    let progress = {
        let notes = Arc::clone(&notes);
        move |event| match event {
            Event::Finished { note, phase, .. } => {
                assert_eq!(phase, Phase::Upload);
                notes.lock().unwrap().push(note.unwrap_or_default());
            }
            Event::Transfer { .. } | Event::Warning { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let document = document(&pulled);
    let cancel = Cancel::default();
    let mount_from = |_: &unpacker::digest::Digest| Some(from.clone());
    for expected in ["mounted", "exists"] {
        let sent = push(
            &remote,
            content.clone(),
            &to,
            &document,
            Some(&mount_from),
            &progress,
            &cancel,
        );
        assert_eq!(sent.await.unwrap(), pulled.digest);
        let mut notes = notes.lock().unwrap();
        assert_eq!(std::mem::take(&mut *notes), [expected; 3]);
    }
    let back = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", back.path().display());
    let source = format!("docker://{to}");
    skopeo(&["copy", "-q", "--src-tls-verify=false", &source, &target]);
    let manifest = fs::read(back.path().join("manifest.json")).unwrap();
    assert_eq!(manifest, pulled.manifest);
}

/// The hexadecimal digests of a manifest's blobs.
fn digests(manifest: &[u8]) -> HashMap<String, ()> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let all = layers.chain([&manifest["config"]]);
    all.map(|d| (d["digest"].as_str().unwrap()[7..].to_owned(), ()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_and_its_absence_is_explained() {
    if !have(&[REGISTRY]) {
        return;
    }
    let registry = Registry::start(&Setup {
        password: true,
        ..Setup::default()
    });
    let to = registry.at("team/app:v1");
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let document = small_image(&*content);
    let cancel = Cancel::default();
    let stranger = remote(Options::default(), Anonymous);
    let refused = push(
        &stranger,
        content.clone(),
        &to,
        &document,
        None,
        &Silent,
        &cancel,
    )
    .await;
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("wants a login for pushing team/app"),
        "{said}"
    );

    let known = |password: &str| {
        let credential = Credential::basic("ali", password);
        let host = registry.host.clone();
        remote(Options::default(), Fixed { host, credential })
    };
    let wrong = known("close sesame").ping(&registry.host, &Silent).await;
    assert!(
        matches!(wrong, Err(RemoteError::LoginRefused { .. })),
        "{wrong:?}"
    );
    let ali = known("open sesame");
    ali.ping(&registry.host, &Silent).await.unwrap();
    let digest = push(&ali, content, &to, &document, None, &Silent, &cancel).await;
    assert_eq!(digest.unwrap(), sha256(&document.bytes));
    let pulled = pull_to(&ali, &to, &Store::new()).await;
    assert_eq!(pulled.manifest, document.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_certificate_of_a_file() {
    if !have(&[REGISTRY, "openssl"]) {
        return;
    }
    let registry = Registry::start(&Setup {
        tls: true,
        ..Setup::default()
    });
    let options = |ca_files| Options {
        tls: vec![registry.host.clone()],
        ca_files,
        retries: 0,
        ..Options::default()
    };
    let distrusting = remote(options(vec![]), Anonymous);
    let refused = distrusting.ping(&registry.host, &Silent).await;
    assert!(
        matches!(refused, Err(RemoteError::Network { .. })),
        "{refused:?}"
    );
    let trusting = remote(options(vec![registry.ca()]), Anonymous);
    trusting.ping(&registry.host, &Silent).await.unwrap();
    let content: Arc<dyn Content> = Store::new();
    let document = small_image(&*content);
    let to = registry.at("a:t");
    let cancel = Cancel::default();
    let sent = push(&trusting, content, &to, &document, None, &Silent, &cancel).await;
    sent.unwrap();
    let pulled = pull_to(&trusting, &to, &Store::new()).await;
    assert_eq!(pulled.manifest, document.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_by_host_as_docker_keeps_them() {
    if !have(&[REGISTRY, "openssl"]) {
        return;
    }
    let registry = Registry::start(&Setup {
        tls: true,
        client_certificate: true,
        ..Setup::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join(&registry.host);
    fs::create_dir(&own).unwrap();
    let ping = |certificates: &[(String, Certificates)]| {
        let options = Options {
            tls: vec![registry.host.clone()],
            certificates: certificates.iter().cloned().collect(),
            certificate_folders: vec![folder.path().to_owned()],
            retries: 0,
            ..Options::default()
        };
        let (client, host) = (remote(options, Anonymous), registry.host.clone());
        async move { client.ping(&host, &Silent).await }
    };
    assert!(ping(&[]).await.is_err());
    fs::copy(registry.ca(), own.join("ca.crt")).unwrap();
    // Trusting the server is not being trusted.
    assert!(ping(&[]).await.is_err());
    let (certificate, key) = registry.client();
    let set = Certificates {
        authorities: Vec::new(),
        client: Some((certificate.clone(), key.clone())),
    };
    ping(&[(registry.host.clone(), set.clone())]).await.unwrap();
    // Another host's certificate is not shown to this one.
    assert!(ping(&[("other.example".to_owned(), set)]).await.is_err());
    fs::copy(&certificate, own.join("client.cert")).unwrap();
    let broken = ping(&[]).await.unwrap_err();
    let source = std::error::Error::source(&broken).unwrap().to_string();
    assert!(source.contains("client.key"), "{source}");
    fs::copy(&key, own.join("client.key")).unwrap();
    ping(&[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_whole_and_comes_by_platform() {
    if !have(&[REGISTRY]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    let store = Store::new();
    let content: Arc<dyn Content> = store.clone();
    let image = small_image(&*content);
    let other = small_image(&*content);
    assert_eq!(image.bytes, other.bytes);
    let (digest, size) = content.put(&image.bytes).unwrap();
    let host = Platform::host();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{
            "mediaType": image.media_type, "digest": digest.to_string(), "size": size,
            "platform": {"os": host.os, "architecture": host.architecture}
        }]
    });
    let index = Document {
        media_type: INDEX.to_owned(),
        bytes: serde_json::to_vec_pretty(&index).unwrap(),
    };
    let remote = remote(Options::default(), Anonymous);
    let to = registry.at("multi:t");
    let cancel = Cancel::default();
    let sent = push(&remote, content, &to, &index, None, &Silent, &cancel).await;
    assert_eq!(sent.unwrap(), sha256(&index.bytes));
    let pulled = pull_to(&remote, &to, &Store::new()).await;
    assert_eq!(pulled.manifest, image.bytes);
    assert_eq!(pulled.indexes.len(), 1);
    assert_eq!(pulled.indexes[0].bytes, index.bytes);
}

/// One configuration, one small and one empty layer, in `content`.
fn small_image(content: &dyn Content) -> Document {
    let named = |bytes: &[u8], kind: &str| {
        let (digest, size) = content.put(bytes).unwrap();
        let kind = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": kind, "digest": digest.to_string(), "size": size})
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": named(b"{\"os\":\"linux\"}", "config.v1+json"),
        "layers": [named(b"not really a tar", "layer.v1.tar"), named(b"", "layer.v1.tar")],
    });
    Document {
        media_type,
        // Pretty, so that anything that writes it anew would be seen.
        bytes: serde_json::to_vec_pretty(&manifest).unwrap(),
    }
}
