//! Against docker's own registry, with images that skopeo and umoci made.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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

use crate::store::Store;

const REGISTRY: &str = "/usr/bin/docker-registry";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// bcrypt of "open sesame".
const HTPASSWD: &str = "ali:$2b$04$8gCkEmH3F0taDB21.LHMR.9JNWAzhQxfkCDr7G2oG6rqwiXDVx.v.\n";

/// Which tools a test needs; says which one is missing.
fn have(tools: &[&str]) -> bool {
    for tool in tools {
        let found = std::env::var("PATH").unwrap_or_default();
        let found = found
            .split(':')
            .any(|dir| Path::new(dir).join(tool).exists());
        if !found && !Path::new(tool).exists() {
            eprintln!("skipped: {tool} is not installed");
            return false;
        }
    }
    true
}

#[derive(Default)]
struct Setup {
    password: bool,
    tls: bool,
}

struct Registry {
    child: Child,
    host: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn start(setup: &Setup) -> Self {
        // Another process may take the free port first: then the child ends, and we try again.
        for _ in 0..5 {
            if let Some(registry) = Self::try_start(setup) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn try_start(setup: &Setup) -> Option<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yml");
        fs::write(&config, configuration(folder.path(), &host, setup)).unwrap();
        let child = Command::new(REGISTRY)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut registry = Self {
            child,
            host,
            folder,
        };
        registry.comes_up().then_some(registry)
    }

    fn comes_up(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            if std::net::TcpStream::connect(&self.host).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn at(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(folder: &Path, host: &str, setup: &Setup) -> String {
    let shown = folder.display();
    let mut text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {shown}/data}}\n\
         http:\n  addr: {host}\n"
    );
    if setup.tls {
        make_certificate(folder);
        text += &format!("  tls: {{certificate: {shown}/tls.crt, key: {shown}/tls.key}}\n");
    }
    if setup.password {
        fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
        text += &format!("auth:\n  htpasswd: {{realm: r, path: {shown}/htpasswd}}\n");
    }
    text
}

fn make_certificate(folder: &Path) {
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                     -subj /CN=localhost -addext subjectAltName=DNS:localhost \
                     -addext basicConstraints=critical,CA:FALSE \
                     -keyout tls.key -out tls.crt";
    let mut openssl = Command::new("openssl");
    run(openssl
        .args(arguments.split_whitespace())
        .current_dir(folder));
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

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

fn skopeo(arguments: &[&str]) -> String {
    run(Command::new("skopeo").args(arguments))
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
    let from = "a/b".parse().unwrap();
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
    for expected in ["mounted", "exists"] {
        let sent = push(
            &remote,
            content.clone(),
            &to,
            &document,
            Some(&from),
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
