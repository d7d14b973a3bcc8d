//! Workspaces from `up` to `delete`, with the project's own example and with a repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use integration::appliance::TestAppliance;
use integration::folder::Folder;
use integration::probe;
use integration::process::{self, run};
use rustix::process::Signal;
use serde_json::Value;

/// A copy of `examples/hello`, so that nothing is written into the repository.
pub(crate) fn example(folder: &Folder) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello");
    let copy = folder.join("hello");
    run(Command::new("cp").arg("-R").arg(source).arg(&copy)).ok();
    copy
}

fn status(appliance: &TestAppliance, name: &str) -> Value {
    appliance
        .run(&["status", name, "--output", "json"])
        .ok()
        .json()
}

/// Looked at without case: `Running` and `running` are the same to this test.
fn is(value: &Value, expected: &str) -> bool {
    let text = value["status"].as_str().or(value["state"].as_str());
    text.is_some_and(|text| text.eq_ignore_ascii_case(expected))
}

#[test]
fn the_example_lives_from_up_to_delete() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let project = example(&folder).display().to_string();
    let up = appliance.run(&["up", &project]).ok();
    let log = format!("{}{}", up.stdout, up.stderr);
    assert!(
        log.contains("[Builder] Step 1/") && log.contains("devpod ssh hello"),
        "{up}"
    );
    let ssh = |command: &[&str]| appliance.run(&[&["ssh", "hello", "--"], command].concat());
    assert_eq!(
        ssh(&["cat", "/etc/greeting"]).ok().text(),
        "hello from devpod"
    );
    assert_eq!(ssh(&["pwd"]).ok().text(), "/workspaces/hello");
    // The folder inside is the folder outside.
    ssh(&["sh", "-c", "echo inside > made-inside"]).ok();
    assert_eq!(
        std::fs::read_to_string(folder.join("hello/made-inside")).unwrap(),
        "inside\n"
    );
    assert!(
        folder.join("hello/.created").exists(),
        "postCreateCommand did not run"
    );
    ssh(&["sh", "-c", "exit 3"]).failed(3);
    found_everywhere(&appliance);
    // A second `up` finds it and builds nothing.
    let again = appliance.run(&["up", &project]).ok();
    assert!(!again.stderr.contains("Step 1/"), "{again}");
    appliance.run(&["stop", "hello"]).ok();
    assert!(is(&status(&appliance, "hello"), "stopped"));
    assert_ne!(ssh(&["true"]).code, 0);
    appliance.run(&["start", "hello"]).ok();
    assert_eq!(ssh(&["cat", "made-inside"]).ok().text(), "inside");
    appliance.run(&["logs", "hello"]).ok().says("Step 1/");
    appliance.run(&["delete", "--force", "hello"]).ok();
    appliance.run(&["status", "hello"]).failed(3);
    assert!(
        folder.join("hello/made-inside").exists(),
        "a folder of ours was deleted"
    );
    let sandboxes = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(sandboxes.as_array().unwrap().len(), 0, "{sandboxes}");
}

/// In `list`, in `status`, and in the user's files with the keys that others read (requirement D4).
fn found_everywhere(appliance: &TestAppliance) {
    let list = appliance.run(&["list", "--output", "json"]).ok();
    // Sindri looks for exactly this text.
    assert!(list.stdout.contains(r#""name":"hello""#), "{list}");
    assert!(is(&status(appliance, "hello"), "running"));
    let file = appliance
        .place()
        .home()
        .join(".devpod/workspaces/hello.json");
    let text = std::fs::read(&file).unwrap();
    let meta: Value = serde_json::from_slice(&text).unwrap();
    for key in [
        "name",
        "id",
        "createdAt",
        "status",
        "devSandboxId",
        "builderSandboxId",
        "volumeId",
        "imageRef",
        "configPath",
    ] {
        assert!(meta.get(key).is_some(), "{key} is missing in {meta}");
    }
    let logs = std::fs::read_dir(appliance.place().home().join(".devpod/logs")).unwrap();
    let names: Vec<_> = logs.map(|log| log.unwrap().file_name()).collect();
    let named = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("hello-");
    assert!(names.iter().any(named), "{names:?}");
}

#[test]
fn a_workspace_outlives_its_daemon() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let project = example(&folder).display().to_string();
    appliance.run(&["up", &project]).ok();
    appliance
        .run(&["ssh", "hello", "--", "sh", "-c", "echo 1 > /tmp/before"])
        .ok();
    let appliance = TestAppliance::start_at(appliance.kill());
    assert!(is(&status(&appliance, "hello"), "running"));
    let read = ["ssh", "hello", "--", "cat", "/tmp/before"];
    assert_eq!(appliance.run(&read).ok().text(), "1");
    appliance.run(&["delete", "--force", "hello"]).ok();
}

#[test]
fn a_repository_is_cloned_and_worked_on() {
    if !probe::programs(&["git"]) {
        return;
    }
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    let repository = example(&folder);
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=a", "-c", "user.email=a@b.c"])
            .args(arguments);
        run(command.current_dir(&repository)).ok()
    };
    git(&["init", "--quiet", "--initial-branch", "main"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "first"]);
    git(&["checkout", "--quiet", "-b", "other"]);
    std::fs::write(repository.join("only-here"), "branch\n").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "second"]);
    git(&["checkout", "--quiet", "main"]);
    let url = format!("file://{}", repository.display());
    appliance
        .run(&[
            "up", "--repo", &url, "--branch", "other", "--name", "cloned",
        ])
        .ok();
    let ssh = |command: &[&str]| appliance.run(&[&["ssh", "cloned", "--"], command].concat());
    assert_eq!(ssh(&["cat", "only-here"]).ok().text(), "branch");
    assert_eq!(
        ssh(&["git", "rev-list", "--count", "HEAD"]).ok().text(),
        "1"
    );
    assert_eq!(
        ssh(&["git", "branch", "--show-current"]).ok().text(),
        "other"
    );
    ssh(&["sh", "-c", "echo work > uncommitted"]).ok();
    appliance.run(&["up", "cloned", "--recreate"]).ok();
    assert_eq!(ssh(&["cat", "uncommitted"]).ok().text(), "work");
    appliance.run(&["delete", "--force", "cloned"]).ok();
    let missing = format!("file://{}/nowhere", folder.path().display());
    let refused = appliance.run(&["up", "--repo", &missing, "--name", "absent"]);
    assert_ne!(refused.code, 0, "{refused}");
    let left = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(left.as_array().unwrap().len(), 0, "{left}");
}

#[test]
fn up_is_killed_in_the_middle_and_done_again() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    folder.write(
        "slow/.devcontainer/Dockerfile",
        "FROM devpod/host\nRUN sleep 5 && echo done > /done\n",
    );
    let config = r#"{ "name": "slow", "build": { "dockerfile": "Dockerfile" } }"#;
    folder.write("slow/.devcontainer/devcontainer.json", config);
    let project = folder.join("slow").display().to_string();
    appliance.run(&["image", "from-host"]).ok();
    for after in [100, 1500, 3500] {
        let mut command = appliance.place().devpod(&["up", &project]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after));
        process::signal(&child, Signal::KILL);
        process::wait(&mut child, Duration::from_secs(5)).unwrap();
    }
    appliance.run(&["up", &project]).ok();
    let read = ["ssh", "slow", "--", "cat", "/done"];
    assert_eq!(appliance.run(&read).ok().text(), "done");
    let list = appliance.run(&["list", "--output", "json"]).ok().json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    let sandboxes = appliance
        .run(&["sandbox", "ps", "--output", "json"])
        .ok()
        .json();
    assert_eq!(sandboxes.as_array().unwrap().len(), 1, "{sandboxes}");
    appliance.run(&["delete", "--force", "slow"]).ok();
}

#[test]
fn nothing_stays_of_a_lifecycle_command_whose_up_is_killed() {
    let appliance = TestAppliance::start();
    let folder = Folder::new();
    // A time that no other test sleeps, to be found among all processes of the host.
    let nap = format!("54.{}", std::process::id());
    let config = format!(
        r#"{{ "image": "devpod/host", "postCreateCommand": "echo napping; sleep {nap}; true" }}"#
    );
    folder.write("nap/.devcontainer/devcontainer.json", &config);
    appliance.run(&["image", "from-host"]).ok();
    let project = folder.join("nap").display().to_string();
    let sleeps = || runs(&["sleep", &nap]);
    let mut command = appliance.place().devpod(&["up", &project]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    process::eventually("the command", Duration::from_secs(60), sleeps);
    process::signal(&child, Signal::KILL);
    process::wait(&mut child, Duration::from_secs(5)).unwrap();
    process::eventually("its end", Duration::from_secs(20), || !sleeps());
    appliance.run(&["delete", "--force", "nap"]).ok();
}

/// Whether a process with exactly these arguments runs on the host or in any sandbox of it.
fn runs(arguments: &[&str]) -> bool {
    let wanted: String = arguments.iter().map(|a| format!("{a}\0")).collect();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok())
        .any(|line| line == wanted.as_bytes())
}
