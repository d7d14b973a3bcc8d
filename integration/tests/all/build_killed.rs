//! Builds whose daemon, or whose command line, is killed at any moment.
//!
//! A round is a project that nobody has built before. Somebody is killed while it is built; then it is
//! built again, and has to be right: what was reported done is what it was, what was not is whole, and
//! nothing is left over. `DEVPOD_KILL_ROUNDS` and `DEVPOD_KILL_SEED` say how many and which.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use integration::appliance::{Place, TestAppliance};
use integration::base_image;
use integration::census::Census;
use integration::folder::Folder;
use integration::probe;
use integration::process::{self, eventually, signal, wait};
use rustix::process::Signal;
use serde_json::Value;

const REST: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 12;
/// Steps whose commands draw a number, say it, and keep it in a file of this name.
const DRAWN: [&str; 4] = ["r1", "r2", "r3", "r4"];

/// Every command belongs to its round, so that no earlier one has its result.
fn dockerfile(round: u64) -> String {
    let draw = |name: &str| {
        format!("cat /proc/sys/kernel/random/uuid > /{name}; echo {name}=$(cat /{name}) {round}")
    };
    let cache = "--mount=type=cache,id=kept,target=/kept";
    format!(
        "FROM busybox:1 AS one
RUN {cache} {}; echo {round} >> /kept/log
COPY a /a
RUN cat /a/* > /sum; {}
FROM busybox:1 AS two
COPY b /b
RUN {cache} {}; busybox dd if=/dev/zero of=/b/zeros bs=64k count=40 2>/dev/null
FROM busybox:1
COPY --from=one /r1 /r2 /sum /out/
COPY --from=two /b /out/b/
COPY --from=two /r3 /out/
WORKDIR /out/w
RUN {} && busybox mv /r4 /out/r4
",
        draw("r1"),
        draw("r2"),
        draw("r3"),
        draw("r4"),
    )
}

/// The files of a round's context by their paths, each with what nobody else has.
fn files(round: u64) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for n in 0..40_u64 {
        let size = (n * n * 97 % 30_000) as usize;
        let byte = (round % 251) as u8;
        let mut content = format!("{round} {n}\n").into_bytes();
        content.resize(content.len() + size, byte);
        let folder = if n % 2 == 0 { "a" } else { "b" };
        files.insert(format!("{folder}/f{n:02}"), content);
    }
    files
}

/// What the image has to have below `/out`, but for what was drawn.
fn expected(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let below = |folder: &'static str| {
        files
            .iter()
            .filter(move |(name, _)| name.starts_with(folder))
    };
    let mut tree: BTreeMap<_, _> = below("b/").map(|(n, c)| (n.clone(), c.clone())).collect();
    tree.insert("b/zeros".to_owned(), vec![0; 40 * 64 * 1024]);
    let sum = below("a/").flat_map(|(_, content)| content.clone());
    tree.insert("sum".to_owned(), sum.collect());
    tree
}

fn read_tree(top: &Path, below: &str, tree: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(top.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() {
            name
        } else {
            format!("{below}/{name}")
        };
        match entry.file_type().unwrap().is_dir() {
            true => read_tree(top, &path, tree),
            false => drop(tree.insert(path.clone(), fs::read(top.join(&path)).unwrap())),
        }
    }
}

/// What a build told as lines of JSON, as far as it came.
#[derive(Default)]
struct Told {
    /// Numbers that were drawn, by the file that has them, and by which step.
    drawn: BTreeMap<String, (u64, String)>,
    /// Steps that were reported done, or found in the cache.
    done: Vec<u64>,
    cached: Vec<u64>,
}

fn told(log: &Path) -> Told {
    let mut told = Told::default();
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut output: BTreeMap<u64, String> = BTreeMap::new();
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(step) = event["step"].as_u64() else {
            continue;
        };
        match (event["event"].as_str(), event["state"].as_str()) {
            (Some("step"), Some("done")) => told.done.push(step),
            (Some("step"), Some("cached")) => told.cached.push(step),
            (Some("output"), _) => {
                let text = event["text"].as_str().unwrap_or_default();
                output.entry(step).or_default().push_str(text);
            }
            _ => {}
        }
    }
    for (step, text) in output {
        let drawn = text
            .split_whitespace()
            .find_map(|word| word.split_once('='));
        if let Some((name, number)) = drawn {
            told.drawn
                .insert(name.to_owned(), (step, number.to_owned()));
        }
    }
    told
}

/// Numbers that look like chance, and are the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        // Splitmix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    Command,
}

/// A place of its own binary, whose processes are known by it, and the projects.
struct Trial {
    folder: Folder,
    chance: Chance,
    /// What a round takes that nobody disturbs.
    whole: Duration,
    reused: usize,
}

impl Trial {
    fn context(&self, round: u64) -> (String, BTreeMap<String, Vec<u8>>) {
        let files = files(round);
        for (name, content) in &files {
            self.folder.write(&format!("c/{name}"), content);
        }
        self.folder.write("c/Dockerfile", dockerfile(round));
        (self.folder.join("c").display().to_string(), files)
    }

    fn start(&self, place: &Place, context: &str) -> std::process::Child {
        let log = File::create(self.folder.join("log")).unwrap();
        let mut build = place.devpod(&["build", "-t", "made", "--progress", "json", context]);
        build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        process::spawn(&mut build).unwrap()
    }

    fn round(&mut self, appliance: TestAppliance, round: u64, victim: Victim) -> TestAppliance {
        let (context, files) = self.context(round);
        let moment = self.chance.below(self.whole.as_micros() as u64 * 11 / 10);
        let moment = Duration::from_micros(moment);
        let what = format!("round {round}: {victim:?} killed after {moment:?}");
        let mut build = self.start(appliance.place(), &context);
        std::thread::sleep(moment);
        let appliance = match victim {
            Victim::Command => {
                signal(&build, Signal::KILL);
                wait(&mut build, REST).expect(&what);
                appliance
            }
            Victim::Daemon => {
                let place = appliance.kill();
                wait(&mut build, REST).expect(&what);
                // A command whose daemon had not begun to answer has started another one.
                place.run(&["daemon", "stop"]);
                eventually(&what, REST, || place.run(&["daemon", "status"]).code != 0);
                TestAppliance::start_at(place)
            }
        };
        let before = told(&self.folder.join("log"));
        let (place, pid) = (appliance.place(), appliance.pid());
        // What a start clears away lies in the trash until it is quiet, or until somebody makes room.
        let prune = || appliance.run(&["image", "prune"]).code == 0;
        eventually(&what, REST, prune);
        let is_only = || Census::of(place, "no word").is_only(pid);
        let begun = Instant::now();
        while !is_only() {
            let left = Census::of(place, "no word");
            assert!(begun.elapsed() < REST, "{what}: left over: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_right(&appliance, &context, &files, &before, &what);
        appliance
    }

    fn is_right(
        &mut self,
        appliance: &TestAppliance,
        context: &str,
        files: &BTreeMap<String, Vec<u8>>,
        before: &Told,
        what: &str,
    ) {
        let mut build = self.start(appliance.place(), context);
        let code = wait(&mut build, REST);
        let log = self.folder.join("log");
        assert_eq!(
            code,
            Some(0),
            "{what}: {}",
            fs::read_to_string(&log).unwrap()
        );
        let after = told(&log);
        for step in &before.done {
            assert!(
                after.cached.contains(step) || is_a_base(&log, *step),
                "{what}: step {step} was done, and is done again"
            );
        }
        let out = self.folder.join("exported");
        let dest = format!("type=local,dest={}", out.display());
        appliance.run(&["build", "-o", &dest, context]).ok();
        let mut tree = BTreeMap::new();
        read_tree(&out.join("out"), "", &mut tree);
        for name in DRAWN {
            let found = tree
                .remove(name)
                .unwrap_or_else(|| panic!("{what}: no {name}"));
            let found = String::from_utf8(found).unwrap().trim().to_owned();
            let of = |told: &Told| told.drawn.get(name).cloned();
            let early = of(before).filter(|(step, _)| before.done.contains(step));
            if let Some((_, number)) = &early {
                assert_eq!(&found, number, "{what}: {name} was drawn again");
                self.reused += 1;
            }
            let late = of(&after).map(|(_, number)| number);
            let known = [
                early.map(|(_, number)| number),
                late,
                of(before).map(|(_, n)| n),
            ];
            assert!(
                known.iter().flatten().any(|number| *number == found),
                "{what}: {name} {found}"
            );
        }
        assert!(tree == expected(files), "{what}: {:?}", tree.keys());
        assert!(
            out.join("bin/busybox").is_file() && !out.join("gone").exists(),
            "{what}"
        );
        fs::remove_dir_all(&out).unwrap();
        appliance.run(&["image", "check", "made"]).ok();
    }
}

/// FROM has no result of its own to find again.
fn is_a_base(log: &Path, step: u64) -> bool {
    let text = fs::read_to_string(log).unwrap_or_default();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut of_step = events.filter(|event| event["step"].as_u64() == Some(step));
    of_step.any(|event| {
        event["text"]
            .as_str()
            .is_some_and(|text| text.starts_with("FROM"))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_kill_at_any_moment_costs_only_what_was_not_done() {
    let folder = Folder::new();
    let base = folder.join("base");
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&base) {
        return;
    }
    let seed = number("DEVPOD_KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = number("DEVPOD_KILL_ROUNDS").unwrap_or(ROUNDS);
    println!("DEVPOD_KILL_SEED={seed} DEVPOD_KILL_ROUNDS={rounds}");
    let mut appliance = TestAppliance::start_at(Place::with_binary());
    appliance.load(&base, "busybox:1");
    let mut trial = Trial {
        folder,
        chance: Chance(seed),
        whole: Duration::ZERO,
        reused: 0,
    };
    // Nobody is killed in the first one, which says how long one takes.
    let first = seed.wrapping_mul(1_000_003) % 1_000_000_000;
    let (context, files) = trial.context(first);
    let begun = Instant::now();
    let mut calm = trial.start(appliance.place(), &context);
    assert_eq!(wait(&mut calm, REST), Some(0));
    trial.whole = begun.elapsed();
    let before = told(&trial.folder.join("log"));
    assert_eq!(before.drawn.len(), DRAWN.len());
    trial.is_right(&appliance, &context, &files, &before, "the calm round");
    assert_eq!(trial.reused, DRAWN.len());
    for n in 1..=rounds {
        let victim = match n % 2 {
            0 => Victim::Daemon,
            _ => Victim::Command,
        };
        appliance = trial.round(appliance, first + n, victim);
    }
    println!(
        "{rounds} rounds, {} finished draws found again",
        trial.reused - DRAWN.len()
    );
}
