//! The image service against docker's registry, and its example as a program of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use unpacker::digest::sha256;
use unpacker::image::layout::Layout;
use unpacker::remote::client::{Options, Remote};
use unpacker::remote::credentials::Anonymous;
use unpacker::service::{ImageService, ServiceError};

use crate::registry::{REGISTRY, Registry, Setup, have, run, skopeo};

fn service(dir: &Path) -> ImageService {
    unpacker::remote::install_crypto();
    let remote = Remote::new(Options::default(), Arc::new(Anonymous)).unwrap();
    ImageService::open(dir, remote).unwrap()
}

/// Pushes an image with a file of this text, which the second layer replaces.
fn push(registry: &Registry, name: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [("old", "old"), ("new", text)] {
        fs::write(folder.path().join(file), content).unwrap();
    }
    for arguments in [
        "init --layout l",
        "new --image l:t",
        "insert --image l:t old /file",
        "insert --image l:t new /file",
    ] {
        let mut umoci = Command::new("umoci");
        run(umoci.args(arguments.split(' ')).current_dir(folder.path()));
    }
    let from = format!("oci:{}/l:t", folder.path().display());
    let to = format!("docker://{}/{name}", registry.host);
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &from, &to]);
}

fn blobs(dir: &Path) -> usize {
    fs::read_dir(dir.join("images/blobs/sha256"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_unpacked_and_deleted() {
    if !have(&[REGISTRY, "skopeo", "umoci"]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    push(&registry, "one:1", "1");
    push(&registry, "two:1", "2");
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    let [one, two] = ["one:1", "two:1"].map(|name| format!("{}/{name}", registry.host));
    assert!(service.get_image(&one).unwrap().is_none());
    let image = service.pull_image(&one).await.unwrap();
    let raw = format!("docker://{one}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &raw]);
    assert_eq!(*image.digest(), sha256(raw.as_bytes()));
    assert_eq!(image.reference().to_string(), one);
    let manifest: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let layers: Vec<&str> = image.layers().iter().map(AsRef::as_ref).collect();
    let expected = manifest["layers"].as_array().unwrap().iter();
    let expected: Vec<&str> = expected.map(|l| l["digest"].as_str().unwrap()).collect();
    assert_eq!(layers, expected);
    assert_eq!(
        service.get_image(&one).unwrap().unwrap().digest(),
        image.digest()
    );

    // Others read the folder.
    let oci = format!("oci:{}:{one}", dir.path().join("images").display());
    assert_eq!(skopeo(&["inspect", "--raw", &oci]), raw);

    let root = service.unpack(&one, &dir.path().join("root")).unwrap();
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "1");
    let again = service.unpack(&one, &root).unwrap_err();
    assert!(format!("{:?}", again).contains("NotEmpty"), "{again:?}");
    let stack = service.layers(&one).unwrap();
    assert_eq!(stack.len(), 2);
    assert_eq!(fs::read_to_string(stack[1].join("file")).unwrap(), "1");
    assert_eq!(service.layers(&one).unwrap(), stack);

    // The lowest layer is in both; it goes with the last of them.
    service.pull_image(&two).await.unwrap();
    service.tag_image(&two, "two:copy").unwrap();
    assert_eq!(service.list_images().unwrap().len(), 3);
    let all = blobs(dir.path());
    assert!(service.delete_image(&one).unwrap());
    assert!(!service.delete_image(&one).unwrap());
    assert!(blobs(dir.path()) < all);
    for name in [&two, "two:copy"] {
        assert!(service.check_image(name).unwrap().is_sound());
    }
    assert!(service.delete_image(&two).unwrap());
    assert!(service.check_image("two:copy").unwrap().is_sound());
    // While somebody brings blobs nothing is freed, and afterwards all of it.
    let elsewhere = Layout::open(&dir.path().join("images")).unwrap();
    let hold = elsewhere.hold().unwrap();
    assert!(service.delete_image("two:copy").unwrap());
    assert_eq!(service.collect().unwrap(), None);
    assert!(blobs(dir.path()) > 0);
    drop(hold);
    assert!(service.collect().unwrap().unwrap().blobs > 0);
    assert_eq!(blobs(dir.path()), 0);

    let missing = service.unpack(&one, &dir.path().join("x")).unwrap_err();
    assert!(matches!(missing, ServiceError::NotFound { .. }));
    let nowhere = service
        .pull_image(&format!("{}/none:1", registry.host))
        .await;
    assert!(matches!(nowhere, Err(ServiceError::Pull { .. })));
    assert!(service.pull_image("Not A Name").await.is_err());
    assert_eq!(blobs(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pull_and_delete_at_once_and_lose_nothing() {
    if !have(&[REGISTRY, "skopeo", "umoci"]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    let names: Vec<String> = (0..4).map(|n| format!("app:{n}")).collect();
    for name in &names {
        push(&registry, name, name);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut work = Vec::new();
    for name in &names {
        // As processes have them: a service of its own, with locks of its own.
        let (service, name) = (service(dir.path()), format!("{}/{name}", registry.host));
        work.push(tokio::spawn(async move {
            for round in 0..5 {
                service.pull_image(&name).await.unwrap();
                assert!(service.check_image(&name).unwrap().is_sound(), "{name}");
                if round < 4 {
                    assert!(service.delete_image(&name).unwrap());
                }
            }
        }));
    }
    for one in work {
        one.await.unwrap();
    }
    let service = service(dir.path());
    assert_eq!(service.list_images().unwrap().len(), 4);
    service.collect().unwrap().unwrap();
    for name in &names {
        let name = format!("{}/{name}", registry.host);
        assert!(service.check_image(&name).unwrap().is_sound());
    }
}

/// The example, which `cargo test` builds beside its tests unless it is told to build only one.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.ancestors().nth(2).unwrap();
    let path = folder.join("examples/image_service");
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args("build --offline -p unpacker --example image_service".split(' '));
        run(build.env("CARGO_TARGET_DIR", folder.parent().unwrap()));
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs() {
    if !have(&[REGISTRY, "skopeo", "umoci"]) {
        return;
    }
    let registry = Registry::start(&Setup::default());
    push(&registry, "demo:1", "of the example");
    let dir = tempfile::tempdir().unwrap();
    let (store, root) = (dir.path().join("store"), dir.path().join("root"));
    let name = format!("{}/demo:1", registry.host);
    let told = run(Command::new(example()).arg(&name).arg(&store).arg(&root));
    assert!(told.starts_with(&name), "{told}");
    assert_eq!(
        told.lines()
            .filter(|line| line.starts_with("layer sha256:"))
            .count(),
        2
    );
    assert_eq!(
        fs::read_to_string(root.join("file")).unwrap(),
        "of the example"
    );
}
