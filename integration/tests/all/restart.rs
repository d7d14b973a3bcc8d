//! Sandboxes outlive their daemon, its upgrade, and as stopped ones the host's restart.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::process::eventually;
use integration::{base_image, probe};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const REST: Duration = Duration::from_secs(20);

fn appliance() -> Option<TestAppliance> {
    let folder = Folder::new();
    let from = folder.join("from");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
        return None;
    }
    let appliance = TestAppliance::start_at(Place::with_binary());
    appliance.load(&from, "busybox:1");
    Some(appliance)
}

fn begin(appliance: &TestAppliance, options: &[&str], script: &str) -> String {
    let run = [&["sandbox", "run", "-d"], options].concat();
    let command = ["busybox:1", "sh", "-c", script];
    let ran = appliance.run(&[&run[..], &command].concat()).ok();
    ran.text().to_owned()
}

fn status(appliance: &TestAppliance, id: &str) -> String {
    let rows = appliance.run(&["sandbox", "ps", "--output", "json"]);
    let rows: Value = rows.ok().json();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["id"] == id || row["name"] == id);
    row.map_or("gone", |row| row["status"].as_str().unwrap())
        .to_owned()
}

/// Everything that one does with a running sandbox.
fn is_of_use(appliance: &TestAppliance, name: &str) {
    assert_eq!(status(appliance, name), "running");
    let read = appliance.run(&["sandbox", "exec", name, "cat", "/tmp/before"]);
    assert_eq!(read.ok().text(), "before");
    let log = appliance.run(&["sandbox", "logs", name]).ok();
    assert!(log.stdout.starts_with("begun\n"), "{log}");
    // It ticks; whoever attaches hears it from now on.
    let mut attach = appliance.place().devpod(&["sandbox", "attach", name]);
    let mut attached = attach.stdout(Stdio::piped()).spawn().unwrap();
    let mut heard = String::new();
    let mut output = BufReader::new(attached.stdout.take().unwrap());
    output.read_line(&mut heard).unwrap();
    assert!(heard.starts_with("tick"), "{heard:?}");
    attached.kill().unwrap();
    attached.wait().unwrap();
}

const TICKS: &str =
    "echo begun; echo before > /tmp/before; while true; do echo tick; sleep 0.2; done";

#[test]
fn a_killed_daemon_is_no_loss() {
    let Some(mut appliance) = appliance() else {
        return;
    };
    begin(&appliance, &["--name", "old"], TICKS);
    for _ in 0..3 {
        appliance = TestAppliance::start_at(appliance.kill());
        is_of_use(&appliance, "old");
    }
    appliance
        .run(&["sandbox", "stop", "--time", "1", "old"])
        .ok();
    assert_eq!(status(&appliance, "old"), "exited");
    let log = appliance.run(&["sandbox", "logs", "old"]).ok();
    assert!(log.stdout.lines().count() > 3, "{log}");
    // It goes on where it was.
    appliance.run(&["sandbox", "start", "old"]).ok();
    is_of_use(&appliance, "old");
    appliance.run(&["sandbox", "start", "old"]).ok();
    appliance.run(&["sandbox", "rm", "--force", "old"]).ok();
}

#[test]
fn an_upgrade_under_running_sandboxes() {
    let Some(appliance) = appliance() else { return };
    begin(&appliance, &["--name", "old"], TICKS);
    let place = appliance.stop();
    // As a package manager does it: another file takes the name.
    let (program, new) = (place.program().to_owned(), place.path().join("new"));
    fs::copy(&program, &new).unwrap();
    fs::rename(&new, &program).unwrap();
    let appliance = TestAppliance::start_at(place);
    is_of_use(&appliance, "old");
    // Also while the daemon runs: it goes on with the file that it was started from.
    fs::copy(&program, &new).unwrap();
    fs::rename(&new, &program).unwrap();
    is_of_use(&appliance, "old");
    begin(&appliance, &["--name", "new"], TICKS);
    eventually("the new one is of use, too", REST, || {
        status(&appliance, "new") == "running"
    });
    for name in ["old", "new"] {
        appliance
            .run(&["sandbox", "stop", "--time", "1", name])
            .ok();
        appliance.run(&["sandbox", "rm", name]).ok();
    }
}

#[test]
fn what_is_written_to_an_attached_process_arrives() {
    let Some(appliance) = appliance() else { return };
    let script = "while read line; do echo got $line; done; echo end";
    begin(&appliance, &["--name", "reader"], script);
    let mut attach = appliance
        .place()
        .devpod(&["sandbox", "attach", "-i", "reader"]);
    attach.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut attached = attach.spawn().unwrap();
    let mut input = attached.stdin.take().unwrap();
    let mut output = BufReader::new(attached.stdout.take().unwrap());
    let mut line = String::new();
    input.write_all(b"one\n").unwrap();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "got one\n");
    drop(input);
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "end\n");
    assert!(attached.wait().unwrap().success());
    assert_eq!(status(&appliance, "reader"), "exited");
}

/// The sandbox's folder after the host has gone down and come up: nothing runs, and what was written
/// down belongs to another boot.
fn reboot(place: &Place, id: &str) {
    let path: PathBuf = place.data().join("sandboxes").join(id).join("monitor.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    let monitor = record["monitor"]["pid"].as_i64().unwrap() as i32;
    kill_process(Pid::from_raw(monitor).unwrap(), Signal::KILL).unwrap();
    let gone = || !PathBuf::from(format!("/proc/{monitor}")).exists();
    eventually("the monitor's end", REST, gone);
    record["boot"] = "00000000-0000-4000-8000-000000000000".into();
    fs::write(&path, record.to_string()).unwrap();
}

#[test]
fn the_hosts_restart_stops_sandboxes() {
    let Some(appliance) = appliance() else { return };
    let kept = begin(&appliance, &["--name", "kept"], TICKS);
    let brief = begin(&appliance, &["--name", "brief", "--rm"], TICKS);
    let written = || {
        let read = ["sandbox", "exec", "kept", "cat", "/tmp/before"];
        appliance.run(&read).stdout == "before\n"
    };
    eventually("something to keep", REST, written);
    let place = appliance.kill();
    reboot(&place, &kept);
    reboot(&place, &brief);
    let appliance = TestAppliance::start_at(place);
    assert_eq!(status(&appliance, &kept), "stopped");
    assert_eq!(status(&appliance, &brief), "gone");
    let refused = appliance
        .run(&["sandbox", "exec", "kept", "true"])
        .failed(4);
    refused.says("does not run");
    appliance.run(&["sandbox", "stop", "kept"]).ok();
    appliance.run(&["sandbox", "start", "kept"]).ok();
    is_of_use(&appliance, "kept");
    let place = appliance.kill();
    reboot(&place, &kept);
    let appliance = TestAppliance::start_at(place);
    appliance.run(&["sandbox", "rm", "kept"]).ok();
    assert_eq!(status(&appliance, &kept), "gone");
}

#[test]
fn a_power_cut_before_an_image_was_durable() {
    let Some(appliance) = appliance() else { return };
    let id = begin(&appliance, &["--name", "new"], TICKS);
    let folder = appliance.place().data().join("sandboxes").join(&id);
    let marker = folder.join("unsettled");
    assert!(!marker.exists(), "whoever is answered may rely on it");
    let waiting = || unsynced(appliance.place());
    assert_eq!(waiting(), [] as [PathBuf; 0]);
    // The daemon was killed while it waited for the disk; all of it arrived there.
    let place = appliance.kill();
    fs::write(&marker, "").unwrap();
    let appliance = TestAppliance::start_at(place);
    assert!(!marker.exists());
    is_of_use(&appliance, "new");
    // The power went, and only the sandbox's record had arrived.
    let place = appliance.kill();
    reboot(&place, &id);
    fs::write(&marker, "").unwrap();
    for snapshot in snapshots(&place) {
        fs::write(snapshot.join("unsynced"), "another boot").unwrap();
    }
    let appliance = TestAppliance::start_at(place);
    assert_eq!(status(&appliance, "new"), "gone");
    assert!(!folder.exists());
    begin(&appliance, &["--name", "new"], TICKS);
    is_of_use(&appliance, "new");
    appliance.run(&["sandbox", "rm", "--force", "new"]).ok();
}

fn snapshots(place: &Place) -> Vec<PathBuf> {
    let all = fs::read_dir(place.data().join("snapshots")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    all.filter(|path| path.join("fs").exists()).collect()
}

fn unsynced(place: &Place) -> Vec<PathBuf> {
    let marker = |snapshot: PathBuf| snapshot.join("unsynced");
    let markers = snapshots(place).into_iter().map(marker);
    markers.filter(|marker| marker.exists()).collect()
}

#[test]
fn a_sandbox_whose_record_a_power_cut_took_is_started_again() {
    let Some(appliance) = appliance() else { return };
    let options = ["--name", "kept", "--restart", "always"];
    let id = begin(&appliance, &options, TICKS);
    let place = appliance.kill();
    reboot(&place, &id);
    // The file's name was durable, its bytes were not.
    let folder = place.data().join("sandboxes").join(&id);
    fs::write(folder.join("monitor.json"), "").unwrap();
    let appliance = TestAppliance::start_at(place);
    eventually("it runs again", REST, || {
        status(&appliance, "kept") == "running"
    });
    appliance
        .run(&["sandbox", "stop", "--time", "1", "kept"])
        .ok();
    appliance.run(&["sandbox", "rm", "kept"]).ok();
}
