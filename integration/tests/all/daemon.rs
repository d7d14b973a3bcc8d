//! The daemon's life: started by whoever needs it, one per data folder, gone when asked.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::appliance::{Place, TestAppliance};
use integration::folder::Folder;
use integration::process::{self, eventually, run};
use integration::{base_image, probe};
use rustix::process::Signal;

#[test]
fn a_command_that_needs_it_starts_it_and_says_so_once() {
    let place = Place::new();
    place.run(&["daemon", "status"]).failed(3);
    let first = place.run(&["images"]).ok();
    assert!(
        first.stderr.contains("Starting the devpod daemon"),
        "{first}"
    );
    let second = place.run(&["images"]).ok();
    assert!(!second.stderr.contains("Starting"), "{second}");
    let status = place
        .run(&["daemon", "status", "--output", "json"])
        .ok()
        .json();
    assert_eq!(status["running"], true);
    let socket = std::fs::metadata(status["socket"].as_str().unwrap()).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    place.run(&["daemon", "stop"]).ok();
    place.run(&["daemon", "status"]).failed(3);
    place.run(&["daemon", "logs"]).ok();
}

#[test]
fn many_commands_at_once_start_one() {
    let place = Place::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| place.run(&["images"])))
            .collect();
        for ran in runs {
            ran.join().unwrap().ok();
        }
    });
}

#[test]
fn the_second_daemon_is_told_about_the_first() {
    let appliance = TestAppliance::start();
    let second = appliance
        .run(&["serve", "--listen", "127.0.0.1:0"])
        .failed(4);
    second.says(&appliance.pid().to_string()).says("--data");
    appliance.run(&["images"]).ok();
}

#[test]
fn it_ends_tidily_and_starts_again() {
    let place = TestAppliance::start().stop();
    let place = TestAppliance::start_at(place).kill();
    TestAppliance::start_at(place).stop();
}

#[test]
fn a_taken_port_is_named_with_a_way_out() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = Place::new();
    let address = format!("127.0.0.1:{port}");
    let refused = place.run(&["serve", "--listen", &address]).failed(4);
    refused.says(&port.to_string()).says("registry.listen");
    // The same from a command that starts it in the background.
    let mut command = place.devpod(&["images"]);
    let refused = run(command.env("DEVPOD_REGISTRY_LISTEN", &address)).failed(4);
    refused.says(&port.to_string());
}

#[test]
fn settings_are_kept() {
    let place = Place::new();
    place
        .run(&["config", "set", "registry.listen", "127.0.0.1:5999"])
        .ok();
    place.run(&["config", "get", "no.such.key"]).failed(2);
    let refused = place.run(&["config", "set", "registry.listen", "nonsense"]);
    assert_ne!(refused.code, 0, "{refused}");
    let file = std::fs::read_to_string(place.home().join(".devpod/config.json")).unwrap();
    assert!(
        file.contains("127.0.0.1:5999") && !file.contains("nonsense"),
        "{file}"
    );
}

/// Busybox in the registry, and the context of a build whose one command is `step`.
fn build_of(appliance: &TestAppliance, step: &str) -> Option<Folder> {
    let folder = Folder::new();
    let layout = folder.join("layout");
    if !probe::root() || !probe::programs(&["skopeo"]) || !base_image::busybox(&layout) {
        return None;
    }
    appliance.load(&layout, "busybox:1");
    let base = appliance.reference("busybox:1");
    folder.write("context/Dockerfile", format!("FROM {base}\nRUN {step}\n"));
    Some(folder)
}

/// A build in the background whose first output has come.
fn building(appliance: &TestAppliance, folder: &Folder) -> std::process::Child {
    let context = folder.join("context").display().to_string();
    let mut command = appliance.place().devpod(&["build", "-t", "b:1", &context]);
    let output = std::fs::File::create(folder.join("output")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let build = command.stderr(output).spawn().unwrap();
    eventually("the step speaks", Duration::from_secs(60), || {
        said(folder).contains("aaaa")
    });
    build
}

fn said(folder: &Folder) -> String {
    std::fs::read_to_string(folder.join("output")).unwrap()
}

#[test]
fn a_stop_ends_a_build_at_once_and_tells_its_caller() {
    let appliance = TestAppliance::start();
    // A number of our own, to find the process by.
    let step = "echo aaaa; sleep 98761234";
    let Some(folder) = build_of(&appliance, step) else {
        return;
    };
    let mut build = building(&appliance, &folder);
    let begun = Instant::now();
    appliance.run(&["daemon", "stop"]).ok();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(process::wait(&mut build, Duration::from_secs(5)), Some(130));
    let said = said(&folder);
    assert!(said.contains("the daemon was stopped"), "{said}");
    let running = run(Command::new("ps").args(["-eo", "args"])).ok();
    let left = running
        .stdout
        .lines()
        .find(|line| *line == "sleep 98761234");
    assert_eq!(left, None);
    let log = std::fs::read_to_string(appliance.place().path().join("daemon-output")).unwrap();
    for part in ["verb=\"build\"", "begun", "failed", "Cancelled", "stopping"] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[test]
fn a_stopped_reader_stops_the_output_and_not_the_memory() {
    let appliance = TestAppliance::start();
    let Some(folder) = build_of(&appliance, "yes aaaa") else {
        return;
    };
    let mut build = building(&appliance, &folder);
    process::signal(&build, Signal::STOP);
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", appliance.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = resident();
    std::thread::sleep(Duration::from_secs(3));
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more than {before}");
    // The caller's end is the build's end too, though it was waiting to be read.
    process::signal(&build, Signal::KILL);
    process::wait(&mut build, Duration::from_secs(5));
    appliance.stop();
}

#[test]
fn what_is_not_utf_8_in_the_environment_harms_nothing() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    run(place.devpod(&["images"]).env("ODD", odd)).ok();
    let missing = place.home().join("nothing").display().to_string();
    run(place.devpod(&["up", &missing]).env("ODD", odd)).failed(3);
}

#[test]
fn a_background_daemon_has_no_secrets_of_its_first_caller() {
    let place = Place::new();
    run(place
        .devpod(&["images"])
        .env("MY_SECRET", "hush")
        .env("LC_ALL", "C.UTF-8"))
    .ok();
    let status = place
        .run(&["daemon", "status", "--output", "json"])
        .ok()
        .json();
    let environment = std::fs::read(format!("/proc/{}/environ", status["pid"])).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("LC_ALL=C.UTF-8"), "{environment}");
    assert!(!environment.contains("hush"), "{environment}");
    place.run(&["daemon", "logs"]).ok().says("serving");
}

#[test]
fn workspaces_of_another_user_folder_are_not_shown() {
    let place = Place::new();
    place.run(&["list"]).ok();
    let other = place.home().join("other");
    let mut command = place.devpod(&["list"]);
    let refused = run(command.env("DEVPOD_HOME", &other)).failed(4);
    refused
        .says(&other.display().to_string())
        .says("daemon stop");
    // What does not depend on it goes on.
    run(place.devpod(&["images"]).env("DEVPOD_HOME", &other)).ok();
}

#[test]
fn commands_during_a_stop_are_answered() {
    let place = Place::new();
    place.run(&["images"]).ok();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..12)
            .map(|n| {
                let place = &place;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(20 * n));
                    place.run(&["images"])
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100));
        place.run(&["daemon", "stop"]).ok();
        for ran in runs {
            ran.join().unwrap().ok();
        }
    });
    let log = place.run(&["daemon", "logs"]).ok();
    assert!(!log.stdout.contains("error:"), "{log}");
}

#[test]
fn the_data_folder_is_closed_to_others() {
    let place = Place::new();
    std::fs::create_dir(place.data()).unwrap();
    std::fs::set_permissions(place.data(), PermissionsExt::from_mode(0o755)).unwrap();
    place.run(&["images"]).ok();
    for (name, wanted) in [("", 0o700), ("content", 0o700), ("registry.redb", 0o600)] {
        let data = std::fs::metadata(place.data().join(name)).unwrap();
        assert_eq!(data.permissions().mode() & 0o777, wanted, "{name}");
    }
}
