//! The life of a sandbox, and of one that outlives its daemon.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::base_image;
use integration::folder::Folder;
use integration::probe;
use integration::process::eventually;
use serde_json::Value;

/// An appliance with a busybox image called `busybox:1`.
fn appliance() -> Option<TestAppliance> {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return None;
    }
    let appliance = TestAppliance::start();
    appliance.load(&from, "busybox:1");
    // Unpacked now, so that what a later run prints is the sandbox's alone.
    appliance
        .run(&["sandbox", "run", "--rm", "busybox:1", "true"])
        .ok();
    Some(appliance)
}

/// The row of a sandbox in `ps`.
fn row(appliance: &TestAppliance, name: &str) -> Option<Value> {
    let rows = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).cloned()
}

fn status(appliance: &TestAppliance, name: &str) -> String {
    let row = row(appliance, name);
    row.map_or_else(String::new, |row| {
        row["status"].as_str().unwrap().to_owned()
    })
}

#[test]
fn a_command_runs_and_its_outcome_is_ours() {
    let Some(appliance) = appliance() else { return };
    let run =
        |arguments: &[&str]| appliance.run(&[&["sandbox", "run", "--rm"], arguments].concat());
    let script = "echo out; echo err >&2; exit 5";
    let ran = run(&["busybox:1", "sh", "-c", script]).failed(5);
    assert_eq!(ran.stdout, "out\n");
    assert!(ran.stderr.ends_with("err\n"), "{ran}");
    assert_eq!(run(&["busybox:1", "id", "-u"]).ok().text(), "0");
    assert_eq!(
        run(&["--user", "guest", "busybox:1", "id", "-un"])
            .ok()
            .text(),
        "guest"
    );
    assert_eq!(
        run(&["--workdir", "/etc", "busybox:1", "pwd"]).ok().text(),
        "/etc"
    );
    let env = run(&["--env", "A=b c", "busybox:1", "sh", "-c", "echo $A"]);
    assert_eq!(env.ok().text(), "b c");
    let host = run(&[
        "--hostname",
        "boxed",
        "busybox:1",
        "cat",
        "/proc/sys/kernel/hostname",
    ]);
    assert_eq!(host.ok().text(), "boxed");
    // A process that a signal ends: 128 plus its number.
    run(&["busybox:1", "sh", "-c", "kill -9 $$"]).failed(137);
    // As a shell has it: what is not there, and what cannot be executed.
    run(&["busybox:1", "no-such-program"])
        .failed(127)
        .says("no-such-program");
    run(&["busybox:1", "/etc/passwd"]).failed(126);
    let rows = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(
        rows.as_array().unwrap().len(),
        0,
        "--rm left something: {rows}"
    );
}

#[test]
fn nothing_stays_of_an_exec_whose_caller_is_killed() {
    let Some(appliance) = appliance() else { return };
    let run = ["sandbox", "run", "-d", "--name", "box", "busybox:1"];
    appliance.run(&[&run[..], &["sleep", "600"]].concat()).ok();
    let alive = || {
        let ps = ["sandbox", "exec", "box", "busybox", "ps", "-o", "args"];
        let seen = appliance.run(&ps).ok();
        seen.stdout.lines().any(|line| line.trim() == "sleep 51")
    };
    let exec = ["sandbox", "exec", "box", "sh", "-c", "sleep 51; true"];
    let mut caller = appliance.place().devpod(&exec).spawn().unwrap();
    eventually("the command runs", Duration::from_secs(20), alive);
    caller.kill().unwrap();
    caller.wait().unwrap();
    eventually("its end", Duration::from_secs(20), || !alive());
    appliance.run(&["sandbox", "rm", "--force", "box"]).ok();
}

#[test]
fn a_volume_is_shared_and_can_be_read_only() {
    let Some(appliance) = appliance() else { return };
    let folder = Folder::new();
    folder.write("file", "from outside\n");
    let volume = format!("{}:/mnt", folder.path().display());
    let run = |volume: &str, script: &str| {
        appliance.run(&[
            "sandbox",
            "run",
            "--rm",
            "-v",
            volume,
            "busybox:1",
            "sh",
            "-c",
            script,
        ])
    };
    assert_eq!(run(&volume, "cat /mnt/file").ok().text(), "from outside");
    run(&volume, "echo inside > /mnt/new").ok();
    assert_eq!(
        std::fs::read_to_string(folder.join("new")).unwrap(),
        "inside\n"
    );
    let refused = run(&format!("{volume}:ro"), "echo x > /mnt/file");
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(
        std::fs::read_to_string(folder.join("file")).unwrap(),
        "from outside\n"
    );
}

#[test]
fn a_sandbox_lives_from_run_to_rm() {
    let Some(appliance) = appliance() else { return };
    let script = "echo begun; while true; do sleep 1; done";
    let run = [
        "sandbox",
        "run",
        "-d",
        "--name",
        "life",
        "busybox:1",
        "sh",
        "-c",
        script,
    ];
    let id = appliance.run(&run).ok().text().to_owned();
    let found = row(&appliance, "life").unwrap();
    assert_eq!(found["id"], id.as_str());
    assert_eq!(found["status"], "running");
    appliance.run(&run).failed(4);
    let exec =
        |arguments: &[&str]| appliance.run(&[&["sandbox", "exec", "life"], arguments].concat());
    exec(&["sh", "-c", "echo kept > /tmp/file"]).ok();
    assert_eq!(exec(&["cat", "/tmp/file"]).ok().text(), "kept");
    exec(&["sh", "-c", "exit 9"]).failed(9);
    exec(&["no-such-program"])
        .failed(127)
        .says("no-such-program");
    exec(&["/etc/passwd"]).failed(126);
    eventually("the log", Duration::from_secs(10), || {
        appliance.run(&["sandbox", "logs", "life"]).ok().text() == "begun"
    });
    let refused = appliance.run(&["sandbox", "rm", "life"]);
    assert_ne!(refused.code, 0, "a running sandbox was removed: {refused}");
    appliance
        .run(&["sandbox", "stop", "--time", "1", "life"])
        .ok();
    assert_eq!(status(&appliance, "life"), "exited");
    assert_ne!(exec(&["true"]).code, 0);
    appliance.run(&["sandbox", "rm", "life"]).ok();
    assert!(row(&appliance, "life").is_none());
    appliance.run(&["sandbox", "logs", "life"]).failed(3);
}

#[test]
fn a_sandbox_outlives_its_daemon() {
    let Some(appliance) = appliance() else { return };
    let run = [
        "sandbox",
        "run",
        "-d",
        "--name",
        "old",
        "busybox:1",
        "sleep",
        "600",
    ];
    appliance.run(&run).ok();
    appliance
        .run(&["sandbox", "exec", "old", "sh", "-c", "echo 1 > /tmp/before"])
        .ok();
    let pid = row(&appliance, "old").unwrap()["pid"].clone();
    let appliance = TestAppliance::start_at(appliance.stop());
    assert_eq!(row(&appliance, "old").unwrap()["pid"], pid);
    let read = ["sandbox", "exec", "old", "cat", "/tmp/before"];
    assert_eq!(appliance.run(&read).ok().text(), "1");
    // A crash is no different.
    let appliance = TestAppliance::start_at(appliance.kill());
    assert_eq!(appliance.run(&read).ok().text(), "1");
    appliance
        .run(&["sandbox", "stop", "--time", "1", "old"])
        .ok();
    assert_eq!(status(&appliance, "old"), "exited");
    appliance.run(&["sandbox", "rm", "old"]).ok();
}

#[test]
fn rm_is_kept_by_a_later_daemon() {
    let Some(appliance) = appliance() else { return };
    let script = "while ! test -e /tmp/end; do sleep 0.1; done";
    let run = ["sandbox", "run", "-d", "--rm", "--name", "brief"];
    let command = ["busybox:1", "sh", "-c", script];
    appliance.run(&[&run[..], &command].concat()).ok();
    let appliance = TestAppliance::start_at(appliance.stop());
    assert_eq!(status(&appliance, "brief"), "running");
    appliance
        .run(&["sandbox", "exec", "brief", "touch", "/tmp/end"])
        .ok();
    eventually("its removal", Duration::from_secs(20), || {
        row(&appliance, "brief").is_none()
    });
}

#[test]
fn logs_keep_the_streams_apart_and_follow() {
    let Some(appliance) = appliance() else { return };
    let script = "echo out; echo err >&2; while true; do sleep 1; done";
    let run = ["sandbox", "run", "-d", "--name", "told", "busybox:1"];
    appliance
        .run(&[&run[..], &["sh", "-c", script]].concat())
        .ok();
    let logs = ["sandbox", "logs", "told"];
    eventually("the log", Duration::from_secs(10), || {
        let told = appliance.run(&logs).ok();
        (told.stdout.as_str(), told.stderr.as_str()) == ("out\n", "err\n")
    });
    let mut follower = appliance.place().devpod(&["sandbox", "logs", "-f", "told"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut told = BufReader::new(follower.stdout.take().unwrap());
    told.read_line(&mut first).unwrap();
    assert_eq!(first, "out\n");
    // The daemon reads the log for as long as somebody listens.
    let is_read = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", appliance.pid())).unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
            .any(|file| file.ends_with("log") && file.starts_with(appliance.place().data()))
    };
    assert!(is_read());
    follower.kill().unwrap();
    follower.wait().unwrap();
    eventually("the end of the reading", Duration::from_secs(10), || {
        !is_read()
    });
    appliance.run(&["sandbox", "rm", "--force", "told"]).ok();
}

#[test]
fn a_sandbox_sees_only_itself() {
    let Some(appliance) = appliance() else { return };
    let run = |script: &str| {
        let ran = appliance.run(&["sandbox", "run", "--rm", "busybox:1", "sh", "-c", script]);
        ran.ok().text().to_owned()
    };
    // The init that reaps, the shell and what it starts; nothing of the host.
    let processes: usize = run("ls -d /proc/[0-9]* | busybox wc -l").parse().unwrap();
    assert!(processes <= 5, "{processes} processes");
    let mount = "mkdir /tmp/m; busybox mount -o remount,rw /proc/sys 2>&1; echo 1 > /proc/sys/vm/drop_caches && echo wrote || echo kept";
    assert!(run(mount).ends_with("kept"));
    assert_eq!(
        run("test -e /dev/sda -o -e /dev/vda -o -e /dev/mem && echo seen || echo none"),
        "none"
    );
    // Two sandboxes of one image do not see each other's changes.
    run("touch /etc/mine");
    assert_eq!(run("test -e /etc/mine && echo seen || echo none"), "none");
}
