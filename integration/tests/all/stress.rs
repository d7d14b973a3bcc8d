//! Many sandboxes at once, many one after the other, several users and several daemons: nothing grows.
//!
//! The tests here are the short form. The long one (50 sandboxes, 1,000 cycles) is
//! `cargo test -p integration --test all -- --ignored stress`.

use std::process::Command;
use std::thread;
use std::time::Duration;

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::census::{self, Census};
use integration::folder::Folder;
use integration::process::eventually;
use integration::{base_image, probe};
use serde_json::Value;

const REST: Duration = Duration::from_secs(60);
/// Connections that are just being closed, and the registry's own files, come and go.
const FEW_DESCRIPTORS: usize = 12;
/// What an allocator keeps between two moments that are alike.
const FEW_KIB: u64 = 8 << 10;

/// An appliance at rest, with an image called `busybox:1` that is unpacked.
struct Ready {
    appliance: TestAppliance,
    /// In the environment of all its sandboxes.
    word: String,
}

impl Ready {
    fn at(place: Place) -> Option<Self> {
        let folder = Folder::new();
        let from = folder.join("from");
        if !probe::programs(&["skopeo"]) || !base_image::busybox(&from) {
            return None;
        }
        let word = format!("DEVPOD_TEST_STRESS={}", place.path().display());
        let appliance = TestAppliance::start_at(place);
        appliance.load(&from, "busybox:1");
        let ready = Self { appliance, word };
        ready.once("true").ok();
        Some(ready)
    }

    fn begin(&self, name: &str) -> integration::process::Ran {
        let begin = ["sandbox", "run", "-d", "--name", name, "--env", &self.word];
        let command = ["busybox:1", "sh", "-c", "echo begun; exec sleep 3600"];
        self.appliance.run(&[&begin[..], &command].concat())
    }

    fn once(&self, script: &str) -> integration::process::Ran {
        let run = ["sandbox", "run", "--rm", "--env", &self.word];
        self.appliance
            .run(&[&run[..], &["busybox:1", "sh", "-c", script]].concat())
    }

    fn ask(&self, arguments: &[&str]) -> String {
        self.appliance.run(arguments).ok().text().to_owned()
    }

    fn running(&self) -> usize {
        let rows = self.appliance.run(&["sandbox", "ps", "--output", "json"]);
        let rows: Value = rows.ok().json();
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["status"] == "running").count()
    }

    /// Waits until nothing is left but the daemon.
    fn rest(&self) {
        let mut last = None;
        let rests = || {
            let now = Census::of(self.appliance.place(), &self.word);
            let rests = now.is_only(self.appliance.pid());
            last = Some(now);
            rests
        };
        let what = format!("only {} is left", self.appliance.pid());
        let rested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&what, REST, rests);
        }));
        assert!(rested.is_ok(), "left over: {last:#?}");
    }

    /// Descriptors and memory of the daemon at rest.
    fn weigh(&self) -> (usize, u64) {
        self.rest();
        let pid = self.appliance.pid();
        (census::descriptors(pid), census::resident(pid))
    }

    #[track_caller]
    fn weighs_as(&self, before: (usize, u64)) {
        let mut now = self.weigh();
        for _ in 0..100 {
            if now.0 <= before.0 + FEW_DESCRIPTORS {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            now = self.weigh();
        }
        let (descriptors, memory) = now;
        assert!(
            descriptors <= before.0 + FEW_DESCRIPTORS,
            "{descriptors} descriptors, {} before",
            before.0
        );
        assert!(
            memory <= before.1 + FEW_KIB,
            "{memory} KiB, {} before",
            before.1
        );
    }
}

/// So many sandboxes that all run at the same time.
fn at_once(ready: &Ready, count: usize) {
    let each = |work: &(dyn Fn(&str) + Sync)| {
        thread::scope(|scope| {
            for n in 0..count {
                scope.spawn(move || work(&format!("box{n}")));
            }
        });
    };
    ready.rest();
    each(&|name| drop(ready.begin(name).ok()));
    assert_eq!(ready.running(), count);
    each(&|name| {
        let script = format!("echo {name} > /tmp/own; cat /tmp/own");
        assert_eq!(
            ready.ask(&["sandbox", "exec", name, "sh", "-c", &script]),
            name
        );
        assert_eq!(ready.ask(&["sandbox", "logs", name]), "begun");
    });
    each(&|name| drop(ready.ask(&["sandbox", "stop", "--time", "0", name])));
    assert_eq!(ready.running(), 0);
    each(&|name| drop(ready.ask(&["sandbox", "rm", name])));
    ready.rest();
}

/// One life of a sandbox after the other.
fn again_and_again(ready: &Ready, warm_up: usize, cycles: usize) {
    let mut before = None;
    for cycle in 0..warm_up + cycles {
        if cycle == warm_up {
            before = Some(ready.weigh());
        }
        match cycle % 3 {
            0 => assert_eq!(ready.once("echo once").ok().text(), "once"),
            1 => {
                ready.begin("cycle").ok();
                ready.ask(&["sandbox", "stop", "--time", "0", "cycle"]);
                ready.ask(&["sandbox", "start", "cycle"]);
                ready.ask(&["sandbox", "rm", "--force", "cycle"]);
            }
            _ => {
                ready.begin("cycle").ok();
                assert_eq!(
                    ready.ask(&["sandbox", "exec", "cycle", "echo", "inside"]),
                    "inside"
                );
                ready.ask(&["sandbox", "rm", "--force", "cycle"]);
            }
        }
    }
    ready.weighs_as(before.unwrap());
}

fn each_user(test: impl Fn(&Ready)) {
    if let Some(ready) = Ready::at(Place::with_binary()) {
        test(&ready);
    }
    let programs = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if probe::root()
        && probe::programs(&programs)
        && let Some(ready) = Ready::at(Place::of(Account::with_range()))
    {
        test(&ready);
    }
}

#[test]
fn ten_sandboxes_at_once() {
    each_user(|ready| at_once(ready, 10));
}

#[test]
fn sixty_lives_leave_nothing() {
    if let Some(ready) = Ready::at(Place::with_binary()) {
        again_and_again(&ready, 12, 48);
    }
}

#[test]
#[ignore = "minutes: the long form"]
fn fifty_sandboxes_at_once() {
    each_user(|ready| at_once(ready, 50));
}

#[test]
#[ignore = "minutes: the long form"]
fn a_thousand_lives_leave_nothing() {
    each_user(|ready| again_and_again(ready, 100, 1000));
}

#[test]
fn users_and_daemons_side_by_side() {
    let programs = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if !probe::root() || !probe::programs(&programs) {
        return;
    }
    // Two users, and two data folders of a third.
    let places = [
        Place::of(Account::with_range()),
        Place::of(Account::without_range()),
        Place::with_binary(),
        Place::with_binary(),
    ];
    let all: Vec<Ready> = places.into_iter().filter_map(Ready::at).collect();
    thread::scope(|scope| {
        for ready in &all {
            scope.spawn(|| {
                ready.begin("same").ok();
                let script = "cat /tmp/mine 2>/dev/null; echo mine >> /tmp/mine";
                assert_eq!(
                    ready.ask(&["sandbox", "exec", "same", "sh", "-c", script]),
                    ""
                );
                assert_eq!(ready.running(), 1);
            });
        }
    });
    for ready in &all {
        let second = ready.appliance.run(&["serve", "--listen", "127.0.0.1:0"]);
        second.failed(4).says(&ready.appliance.pid().to_string());
    }
    // What one user does not own, another does not reach.
    if let [first, second, ..] = &all[..] {
        let stranger = second.appliance.place();
        let mut command: Command = stranger.devpod(&["sandbox", "ps"]);
        let refused =
            integration::process::run(command.env("DEVPOD_DATA", first.appliance.place().data()));
        assert_ne!(refused.code, 0, "{refused}");
    }
    for ready in &all {
        ready.ask(&["sandbox", "rm", "--force", "same"]);
        ready.rest();
    }
}
