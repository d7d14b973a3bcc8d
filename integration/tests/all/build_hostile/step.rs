//! Commands that are made to do harm: to the host, to the daemon, to the disk, to whoever reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::appliance::Place;
use integration::folder::Folder;
use integration::probe;
use integration::process::{eventually, run, signal, wait};
use rustix::process::Signal;

use super::{SOON, Scene, runs};

/// KiB that the daemon may have more after endless output than before.
const MORE: u64 = 64 << 10;
const STOPPED: i32 = 130;
const NO_SPACE: i32 = 7;

#[test]
fn a_step_reaches_nothing_of_the_host() {
    let Some(scene) = Scene::new() else { return };
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let attempts = "\
RUN if busybox mount -t tmpfs none /tmp || busybox mount -o bind / /tmp || busybox mount -o remount,rw /sys \
 || busybox umount /proc || busybox umount -l /proc/sys || busybox umount /dev; then exit 9; fi
RUN for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches /sys/power/state; do \
 if echo b > $f; then exit 9; fi; done; true
RUN if busybox mknod /m c 1 1 || busybox mknod /d b 8 0 || cat /dev/mem /dev/kmsg /proc/kcore; then exit 9; fi
RUN if cat /proc/1/environ || ls /proc/1/root/ || echo x > /proc/1/mem; then exit 9; fi
RUN kill -9 -1; kill -9 1; true
RUN for p in $(busybox seq 2 400); do kill -0 $p 2>/dev/null && echo $p >> /alive; done; test $(wc -l < /alive) -lt 4
RUN if busybox chroot /proc/1/root true || busybox nsenter -t 1 -m true || busybox unshare -Ur true; then exit 9; fi
";
    scene.build(attempts, &[]).ok();
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    scene.is_at_rest();
}

/// Each is what the next step, and whoever runs the image, finds: the image's, and never the host's.
#[test]
fn a_root_that_is_taken_apart() {
    let Some(scene) = Scene::new() else { return };
    let host = fs::read("/etc/passwd").unwrap();
    let mark = scene.folder.write("mark", "of the host");
    let mark = mark.display();
    for (steps, code) in [
        // The next step has nothing to run.
        ("RUN rm -rf /bin /etc /root /tmp /gone 2>/dev/null; true\nRUN true".to_owned(), 1),
        ("RUN rm -rf / 2>/dev/null; true\nCOPY Dockerfile /d".to_owned(), 0),
        // A link to the host's path leads to the image's.
        (format!("RUN rm /etc/passwd; busybox ln -s {mark} /etc/passwd\nUSER guest\nRUN true"), 1),
        (format!("RUN rm /etc/passwd; busybox ln -s {mark} /etc/passwd\nCOPY Dockerfile /etc/passwd"), 0),
        (
            "RUN rm /etc/passwd; busybox ln -s ../../../../../etc/passwd /etc/passwd\nCOPY --chown=guest Dockerfile /d"
                .to_owned(),
            1,
        ),
        ("RUN busybox rmdir /dev || true\nRUN echo x > /dev/null".to_owned(), 0),
        ("RUN busybox ln -s /proc/1/root /out\nCOPY Dockerfile /out/x".to_owned(), 0),
        (format!("RUN busybox ln -s {mark} /out\nADD Dockerfile /out"), 0),
        ("RUN busybox ln -s / /etc/up\nWORKDIR /etc/up/etc/up/w\nRUN pwd > /said".to_owned(), 0),
    ] {
        let ran = scene.build(&steps, &[]);
        assert_eq!(ran.code, code, "{steps}\n{ran}");
        assert_eq!(fs::read_to_string(scene.folder.join("mark")).unwrap(), "of the host");
    }
    assert_eq!(fs::read("/etc/passwd").unwrap(), host);
    scene.build("RUN true", &[]).ok();
    scene.is_at_rest();
}

#[test]
fn what_a_step_leaves_in_the_background_ends_with_it() {
    let Some(scene) = Scene::new() else { return };
    let word = format!("left-{}", std::process::id());
    let step = format!(
        "RUN for n in 1 2 3; do (trap '' TERM HUP INT; busybox setsid sh -c 'while :; do sleep 1; done; : {word}') & done; \
         sleep 1; echo done > /said"
    );
    scene.build(&step, &[]).ok();
    assert!(!runs(&word), "a process is left");
    assert_eq!(scene.sh("cat /said"), "done");
    scene.is_at_rest();
}

/// The bomb itself, held by the control group of `--pids-limit`: root has no other limit of processes.
#[test]
fn a_fork_bomb_is_held_and_goes() {
    if !probe::root() {
        return;
    }
    let Some(scene) = Scene::new() else { return };
    let pids = scene.appliance.run(&["doctor"]);
    let held = |line: &str| line.starts_with("ok") && line.contains("pids limits");
    if !pids.stdout.lines().any(held) {
        return probe::skip("there is no control group for pids");
    }
    let word = format!("bomb-{}", std::process::id());
    let limits = ["--pids-limit", "40", "--memory", "200m", "--cpus", "1"];
    let bomb = format!("RUN b() {{ b | b & sleep 1; }}; : {word}; b; while :; do b; done");
    let mut build = scene.start(&bomb, &limits);
    eventually("the bomb goes off", SOON, || count(&word) > 10);
    // The daemon answers beside it, and so does another build.
    assert!(count(&word) <= 45, "{} processes", count(&word));
    scene.appliance.run(&["images"]).ok();
    signal(&build, Signal::INT);
    assert_eq!(wait(&mut build, SOON), Some(STOPPED));
    eventually("all of it is gone", SOON, || count(&word) == 0);
    let timed = [&limits[..], &["--timeout", "3s"]].concat();
    scene
        .build(&bomb, &timed)
        .failed(1)
        .says("still building after 3 s");
    eventually("all of it is gone", SOON, || count(&word) == 0);
    scene.is_at_rest();
    scene.build("RUN true", &limits).ok();
}

fn count(word: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let is_step = |line: &Vec<u8>| {
        let line = String::from_utf8_lossy(line);
        line.starts_with("/bin/sh") && line.contains(word)
    };
    lines.filter(is_step).count()
}

#[test]
fn output_without_end_is_passed_on_and_not_kept() {
    let Some(scene) = Scene::new() else { return };
    scene.build("RUN true", &[]).ok();
    let before = scene.memory();
    for step in [
        "RUN busybox yes",
        "RUN busybox yes >&2",
        "RUN busybox tr '\\0' x < /dev/zero",
        "RUN cat /dev/zero",
        "RUN cat /dev/urandom >&2",
    ] {
        let mut build = scene.start(step, &["--progress", "plain"]);
        let log = |pid: u32| fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        let written = |pid: u32| {
            let text = log(pid);
            let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
            line.and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let pid = build.id();
        eventually("much of it was shown", SOON, || written(pid) > 4 << 20);
        signal(&build, Signal::INT);
        assert_eq!(wait(&mut build, SOON), Some(STOPPED), "{step}");
        scene.is_at_rest();
        let after = scene.memory();
        assert!(
            after < before + MORE,
            "{step}: {before} KiB before, {after} after"
        );
    }
}

#[test]
fn what_a_failing_step_said_is_bounded_and_tame() {
    let Some(scene) = Scene::new() else { return };
    let line = "busybox tr '\\0' x < /dev/zero | busybox head -c 5000000";
    let ran = scene.build(
        &format!("RUN {line}; exit 3"),
        &["--output", "json", "--progress", "quiet"],
    );
    let record = ran.failed(1).json();
    let bytes = record["logs"].to_string().len();
    assert!((1000..200_000).contains(&bytes), "{bytes}");
    let many = "RUN for n in $(busybox seq 20000); do echo line $n; done; exit 3";
    let ran = scene.build(many, &["--output", "json", "--progress", "quiet"]);
    let record = ran.failed(1).json();
    let logs = record["logs"].as_array().unwrap();
    assert!(
        logs.len() <= 20 && logs.last().unwrap() == "line 20000",
        "{logs:?}"
    );
    // Titles, cursors and bells are for nobody's terminal.
    let controls =
        "RUN printf '\\033]0;title\\007\\033[2J\\033[9Aup\\033[31mred\\b\\b\\302\\233x\\n'; exit 3";
    for mode in ["plain", "tty"] {
        let ran = scene
            .build(controls, &["--progress", mode])
            .failed(1)
            .says("red");
        let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!ran.stderr.contains(bad), "{:?}", ran.stderr);
    }
}

/// A file system of its own, taken away at the end.
struct Small(PathBuf);

impl Small {
    /// Nothing, after saying why, where none can be made.
    fn new(folder: &Folder) -> Option<Self> {
        if !probe::root() || !probe::programs(&["mount", "umount"]) {
            return None;
        }
        let at = folder.join("small");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=96m,mode=755", "none"])
            .arg(&at);
        run(&mut mount).ok();
        Some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What still runs in it ends with its daemon.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_room_helps() {
    let folder = Folder::new();
    let Some(small) = Small::new(&folder) else {
        return;
    };
    {
        let Some(scene) = Scene::at(Place::within(Folder::below(&small.0))) else {
            return;
        };
        let big = scene.folder.write("c/big", vec![b'x'; 120 << 20]);
        let write =
            |megabytes: u32| format!("RUN busybox dd if=/dev/zero of=/f bs=1M count={megabytes}");
        let copied = scene.build("COPY big /big", &[]).failed(NO_SPACE);
        copied.says("No space left").says("Free some space");
        fs::remove_file(&big).unwrap();
        let filled = scene.build(&write(200), &[]).failed(NO_SPACE);
        filled
            .says("No space left")
            .says("disk of the data folder was full");
        // Nothing half-made takes room: the same daemon builds on.
        scene.is_at_rest();
        scene.build(&write(8), &[]).ok();
        // What lies in a cache mount stays, so until it goes there is no room.
        let cache =
            "RUN --mount=type=cache,target=/c busybox dd if=/dev/zero of=/c/f bs=1M count=200";
        scene.build(cache, &[]).failed(NO_SPACE);
        scene.build(&write(16), &[]).failed(NO_SPACE);
        scene.appliance.run(&["build-cache", "prune", "--all"]).ok();
        scene.build(&write(16), &[]).ok();
        assert_eq!(scene.sh("wc -c < /f"), (16 << 20).to_string());
        assert!(Path::new(&scene.context()).exists());
    }
}
