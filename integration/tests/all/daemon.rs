//! The daemon's life: started by whoever needs it, one per data folder, gone when asked.

use std::os::unix::fs::PermissionsExt;

use integration::appliance::{Place, TestAppliance};
use integration::process::run;

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
