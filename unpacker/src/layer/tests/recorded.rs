//! With one single id: owners are recorded, whiteouts and overlay mounts work all the same.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::*;
use crate::layer::diff::{DiffOptions, diff};
use crate::progress::Event;

const INSIDE: &str = "DEVPOD_TEST_SINGLE_ID";

/// Runs `inside` again in a user namespace that has one id.
#[test]
fn one_id_is_enough() {
    let exe = std::env::current_exe().unwrap();
    let probe = Command::new("unshare")
        .args(["-U", "-r", "-m", "true"])
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces here");
        return;
    }
    let done = Command::new("unshare")
        .args(["-U", "-r", "-m"])
        .arg(exe)
        .args(["--exact", "layer::tests::recorded::inside", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Does nothing unless `one_id_is_enough` starts it.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        println!("nothing to do: one_id_is_enough starts this one inside a user namespace");
        return;
    }
    assert_eq!(Ownership::detect(), Ownership::Recorded);
    let layers = [
        vec![
            dir("d").mode(0o500).owner(5, 6),
            file("d/f", "x").mode(0o4711).owner(33, 44),
            file("gone", ""),
            file("o/old", ""),
        ],
        vec![
            wh(".wh.gone"),
            wh("o/.wh..wh..opq"),
            file("d/new", "").owner(1, 2),
            hard("link", "d/f"),
            symlink("s", "d").owner(9, 9),
            node("null", Kind::CharDevice, 1, 3),
        ],
    ];
    let dir = TempDir::new().unwrap();
    let warnings = Mutex::new(Vec::new());
    let progress = |event: Event| warnings.lock().unwrap().push(event);
    let mut folders = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let folder = dir.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        let parents: Vec<Root> = folders.iter().map(open).collect();
        let form = Form::Overlay { parents: &parents };
        let (tar, cancel) = (tar_of(layer), Cancel::default());
        let options = ApplyOptions::default();
        apply(
            &mut &tar[..],
            &open(&folder),
            form,
            &options,
            &progress,
            &cancel,
        )
        .unwrap();
        folders.push(folder);
    }
    assert_eq!(warnings.lock().unwrap().len(), 1, "the device is left out");
    let merged = mount_overlay(&folders).unwrap();
    let seen = |path: &str| {
        let metadata = merged.metadata(Path::new(path)).unwrap();
        Ownership::Recorded
            .of(&merged, Path::new(path), &metadata)
            .unwrap()
    };
    assert_eq!(seen("d"), (Owner { uid: 5, gid: 6 }, 0o500));
    assert_eq!(seen("d/f"), (Owner { uid: 33, gid: 44 }, 0o4711));
    assert_eq!(seen("link"), (Owner { uid: 33, gid: 44 }, 0o4711));
    assert_eq!(seen("d/new"), (Owner { uid: 1, gid: 2 }, 0o644));
    assert!(merged.lookup(Path::new("gone")).unwrap().is_none());
    assert!(merged.read_dir(Path::new("o")).unwrap().is_empty());
    let mut out = Vec::new();
    let options = DiffOptions {
        mtime: None,
        ownership: Ownership::Recorded,
    };
    diff(&open(&folders[1]), &mut out, &options).unwrap();
    let mut names = Vec::new();
    for entry in tar::Archive::new(&out[..]).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        names.push(format!(
            "{} {}:{}",
            entry.path().unwrap().display(),
            header.uid().unwrap(),
            header.gid().unwrap()
        ));
    }
    assert_eq!(
        names,
        [
            "d/ 5:6",
            "d/f 33:44",
            "d/new 1:2",
            ".wh.gone 0:0",
            "link 33:44",
            "o/ 0:0",
            "o/.wh..wh..opq 0:0",
            "s 0:0"
        ]
    );
}

const FEW: &str = "DEVPOD_TEST_FEW_IDS";

/// Runs `with_few_ids` in a user namespace that has a thousand. Its map is written here: `newuidmap`
/// would want the ids to be root's in `/etc/subuid`.
#[test]
fn an_owner_that_is_not_mapped_is_told_with_a_hint() {
    if !privileged() {
        println!("skipped: only root may map a thousand ids");
        return;
    }
    let mut child = Command::new("unshare")
        .args(["-U", "sh", "-c", "read go && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "layer::tests::recorded::with_few_ids",
            "--nocapture",
        ])
        .env(FEW, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = Path::new("/proc").join(child.id().to_string());
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    while fs::read_link(proc.join("ns/user")).unwrap() == own {
        assert!(child.try_wait().unwrap().is_none(), "unshare failed");
        thread::sleep(Duration::from_millis(5));
    }
    fs::write(proc.join("uid_map"), "0 0 1000").unwrap();
    fs::write(proc.join("gid_map"), "0 0 1000").unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Does nothing unless `an_owner_that_is_not_mapped_is_told_with_a_hint` starts it.
#[test]
fn with_few_ids() {
    if std::env::var_os(FEW).is_none() {
        return;
    }
    assert_eq!(Ownership::detect(), Ownership::Mapped);
    let item = file("f", "x").owner(1000, 0);
    let error = Stack::flat(&[vec![item]]).err().unwrap();
    assert!(
        matches!(
            error,
            ApplyError::Unmapped {
                uid: 1000,
                gid: 0,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("/etc/subuid"), "{error}");
    // Capabilities are kept for this namespace: the kernel notes whose they are.
    let caps = "\u{1}\0\0\u{2}\0\u{20}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let item = file("ping", "x").owner(999, 0).mode(0o4755);
    let stack = Stack::flat(&[vec![item.xattr("security.capability", caps)]]).unwrap();
    let root = stack.merged().unwrap();
    let found = root.metadata(Path::new("ping")).unwrap();
    assert_eq!((found.mode, found.owner.uid), (0o4755, 999));
    let kept = root
        .xattr(Path::new("ping"), "security.capability".as_ref())
        .unwrap();
    assert_eq!(kept.as_deref(), Some(caps.as_bytes()));
    // Nobody in a user namespace makes device nodes.
    let layer = [vec![node("null", Kind::CharDevice, 1, 3), file("g", "")]];
    let stack = Stack::flat(&layer).unwrap();
    assert_eq!(
        stack
            .merged()
            .unwrap()
            .read_dir(Path::new(""))
            .unwrap()
            .len(),
        1
    );
}
