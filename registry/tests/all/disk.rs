//! A real disk that fills: a file system of a few MiB in a mount namespace of a child process.
//!
//! tmpfs where the kernel lets us make namespaces, ext4 on a file where we are root; otherwise the
//! test says why it is skipped.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use registry::http::{Front, router};
use registry::service::{Policy, Registry};
use registry::store::Grace;
use registry::store::writer::BlobWriter;

use super::door::{Door, Reply, image, options, sha256};
use super::verifier::{Excuses, faults};

const FOLDER: &str = "REGISTRY_DISK_FOLDER";

#[test]
fn a_full_tmpfs_answers_507_and_recovers() {
    let mount = "mount -t tmpfs -o size=12m tmpfs \"$REGISTRY_DISK_FOLDER\"";
    on_small_disk("tmpfs", mount);
}

#[test]
fn a_full_ext4_answers_507_and_recovers() {
    let mount = "f=$(mktemp) && truncate -s 16M \"$f\" && mkfs.ext4 -q -m 0 \"$f\" \
        && mount -o loop \"$f\" \"$REGISTRY_DISK_FOLDER\" && rm \"$f\"";
    on_small_disk("ext4", mount);
}

/// Runs the child on a file system that only it sees.
fn on_small_disk(name: &str, mount: &str) {
    let folder = tempfile::tempdir().unwrap();
    let inside = |script: String| {
        let mut command = Command::new("unshare");
        let root = rustix::process::geteuid().is_root();
        command.arg(if root { "-m" } else { "-rm" });
        command.args(["sh", "-c", &script]);
        command.env(FOLDER, folder.path());
        command.output()
    };
    let probe = match inside(mount.to_owned()) {
        Ok(probe) => probe,
        Err(error) => return println!("skipped: {name}: unshare: {error}"),
    };
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr);
        return println!("skipped: {name} cannot be mounted: {}", why.trim());
    }
    let program = std::env::current_exe().unwrap();
    let run = format!(
        "{mount} && exec {} --exact disk::child --ignored --nocapture --test-threads=1",
        program.display()
    );
    let output = inside(run).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let said = text.split_once("filled with ");
    let (_, said) = said.unwrap_or_else(|| panic!("the child did nothing: {text}"));
    println!("{name}: filled with {}", said.lines().next().unwrap());
}

/// Runs only as the child of the tests above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by a_full_tmpfs_answers_507_and_recovers and its like"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let registry = Registry::open(options(&folder), Policy::default()).unwrap();
    let door = Door::Router(router(Front::new(registry.clone())));
    let config = door.push_blob("disk", b"{}").await;
    let text = image(&config, &[], "");
    door.push_manifest("disk", "v1", &text).await.expect(201);

    let early = registry.blob_writer(Default::default()).unwrap();
    let blobs = fill(&door).await;
    takes_nothing_of_the_reserve(early);
    session(&door).await;
    // What fills the disk leaves room enough to delete it.
    let (gone, held) = blobs.split_at(8);
    for (path, _) in &gone[..4] {
        door.send("DELETE", path, &[], "").await.expect(202);
    }
    let refused = without_a_byte(&door, &folder, &gone[4..]).await;
    let grace = Grace {
        links: Duration::from_secs(3600),
        files: Duration::ZERO,
    };
    let swept = registry.store().collect(grace, &|_| false).unwrap();
    assert_eq!(swept.blobs, 8);
    door.push_blob("disk", &[250; 300_000]).await;
    door.push_manifest("disk", "v2", &text).await.expect(201);
    for (path, content) in held {
        assert!(door.get(path).await.expect(200).body == content.as_slice());
    }
    assert_eq!(registry.verify().unwrap(), []);
    drop((door, registry));
    opens_without_a_byte(&folder, held).await;
    assert_eq!(faults(&folder, Excuses::default()), [""; 0]);
    let count = blobs.len();
    println!("filled with {count} blobs, {refused} deletions refused without a byte left");
}

/// Pushes until nothing more fits; answers what was acknowledged.
async fn fill(door: &Door) -> Vec<(String, Vec<u8>)> {
    let mut held = Vec::new();
    let mut refused = 0;
    for number in 0..200u8 {
        // Smaller ones after the first refusal, until not even they fit.
        let length = if refused == 0 { 700_000 } else { 40_000 };
        let content = vec![number; length];
        let digest = sha256(&content);
        let post = format!("/v2/disk/blobs/uploads/?digest={digest}");
        let path = format!("/v2/disk/blobs/{digest}");
        let reply = door.send("POST", &post, &[], content.clone()).await;
        if reply.status == 201 {
            held.push((path, content));
            continue;
        }
        full(&reply);
        door.get(&path).await.expect(404);
        refused += 1;
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3, "the disk did not fill");
    for (path, content) in &held {
        assert!(door.get(path).await.expect(200).body == content.as_slice());
    }
    held
}

/// A body that began while there was room.
fn takes_nothing_of_the_reserve(mut writer: BlobWriter) {
    let refused = writer.write_all(&[1; 1000]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(writer.written(), 0);
}

fn full(reply: &Reply) {
    assert_eq!(reply.status, 507, "{reply:?}");
    assert_eq!(reply.code(), "DENIED");
}

/// An upload that does not fit says how much of it did.
async fn session(door: &Door) {
    let post = door.send("POST", "/v2/disk/blobs/uploads/", &[], "").await;
    if post.status != 202 {
        // Not even a session fits.
        return full(&post);
    }
    let location = post.header("location").to_owned();
    let reply = door.send("PATCH", &location, &[], vec![1; 2_000_000]).await;
    full(&reply);
    let status = door.get(&location).await.expect(204);
    let received = status.header("range").rsplit_once('-').unwrap().1;
    let received: usize = received.parse().unwrap();
    assert!(received < 2_000_000 - 1);
    door.send("DELETE", &location, &[], "").await.expect(204);
}

/// Somebody else takes the last byte: what can be deleted is, the rest is refused, and everybody
/// reads. Answers how many deletions were refused.
async fn without_a_byte(door: &Door, folder: &Path, blobs: &[(String, Vec<u8>)]) -> usize {
    let filler = folder.join("filler");
    fill_up(&filler);
    let mut post = door.send("POST", "/v2/disk/blobs/uploads/", &[], "").await;
    while post.status == 202 {
        // A checkpoint has just given back what the journal held.
        let location = post.header("location").to_owned();
        door.send("DELETE", &location, &[], "").await.expect(204);
        fill_up(&filler);
        post = door.send("POST", "/v2/disk/blobs/uploads/", &[], "").await;
    }
    full(&post);
    let digest = sha256(b"{}");
    let mount = format!("/v2/other/blobs/uploads/?mount={digest}&from=disk");
    full(&door.send("POST", &mount, &[], "").await);
    let mut refused = 0;
    for (path, content) in blobs {
        let reply = door.send("DELETE", path, &[], "").await;
        if reply.status == 202 {
            door.get(path).await.expect(404);
            continue;
        }
        full(&reply);
        assert!(door.get(path).await.expect(200).body == content.as_slice());
        refused += 1;
    }
    std::fs::remove_file(filler).unwrap();
    for (path, _) in blobs {
        let reply = door.send("DELETE", path, &[], "").await;
        assert!(matches!(reply.status.as_u16(), 202 | 404), "{reply:?}");
    }
    refused
}

/// After a clean stop somebody else takes the last byte: the registry starts and everybody reads,
/// twice. A deletion is done or refused.
async fn opens_without_a_byte(folder: &Path, blobs: &[(String, Vec<u8>)]) {
    let filler = folder.join("filler");
    fill_up(&filler);
    let (deleted, blobs) = blobs.split_first().unwrap();
    for _ in 0..2 {
        let registry = Registry::open(options(folder), Policy::default()).unwrap();
        let door = Door::Router(router(Front::new(registry.clone())));
        for (path, content) in blobs {
            assert!(door.get(path).await.expect(200).body == content.as_slice());
        }
        // Whether the index has pages left for that is chance.
        let reply = door.send("DELETE", &deleted.0, &[], "").await;
        match reply.status.as_u16() {
            202 | 404 => drop(door.get(&deleted.0).await.expect(404)),
            _ => {
                full(&reply);
                assert!(door.get(&deleted.0).await.expect(200).body == deleted.1.as_slice());
            }
        }
    }
    std::fs::remove_file(filler).unwrap();
}

fn fill_up(path: &Path) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    for piece in [65536, 4096, 1] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
    let _ = file.sync_all();
}
