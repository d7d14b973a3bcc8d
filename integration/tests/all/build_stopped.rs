//! Builds that are stopped: by Ctrl-C and by `--timeout`, wherever they wait; and what is left of them.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::probe;
use integration::process::{self, eventually, run_within, signal, wait};
use rustix::process::Signal;

/// Less than the 60 s after which a silent server is given up by itself.
const SOON: Duration = Duration::from_secs(40);
const FAILED: i32 = 1;
const STOPPED: i32 = 130;

/// Takes connections, and never says anything; the count of those that came.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, came) = (
        listener.local_addr().unwrap(),
        Arc::<AtomicUsize>::default(),
    );
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            held.push(stream);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (at, came)
}

/// Nothing of a build goes on in the daemon: what collects garbage is let in.
fn is_idle(appliance: &TestAppliance) {
    eventually("the build ended in the daemon", SOON, || {
        let prune = ["build-cache", "prune", "--dry-run"];
        appliance.run(&prune).code == 0
    });
}

#[test]
fn a_silent_server_holds_nobody_up() {
    let appliance = TestAppliance::start();
    let (at, came) = silent();
    let folder = Folder::new();
    let context = folder.path().display().to_string();
    for (text, times) in [
        (format!("FROM scratch\nADD http://{at}/f /\n"), 1),
        (format!("FROM {at}/base:1\n"), 2),
    ] {
        folder.write("Dockerfile", &text);
        let mut late = appliance
            .place()
            .devpod(&["build", "--timeout", "1s", &context]);
        run_within(&mut late, SOON)
            .failed(FAILED)
            .says("still building after 1 s");
        is_idle(&appliance);
        assert!(came.load(Ordering::SeqCst) >= times, "{text}");

        let before = came.load(Ordering::SeqCst);
        let mut command = appliance.place().devpod(&["build", &context]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut build = process::spawn(&mut command).unwrap();
        eventually("the server is asked", SOON, || {
            came.load(Ordering::SeqCst) > before
        });
        signal(&build, Signal::INT);
        assert_eq!(wait(&mut build, SOON), Some(STOPPED), "{text}");
        is_idle(&appliance);
    }
}

/// A context as a tar, with a folder that not even its owner may write to.
fn archive(at: &Path, dockerfile: &str) -> File {
    let context = at.join("context");
    fs::create_dir_all(context.join("closed/deeper")).unwrap();
    fs::write(context.join("closed/deeper/f"), "f").unwrap();
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    for (folder, mode) in [("closed/deeper", 0o500), ("closed", 0o555)] {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(context.join(folder), mode).unwrap();
    }
    let tar = at.join("context.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&context).arg("-cf").arg(&tar).arg(".");
    process::run(&mut pack).ok();
    File::open(tar).unwrap()
}

#[test]
fn a_context_on_standard_input_leaves_no_folder() {
    if !probe::root() || !probe::programs(&["tar", "useradd", "usermod", "userdel", "newuidmap"]) {
        return;
    }
    let appliance = TestAppliance::start_at(Place::of(Account::with_range()));
    let temporary = appliance.place().path().join("work/tmp");
    fs::create_dir(&temporary).unwrap();
    appliance.place().hand_over(&temporary);
    let start = |tar: File| {
        let mut command = appliance.place().devpod(&["build", "-"]);
        command.env("TMPDIR", &temporary).stdin(tar);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        process::spawn(&mut command).unwrap()
    };
    let left = || fs::read_dir(&temporary).unwrap().count();

    let folder = Folder::new();
    let mut build = start(archive(folder.path(), "FROM scratch\nCOPY closed /\n"));
    assert_eq!(wait(&mut build, SOON), Some(0));
    assert_eq!(left(), 0);

    let (at, came) = silent();
    let folder = Folder::new();
    let text = format!("FROM scratch\nCOPY closed /\nADD http://{at}/f /\n");
    let mut build = start(archive(folder.path(), &text));
    eventually("the server is asked", SOON, || {
        came.load(Ordering::SeqCst) > 0
    });
    assert_eq!(left(), 1, "the context is here while the build goes on");
    signal(&build, Signal::INT);
    assert_eq!(wait(&mut build, SOON), Some(STOPPED));
    assert_eq!(left(), 0);
}
