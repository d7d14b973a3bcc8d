//! SIGKILL at any moment, of anything: the next start is clean, nothing leaks, nothing half-made ever
//! looks whole.
//!
//! Each round begins a verb, kills the daemon, the command or one of the helpers at a random moment,
//! lets everything come to rest and looks at what is left. `DEVPOD_CRASH_ROUNDS` says how many rounds
//! (a few dozen by default), `DEVPOD_CRASH_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use integration::account::Account;
use integration::appliance::{Place, TestAppliance};
use integration::census::{self, Census};
use integration::folder::Folder;
use integration::layout::{self, Entry};
use integration::process::{self, eventually};
use integration::{base_image, probe};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const ROUNDS: usize = 27;
/// Enough that a layer takes a while, few enough that looking at all of them does not.
const FILES: usize = 600;
/// Builds differ by an argument, and each has been made once without being disturbed.
const BUILDS: usize = 3;
/// In the environment of every process in a sandbox or build of these tests.
const WORD: &str = "DEVPOD_TEST_CRASH=";
/// Whatever was interrupted has ended by then, on a busy machine too.
const REST: Duration = Duration::from_secs(60);
/// Our own processes beside the daemon and the command, by their arguments.
const HELPERS: [&str; 3] = ["__monitor", "__container", "__exec"];
/// A kill comes within this; most verbs take less.
const MOMENTS: u64 = 400;

/// Numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("DEVPOD_CRASH_SEED").ok();
        let chance = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64 ^ u64::from(std::process::id())
        };
        Self(seed.map_or_else(chance, |seed| seed.parse().unwrap()) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Pull,
    Unpack,
    Build,
    Run,
    Exec,
    Stop,
    Remove,
    RemoveImage,
    Prune,
}

const VERBS: [Verb; 9] = [
    Verb::Pull,
    Verb::Unpack,
    Verb::Build,
    Verb::Run,
    Verb::Exec,
    Verb::Stop,
    Verb::Remove,
    Verb::RemoveImage,
    Verb::Prune,
];

#[derive(Debug, Clone, Copy)]
enum Victim {
    Daemon,
    Command,
    /// Monitors, helpers of builds and execs, inits of sandboxes: any that runs just then.
    Helper,
}

const VICTIMS: [Victim; 3] = [Victim::Daemon, Victim::Command, Victim::Helper];

/// Where images come from, and what they look like unpacked.
struct Source {
    _registry: TestAppliance,
    image: String,
    context: Folder,
    word: String,
    /// Digest of every snapshot's tree, by its id.
    trees: BTreeMap<String, u64>,
}

impl Source {
    fn make(dice: &mut Dice) -> Option<Self> {
        let folder = Folder::new();
        if !probe::root() || !probe::programs(&["skopeo"]) {
            return None;
        }
        let mut layers = base_image::busybox_layers()?;
        layers.extend([files("a", dice), files("b", dice)]);
        layout::write(&folder.join("layout"), &layers, json!({ "Cmd": ["sh"] }));
        let registry = TestAppliance::start();
        registry.load(&folder.join("layout"), "app:1");
        let image = registry.reference("app:1");
        let word = format!("{WORD}{:x}", dice.below(u64::MAX));
        let context = Folder::new();
        let steps = format!(
            "FROM {image}\nENV {word}\nARG N\nCOPY copied /copied\n\
             RUN mkdir /made && for i in $(busybox seq 300); do echo $N $i > /made/$i; done\n\
             RUN echo $N > /second && busybox sleep 0.2\n"
        );
        context.write("Dockerfile", steps);
        for n in 0..200 {
            context.write(&format!("copied/{n}"), format!("{n}").repeat(400));
        }
        let mut source = Self {
            _registry: registry,
            image,
            context,
            word,
            trees: BTreeMap::new(),
        };
        source.learn();
        Some(source)
    }

    /// Makes everything once, undisturbed.
    fn learn(&mut self) {
        let calm = TestAppliance::start_at(Place::new());
        calm.run(&["sandbox", "run", "--rm", &self.image, "true"])
            .ok();
        for n in 0..BUILDS {
            let build = self.build(n);
            calm.run(&words(&build)).ok();
        }
        self.trees = trees(&calm.place().data());
        assert!(self.trees.len() >= 4 + BUILDS, "{:?}", self.trees);
    }

    fn build(&self, n: usize) -> Vec<String> {
        let context = self.context.path().display().to_string();
        let n = format!("N={n}");
        let words = ["build", "-t", "built:1", "--build-arg", &n, &context];
        words.map(str::to_owned).into()
    }

    fn run(&self, options: &[&str]) -> Vec<String> {
        // With a limit, so that there is a control group to be left over.
        let limit = ["--pids-limit", "500", "--env", &self.word];
        let env = [&limit[..], &[&self.image, "busybox", "sleep", "600"]].concat();
        let all = [&["sandbox", "run"], options, &env[..]].concat();
        all.into_iter().map(str::to_owned).collect()
    }
}

/// A layer of many small files.
fn files(name: &str, dice: &mut Dice) -> Vec<u8> {
    let files: Vec<(String, Vec<u8>)> = (0..FILES)
        .map(|n| {
            let noise = (0..256).flat_map(|_| dice.below(u64::MAX).to_le_bytes());
            (format!("{name}/d{}/f{n}", n % 20), noise.collect())
        })
        .collect();
    let entry = |(name, bytes)| (name, Entry::File(0o644, bytes));
    let entries: Vec<_> = (files.iter())
        .map(|(name, bytes)| entry((name.as_str(), bytes.as_slice())))
        .collect();
    layout::tar(&entries)
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// The trees of all snapshots that can be seen.
fn trees(data: &Path) -> BTreeMap<String, u64> {
    let mut trees = BTreeMap::new();
    for entry in fs::read_dir(data.join("snapshots")).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let fs = entry.path().join("fs");
        if !name.starts_with('.') && !entry.path().is_symlink() {
            // What a killed command asked the daemon to remove may go just now.
            trees.extend(census::tree(&fs).map(|tree| (name, tree)));
        }
    }
    trees
}

/// What one run of rounds goes on with.
struct Crash<'a> {
    source: &'a Source,
    dice: Dice,
    appliance: Option<TestAppliance>,
}

impl Crash<'_> {
    fn appliance(&self) -> &TestAppliance {
        self.appliance.as_ref().unwrap()
    }

    /// Brings about what the verb needs, and answers its arguments.
    fn prepare(&mut self, verb: Verb) -> Vec<String> {
        let image = self.source.image.clone();
        let build = self.dice.below(BUILDS as u64) as usize;
        let tidy = |appliance: &TestAppliance| {
            appliance.run(&["rmi", &image]);
            appliance.run(&["image", "prune", "--all"]).ok();
        };
        let begin = |appliance: &TestAppliance| {
            let begin = self.source.run(&["-d", "--name", "box"]);
            appliance.run(&words(&begin)).ok();
        };
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let appliance = self.appliance();
        match verb {
            Verb::Pull => {
                tidy(appliance);
                own(&["pull", &image])
            }
            Verb::Unpack => {
                tidy(appliance);
                appliance.run(&["pull", &image]).ok();
                self.source.run(&["--rm"])
            }
            Verb::Build => {
                appliance.run(&["image", "prune", "--all"]).ok();
                self.source.build(build)
            }
            Verb::Run => self.source.run(&["--name", "box"]),
            Verb::Exec => {
                begin(appliance);
                own(&["sandbox", "exec", "box", "busybox", "sleep", "600"])
            }
            Verb::Stop => {
                begin(appliance);
                own(&["sandbox", "stop", "--time", "1", "box"])
            }
            Verb::Remove => {
                begin(appliance);
                own(&["sandbox", "rm", "--force", "box"])
            }
            Verb::RemoveImage => {
                appliance.run(&words(&self.source.build(build))).ok();
                own(&["rmi", "built:1"])
            }
            Verb::Prune => {
                appliance.run(&words(&self.source.build(build))).ok();
                own(&["image", "prune", "--all"])
            }
        }
    }

    fn round(&mut self, verb: Verb, victim: Victim) {
        let arguments = self.prepare(verb);
        let mut command = self.appliance().place().devpod(&words(&arguments));
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = process::spawn(&mut command).unwrap();
        // Early moments are the interesting ones.
        let moment = self.dice.below(MOMENTS);
        let moment = Duration::from_millis(self.dice.below(moment + 1));
        thread::sleep(moment);
        self.kill(victim, &mut command);
        self.rest(&mut command);
    }

    fn kill(&mut self, victim: Victim, command: &mut Child) {
        match victim {
            Victim::Daemon => {
                let place = self.appliance.take().unwrap().kill();
                // A command that was not answered yet starts the next daemon itself.
                eventually("the command's end", REST, || {
                    place.run(&["daemon", "stop"]).ok();
                    process::wait(command, Duration::ZERO).is_some()
                });
                place.run(&["daemon", "stop"]).ok();
                self.appliance = Some(TestAppliance::start_at(place));
            }
            Victim::Command => process::signal(command, Signal::KILL),
            Victim::Helper => {
                let begun = Instant::now();
                // Not every verb has one at this moment.
                while begun.elapsed() < Duration::from_millis(300) {
                    if let Some(pid) = self.helper(command.id()) {
                        let _ = kill_process(pid, Signal::KILL);
                        return;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn helper(&mut self, command: u32) -> Option<Pid> {
        let appliance = self.appliance();
        let others = [appliance.pid(), command];
        let mut all = census::processes(appliance.place(), &self.source.word);
        // What runs in a build is the user's: a step may end well without a part of it.
        all.retain(|process| {
            let ours = HELPERS.iter().any(|name| process.command.contains(name));
            ours && !others.contains(&(process.pid as u32))
        });
        let chosen = self.dice.below(all.len().max(1) as u64) as usize;
        all.get(chosen)
            .and_then(|process| Pid::from_raw(process.pid))
    }

    /// Ends what goes on in any case, and looks at what is left.
    fn rest(&mut self, command: &mut Child) {
        let appliance = self.appliance.as_ref().unwrap();
        let mut rows = Vec::new();
        eventually("the end of the command and of all sandboxes", REST, || {
            let ps = ["sandbox", "ps", "--output", "json"];
            rows = appliance.run(&ps).ok().json().as_array().unwrap().clone();
            for row in &rows {
                let id = row["id"].as_str().unwrap();
                assert_ne!(row["status"], "broken", "{row}");
                // It may have been a `--rm` one that has gone meanwhile.
                appliance.run(&["sandbox", "rm", "--force", id]);
            }
            rows.is_empty() && process::wait(command, Duration::ZERO).is_some()
        });
        appliance.run(&["images"]).ok();
        self.check_leaks(appliance);
        self.check_content(&appliance.place().data());
    }

    fn check_leaks(&self, appliance: &TestAppliance) {
        let mut last = None;
        let begun = Instant::now();
        while begun.elapsed() < REST {
            let now = Census::of(appliance.place(), &self.source.word);
            if now.is_only(appliance.pid()) {
                return;
            }
            // What was removed waits there to be deleted.
            let trash = now
                .work
                .iter()
                .any(|path| path.starts_with("snapshots/.trash"));
            if trash {
                appliance.run(&["image", "prune"]).ok();
            }
            last = Some(now);
            thread::sleep(Duration::from_millis(50));
        }
        panic!("left over: {last:#?}");
    }

    /// Snapshots are what they are without a crash, and blobs what their names say.
    fn check_content(&self, data: &Path) {
        for (id, tree) in trees(data) {
            match self.source.trees.get(&id) {
                Some(expected) => assert_eq!(&tree, expected, "snapshot {id}"),
                // A step that runs again while an image still has its earlier result.
                None => {
                    let known = self.source.trees.values().any(|known| *known == tree);
                    assert!(known, "snapshot {id} is of nothing that was ever made");
                }
            }
        }
        let blobs = data.join("content/blobs/sha256");
        for entry in fs::read_dir(blobs).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            // It may be collected just now.
            let Ok(bytes) = fs::read(&path) else { continue };
            let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
            let hex: String = (digest.as_ref().iter())
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(
                *path.file_name().unwrap(),
                *hex,
                "a blob is not what it is called"
            );
        }
    }

    /// Everything works still, and all blobs verify.
    fn finish(self) {
        let appliance = self.appliance();
        let run = [
            "sandbox",
            "run",
            "--rm",
            &self.source.image,
            "cat",
            "/etc/layer",
        ];
        assert_eq!(appliance.run(&run).ok().stdout, "second\n");
        appliance.run(&words(&self.source.build(0))).ok();
        let scrub = appliance.run(&["registry", "scrub", "--anew", "--output", "json"]);
        let scrub = scrub.ok().json();
        assert_eq!(scrub["quarantined"], 0, "{scrub}");
        assert_eq!(scrub["missing"], 0, "{scrub}");
        self.check_content(&appliance.place().data());
    }
}

/// Said when a round fails, past libtest's capture.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            // The test fails anyway.
            let _ = std::io::stderr().write_all(self.0.as_bytes());
        }
    }
}

fn rounds() -> usize {
    let wanted = std::env::var("DEVPOD_CRASH_ROUNDS").ok();
    wanted.map_or(ROUNDS, |number| number.parse().unwrap())
}

/// Every verb meets every victim before one of them comes again.
fn crash(place: impl FnOnce() -> Place, rounds: usize) {
    let mut dice = Dice::new();
    let seed = dice.0;
    let Some(source) = Source::make(&mut dice) else {
        return;
    };
    let first = dice.below(VERBS.len() as u64) as usize;
    let mut crash = Crash {
        source: &source,
        dice,
        appliance: Some(TestAppliance::start_at(place())),
    };
    for round in 0..rounds {
        let verb = VERBS[(first + round) % VERBS.len()];
        let victim = VICTIMS[(round + round / VERBS.len()) % VICTIMS.len()];
        let _told = Told(format!(
            "seed {seed}, round {round}: {verb:?} while {victim:?} is killed\n"
        ));
        crash.round(verb, victim);
    }
    crash.finish();
}

#[test]
fn anything_may_be_killed_at_any_moment() {
    crash(Place::with_binary, rounds());
}

#[test]
fn anything_of_an_ordinary_user_may_be_killed_at_any_moment() {
    let programs = ["useradd", "usermod", "userdel", "newuidmap", "newgidmap"];
    if probe::root() && probe::programs(&programs) {
        crash(|| Place::of(Account::with_range()), rounds() / 2);
    }
}

/// Where a start may end, whether the daemon ends there (otherwise it is a helper), and what is seen of
/// the sandbox then: one that has a row is whole and was never started.
const POINTS: [(&str, bool, Option<&str>); 4] = [
    ("sandbox-before-row", true, None),
    ("sandbox-after-row", true, Some("created")),
    ("sandbox-after-root", false, None),
    ("sandbox-after-process", false, None),
];

#[test]
fn a_start_may_end_at_any_of_its_points() {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("from")) {
        return;
    }
    let appliance = TestAppliance::start_at(Place::with_binary());
    appliance.load(&folder.join("from"), "busybox:1");
    let calm = ["sandbox", "run", "--rm", "busybox:1", "true"];
    appliance.run(&calm).ok();
    let run = [
        "sandbox",
        "run",
        "-d",
        "--name",
        "box",
        "busybox:1",
        "sleep",
        "600",
    ];
    let mut place = appliance.stop();
    for (point, ends_daemon, status) in POINTS {
        // The daemon is this command's, and its helpers are the daemon's.
        let mut start = place.devpod(&["sandbox", "ps"]);
        process::run(start.env("DEVPOD_CRASH_AT", point)).ok();
        let daemon = || fs::read(place.data().join("daemon.json")).unwrap();
        let before = daemon();
        let ran = place.run(&run);
        let rows = place.run(&["sandbox", "ps", "--output", "json"]).ok();
        let seen = rows.json()[0]["status"].as_str().map(str::to_owned);
        assert_eq!(daemon() != before, ends_daemon, "{point}");
        if ran.code == 0 {
            // The daemon ended before it had begun to answer, and before there was anything, so that the
            // command began anew with another daemon.
            assert!(ends_daemon && status.is_none(), "{point}: {ran}");
            assert_eq!(seen.as_deref(), Some("running"), "{point}: {ran}");
            place.run(&["sandbox", "rm", "--force", "box"]).ok();
        } else {
            assert_eq!(seen.as_deref(), status, "{point}");
            if status.is_some() {
                place.run(&["sandbox", "rm", "box"]).ok();
            }
        }
        place.run(&["daemon", "stop"]).ok();
        let appliance = TestAppliance::start_at(place);
        appliance.run(&run).ok();
        appliance.run(&["sandbox", "rm", "--force", "box"]).ok();
        eventually("nothing is left", REST, || {
            Census::of(appliance.place(), WORD).is_only(appliance.pid())
        });
        place = appliance.stop();
    }
}
