//! Crashes at every step of every write. A child process runs a script of writes, prints what was
//! acknowledged, and aborts itself at the n-th time it comes to a step. The parent opens the folder
//! again: no row may lack its blob, and nothing acknowledged may be lost.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use config::name::{RepositoryName, Tag, Target};
use registry::digest::{Algorithm, Digest};
use registry::service::{ManifestPut, Policy, References, Registry};
use registry::store::Options;
use registry::store::step::{Step, Steps};

use super::door::{image, options, sha256};

const FOLDER: &str = "REGISTRY_CRASH_FOLDER";
const STEP: &str = "REGISTRY_CRASH_STEP";
const COUNT: &str = "REGISTRY_CRASH_COUNT";

#[test]
fn a_crash_at_any_step_loses_nothing() {
    let mut crashes = 0;
    for step in Step::ALL {
        for count in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let (crashed, acknowledged) = run_child(folder.path(), step, count);
            check(folder.path(), &acknowledged, &format!("{step:?} {count}"));
            if !crashed {
                assert!(count > 1, "no write comes to {step:?}");
                assert!(acknowledged.contains("done"));
                break;
            }
            crashes += 1;
        }
    }
    println!("{crashes} crashes survived");
}

fn run_child(folder: &Path, step: Step, count: usize) -> (bool, BTreeSet<String>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "crash::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, folder)
        .env(STEP, format!("{step:?}"))
        .env(COUNT, count.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text
        .lines()
        .filter_map(|line| line.split_once("ack ").map(|(_, what)| what.to_owned()));
    let said: BTreeSet<String> = said.collect();
    let crashed = std::os::unix::process::ExitStatusExt::signal(&output.status).is_some();
    assert!(
        crashed || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (crashed, said)
}

/// Opens what the child left and compares it with what it acknowledged.
fn check(folder: &Path, acknowledged: &BTreeSet<String>, name: &str) {
    let registry = Registry::open(options(folder), Policy::default()).unwrap();
    assert_eq!(registry.verify().unwrap(), [], "{name}");
    let has = |what: &str| acknowledged.contains(what);
    let blob = |content: &[u8]| {
        registry
            .stat_blob(&repository(), &sha256(content))
            .unwrap()
            .is_some()
    };
    let tagged = |tag: &str| {
        registry
            .resolve(&repository(), &tag.parse().unwrap())
            .unwrap()
    };
    for content in ["layer", "stream", "{}"] {
        if has(content) && !has("deleting") {
            assert!(blob(content.as_bytes()), "{name} lost {content}");
        }
    }
    if has("large") && !has("deleting") {
        assert!(blob(&[7; 100_000]), "{name} lost the large one");
    }
    if has("pulled") && !has("deleting") {
        assert!(blob(b"pulled"), "{name} lost the pulled one");
    }
    if has("one") && !has("deleting") {
        assert_eq!(tagged("one"), Some(sha256(manifest().as_bytes())), "{name}");
    }
    if has("deleted") {
        assert_eq!(tagged("one"), None, "{name}: a deleted manifest came back");
    }
    let names = std::fs::read_dir(folder.join("content/uploads")).unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.starts_with("w-")),
        "{name}: {names:?}"
    );
    // Whatever was interrupted can be done again.
    script(&registry, &|_| {});
    assert_eq!(registry.verify().unwrap(), [], "{name} again");
}

/// A power cut before any checkpoint that takes every name and every byte that was not synced:
/// of the content folder only the stand-ins are left, and what was under final names is empty.
#[test]
fn a_power_cut_that_takes_all_that_is_not_synced_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    let registry = Registry::open(options(data.path()), Policy::default()).unwrap();
    let uploads = data.path().join("content/uploads");
    // The first stand-ins are made beside the open.
    let pooled = || {
        let session = registry.start_upload(&repository(), Algorithm::Sha256);
        let session = session.unwrap();
        let held = uploads.join(format!("p-{session}")).exists();
        registry.cancel_upload(&repository(), &session).unwrap();
        held
    };
    while !pooled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let large = |byte: u8| vec![byte; 200_000];
    for content in [large(1), b"layer".to_vec(), b"stream".to_vec()] {
        upload(&registry, &repository(), &content);
    }
    for content in [large(2), b"{}".to_vec()] {
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(&content).unwrap();
        registry
            .commit_blob(&repository(), writer, &sha256(&content))
            .unwrap();
    }
    let target = Target::Tag("one".parse().unwrap());
    registry
        .put_manifest(&repository(), &put(&target, &manifest()))
        .unwrap();

    let cut = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(data.path().join(name), cut.path().join(name)).unwrap();
    for name in ["registry.redb", "registry.journal.0", "registry.journal.1"] {
        copy(name);
    }
    for folder in ["content/uploads", "content/blobs/sha256"] {
        std::fs::create_dir_all(cut.path().join(folder)).unwrap();
    }
    for entry in std::fs::read_dir(&uploads).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("p-") {
            copy(&format!("content/uploads/{name}"));
        }
    }
    let torn = sha256(b"layer");
    let torn = cut.path().join("content/blobs/sha256").join(torn.digest());
    std::fs::write(torn, b"").unwrap();

    let recovered = Registry::open(options(cut.path()), Policy::default()).unwrap();
    assert_eq!(recovered.verify().unwrap(), []);
    for byte in [1, 2] {
        let digest = sha256(&large(byte));
        assert!(
            recovered
                .stat_blob(&repository(), &digest)
                .unwrap()
                .is_some()
        );
    }
    let tagged = recovered.resolve(&repository(), &"one".parse().unwrap());
    assert_eq!(tagged.unwrap(), Some(sha256(manifest().as_bytes())));
}

/// Runs only as the child of the test above.
#[test]
#[ignore = "is started by a_crash_at_any_step_loses_nothing"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let wanted = std::env::var(STEP).unwrap();
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    let seen = AtomicUsize::new(0);
    let steps = Steps::calling(move |step| {
        if format!("{step:?}") == wanted && seen.fetch_add(1, Ordering::SeqCst) + 1 == count {
            std::process::abort();
        }
        Ok(())
    });
    let options = Options {
        steps,
        ..options(folder.as_ref())
    };
    let registry = Registry::open(options, Policy::default()).unwrap();
    script(&registry, &|what| {
        println!("ack {what}");
        std::io::stdout().flush().unwrap();
    });
}

fn repository() -> RepositoryName {
    "crash/test".parse().unwrap()
}

fn manifest() -> String {
    image(&sha256(b"{}"), &[&sha256(b"layer"), &sha256(b"stream")], "")
}

/// Every kind of write once.
fn script(registry: &Registry, acknowledge: &dyn Fn(&str)) {
    let repository = repository();
    for content in ["layer", "{}"] {
        let mut writer = registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        registry
            .commit_blob(&repository, writer, &sha256(content.as_bytes()))
            .unwrap();
        acknowledge(content);
    }
    upload(registry, &repository, b"stream");
    acknowledge("stream");
    // Too large for the journal: it has a stand-in there.
    upload(registry, &repository, &[7; 100_000]);
    acknowledge("large");
    let pulled = registry.store().blobs().put(b"pulled", Algorithm::Sha256);
    assert!(registry.link_blob(&repository, &pulled.unwrap()).unwrap());
    acknowledge("pulled");
    let text = manifest();
    let tag: Tag = "one".parse().unwrap();
    let stored = registry
        .put_manifest(&repository, &put(&Target::Tag(tag), &text))
        .unwrap();
    acknowledge("one");
    acknowledge("deleting");
    assert!(
        registry
            .delete_manifest(&repository, &stored.digest)
            .unwrap()
    );
    acknowledge("deleted");
    for content in ["layer", "stream"] {
        registry
            .delete_blob(&repository, &sha256(content.as_bytes()))
            .unwrap();
    }
    // The clock's seconds are coarse: everything so far must be older than "now".
    registry
        .sweep(Duration::ZERO, &|digest| *digest == sha256(b"{}"))
        .unwrap();
    acknowledge("done");
}

fn upload(registry: &Registry, repository: &RepositoryName, content: &[u8]) {
    let session = registry
        .start_upload(repository, Algorithm::Sha256)
        .unwrap();
    let (first, second) = content.split_at(3);
    let mut appender = registry.append(repository, &session, None, None).unwrap();
    appender.write(first).unwrap();
    drop(appender);
    let mut appender = registry.append(repository, &session, None, None).unwrap();
    appender.write(second).unwrap();
    let expected: Digest = sha256(content);
    appender.commit(repository, &expected).unwrap();
}

fn put<'a>(target: &'a Target, text: &'a str) -> ManifestPut<'a> {
    ManifestPut {
        target,
        tags: &[],
        media_type: None,
        bytes: text.as_bytes(),
        references: References::Required,
    }
}
