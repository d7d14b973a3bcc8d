//! Base images that exist without any network registry: Debian by mmdebstrap, busybox from one file.
//!
//! Debian is made once per target folder and kept there, because it takes a minute and downloads
//! 30 MB; a second run of the tests, or a second process, finds it. busybox is made per test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::json;

use crate::layout::{self, Entry};
use crate::process::run;
use crate::{binary, probe};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The links that make busybox a small system.
const APPLETS: [&str; 16] = [
    "sh", "cat", "echo", "env", "grep", "id", "ls", "mkdir", "pwd", "rm", "sed", "sleep", "stat",
    "touch", "true", "wc",
];

/// An OCI layout with a minimal Debian 12; `None` after having told why not.
#[track_caller]
pub fn debian() -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if !probe::root() || !probe::programs(&["mmdebstrap", "skopeo"]) {
        return None;
    }
    // A test that panicked while it held the lock has left nothing half-made.
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|error| error.into_inner());
    let ready = binary::target().join("test-images/debian-bookworm");
    if !ready.exists() {
        make_debian(&ready);
    }
    Some(ready)
}

fn make_debian(ready: &Path) {
    let parent = ready.parent().expect("a parent");
    fs::create_dir_all(parent).expect("folders");
    let work = tempfile::tempdir_in(parent).expect("a folder");
    let tar = work.path().join("debian.tar");
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--variant=minbase", "--quiet", "bookworm"])
        .arg(&tar);
    run(&mut command).ok();
    let layer = fs::read(&tar).expect("the tar of mmdebstrap");
    let made = work.path().join("layout");
    layout::write(&made, &[layer], json!({ "Cmd": ["bash"], "Env": [PATH] }));
    // Another process may have been quicker; its layout is as good.
    if let Err(error) = fs::rename(&made, ready) {
        assert!(ready.exists(), "cannot keep {}: {error}", ready.display());
    }
}

/// Writes an OCI layout of two layers with busybox into a folder; `false` after having told why not.
/// The second layer deletes `/gone` of the first with a whiteout.
#[track_caller]
pub fn busybox(folder: &Path) -> bool {
    let layers = busybox_layers();
    if let Some(layers) = &layers {
        layout::write(folder, layers, json!({ "Cmd": ["sh"], "Env": [PATH] }));
    }
    layers.is_some()
}

/// The tars of that image, lowest first.
#[track_caller]
pub fn busybox_layers() -> Option<Vec<Vec<u8>>> {
    let program = fs::read(probe::program("busybox")?).expect("busybox");
    if !is_static(&program) {
        probe::skip("busybox is not static: install busybox-static");
        return None;
    }
    let names: Vec<String> = APPLETS.iter().map(|name| format!("bin/{name}")).collect();
    let mut entries = vec![
        ("bin/", Entry::Folder(0o755)),
        ("bin/busybox", Entry::File(0o755, &program)),
        ("dev/", Entry::Folder(0o755)),
        ("etc/", Entry::Folder(0o755)),
        ("etc/group", Entry::File(0o644, b"root:x:0:\nstaff:x:50:\n")),
        (
            "etc/passwd",
            Entry::File(
                0o644,
                b"root:x:0:0::/root:/bin/sh\nguest:x:7:50::/tmp:/bin/sh\n",
            ),
        ),
        ("gone", Entry::File(0o644, b"deleted by the next layer\n")),
        ("proc/", Entry::Folder(0o755)),
        ("root/", Entry::Folder(0o700)),
        ("sys/", Entry::Folder(0o755)),
        ("tmp/", Entry::Folder(0o1777)),
    ];
    entries.extend(
        names
            .iter()
            .map(|name| (name.as_str(), Entry::Link("busybox"))),
    );
    let upper = [
        (".wh.gone", Entry::File(0o644, b"")),
        ("etc/", Entry::Folder(0o755)),
        ("etc/layer", Entry::File(0o640, b"second\n")),
    ];
    Some(vec![layout::tar(&entries), layout::tar(&upper)])
}

/// A static program has no interpreter, and the loader's path appears nowhere in it.
fn is_static(program: &[u8]) -> bool {
    let head = &program[..program.len().min(4096)];
    !head.windows(4).any(|window| window == b"/ld-")
}
