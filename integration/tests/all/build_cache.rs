//! What builds remember: listing it, removing it, and what is left of it when the daemon is killed.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use integration::appliance::{Place, TestAppliance};
use integration::base_image;
use integration::folder::Folder;
use integration::probe;
use integration::process::{self, Ran, eventually, wait};
use serde_json::Value;

const REST: Duration = Duration::from_secs(60);
const CONFLICT: i32 = 4;

/// With a base image `busybox:1`.
fn start(place: Place) -> Option<TestAppliance> {
    let folder = Folder::new();
    if !probe::programs(&["skopeo"]) || !base_image::busybox(&folder.join("from")) {
        return None;
    }
    let appliance = TestAppliance::start_at(place);
    appliance.load(&folder.join("from"), "busybox:1");
    Some(appliance)
}

/// A context of nothing but a Dockerfile, and its path.
fn context(steps: &str) -> (Folder, String) {
    let folder = Folder::new();
    folder.write("Dockerfile", format!("FROM busybox:1\n{steps}"));
    let path = folder.path().display().to_string();
    (folder, path)
}

fn build(place: &Place, context: &str) -> Ran {
    place.run(&["build", "-t", "made", "--output", "json", context])
}

fn rows(appliance: &TestAppliance) -> Vec<Value> {
    let listed = appliance.run(&["build-cache", "ls", "--output", "json"]);
    listed.ok().json().as_array().unwrap().clone()
}

fn find<'r>(rows: &'r [Value], made_by: &str) -> &'r Value {
    let found = |row: &&Value| {
        let text = row["madeBy"].as_str().unwrap_or_default();
        text.starts_with(made_by)
    };
    rows.iter()
        .find(found)
        .unwrap_or_else(|| panic!("{rows:?}"))
}

fn prune(appliance: &TestAppliance, options: &[&str]) -> Value {
    let all = [&["build-cache", "prune", "--output", "json"], options].concat();
    appliance.run(&all).ok().json()
}

#[test]
fn it_is_listed_and_pruned() {
    let Some(appliance) = start(Place::new()) else {
        return;
    };
    assert!(rows(&appliance).is_empty());
    let (_folder, path) = context(
        "RUN --mount=type=cache,id=pkg,target=/c dd if=/dev/zero of=/c/f bs=1M count=3; \
         dd if=/dev/zero of=/big bs=1M count=5\nWORKDIR /w\n",
    );
    build(appliance.place(), &path).ok();
    let listed = rows(&appliance);
    let (step, mount) = (find(&listed, "RUN --mount"), find(&listed, "pkg"));
    assert_eq!(
        (&step["kind"], &step["inUse"]),
        (&"step".into(), &true.into())
    );
    assert!(step["bytes"].as_u64().unwrap() > 5 << 20, "{step}");
    assert_eq!(mount["kind"], "mount");
    assert!(mount["bytes"].as_u64().unwrap() > 3 << 20, "{mount}");
    let text = appliance.run(&["builder", "ls"]).ok();
    assert!(
        text.stdout.contains("MADE BY") && text.stdout.contains("just now"),
        "{text}"
    );

    appliance.run(&["rmi", "made"]).ok();
    let listed = rows(&appliance);
    assert_eq!(find(&listed, "RUN --mount")["inUse"], false);
    // What the image's two layers were packed to went with it, and so these entries lead nowhere.
    assert_eq!(prune(&appliance, &[])["cacheEntries"], 2);
    assert_eq!(rows(&appliance).len(), listed.len());
    for nothing in [&["--older-than", "1h"][..], &["--keep-storage", "1G"], &[]] {
        assert_eq!(prune(&appliance, nothing)["cacheEntries"], 0, "{nothing:?}");
    }
    let would = prune(&appliance, &["--all", "--dry-run"]);
    assert_eq!(rows(&appliance).len(), listed.len());
    let kept = prune(&appliance, &["--keep-storage", "6M"]);
    assert!(kept["bytes"].as_u64().unwrap() > 3 << 20, "{kept}");
    assert!(rows(&appliance).len() < listed.len());
    let rest = prune(&appliance, &["--all"]);
    let sum = |key: &str| kept[key].as_u64().unwrap() + rest[key].as_u64().unwrap();
    assert_eq!(Some(sum("cacheEntries")), would["cacheEntries"].as_u64());
    assert!(rows(&appliance).is_empty());
    assert_eq!(build(appliance.place(), &path).ok().json()["cached"], 0);
}

/// Both numbers of the image `made`, which are of one run.
fn number(appliance: &TestAppliance) -> String {
    let read = |path: &str| {
        let ran = appliance.run(&["sandbox", "run", "--rm", "made", "cat", path]);
        ran.ok().text().to_owned()
    };
    let number = read("/a");
    assert_eq!(read("/b"), number);
    number
}

#[test]
fn what_is_pruned_takes_what_stands_on_it_along() {
    let Some(appliance) = start(Place::new()) else {
        return;
    };
    let (_folder, path) = context(
        "RUN cat /proc/sys/kernel/random/uuid > /a; dd if=/dev/zero of=/5m bs=1M count=5\n\
         RUN cat /a > /b; dd if=/dev/zero of=/3m bs=1M count=3\n",
    );
    let cached = || {
        let built = build(appliance.place(), &path).ok().json();
        built["cached"].as_u64().unwrap()
    };
    let pruned = |keep: &str| {
        appliance.run(&["rmi", "made"]).ok();
        prune(&appliance, &["--keep-storage", keep]);
    };
    assert_eq!(cached(), 0);
    let first = number(&appliance);
    // Room for the lower one, which was made first: the upper one goes.
    pruned("6M");
    assert_eq!(cached(), 1);
    assert_eq!(number(&appliance), first);
    // Room for the upper one, which is worth nothing alone.
    pruned("4M");
    assert_eq!(cached(), 0);
    let second = number(&appliance);
    assert_ne!(second, first);

    // Just the lower one is lost.
    let place = appliance.stop();
    let steps = fs::read_dir(place.data().join("cache/steps")).unwrap();
    for file in steps.map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("RUN cat /proc") {
            fs::remove_file(file).unwrap();
        }
    }
    let appliance = TestAppliance::start_at(place);
    let built = build(appliance.place(), &path).ok().json();
    assert_eq!(built["cached"], 0);
    assert_ne!(number(&appliance), second);
    let listed = rows(&appliance);
    let known = |made_by: &str| {
        let of = |row: &&Value| {
            row["madeBy"]
                .as_str()
                .is_some_and(|m| m.starts_with(made_by))
        };
        listed.iter().filter(of).count()
    };
    assert_eq!((known("RUN cat /proc"), known("RUN cat /a")), (1, 1));
}

#[test]
fn a_running_build_is_not_disturbed() {
    let Some(appliance) = start(Place::new()) else {
        return;
    };
    let (_folder, path) = context(
        "RUN touch /first\n\
         RUN --mount=type=cache,id=m,target=/m touch /m/began; until test -e /m/go; do sleep 0.1; done\n",
    );
    let mut command = appliance.place().devpod(&["build", "-t", "made", &path]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut building = process::spawn(&mut command).unwrap();
    let mount = || mount_with(&appliance.place().data(), "began");
    eventually("the step runs", REST, || mount().is_some());
    appliance
        .run(&["build-cache", "prune", "--all"])
        .failed(CONFLICT)
        .says("work on images is going on");
    fs::write(Path::new(&mount().unwrap()).join("go"), "").unwrap();
    assert_eq!(wait(&mut building, REST), Some(0));
    assert_eq!(build(appliance.place(), &path).ok().json()["cached"], 2);
}

#[test]
fn one_stage_can_be_built_again() {
    let Some(appliance) = start(Place::new()) else {
        return;
    };
    let (_folder, path) = context(
        "RUN echo a > /x\nFROM busybox:1 AS other\nRUN echo b > /x\nFROM other\nCOPY --from=0 /x /y\n",
    );
    build(appliance.place(), &path).ok();
    let again = |stage: &str| {
        let options = [
            "build",
            "--no-cache-filter",
            stage,
            "--output",
            "json",
            &path,
        ];
        appliance.run(&options)
    };
    assert_eq!(again("other").ok().json()["cached"], 1);
    again("nothing")
        .failed(2)
        .says("there is no stage \"nothing\"");
}

/// The folder of the cache mount that has this file.
fn mount_with(data: &Path, file: &str) -> Option<String> {
    let folders = fs::read_dir(data.join("cache/mounts")).ok()?.flatten();
    let mut found = folders.map(|folder| folder.path());
    let found = found.find(|path| path.join(file).exists())?;
    Some(found.display().to_string())
}

/// Where the daemon ends, and how many of the two steps the next build has already.
const POINTS: [(&str, u64); 3] = [
    ("build-after-work", 1),
    ("build-after-snapshot", 1),
    ("build-after-step", 2),
];

#[test]
fn a_killed_build_goes_on_where_it_was() {
    let Some(appliance) = start(Place::with_binary()) else {
        return;
    };
    let mut place = appliance.stop();
    for (point, cached) in POINTS {
        let first = format!("RUN echo {point} > /one\n");
        let (_first, calm) = context(&first);
        build(&place, &calm).ok();
        place.run(&["daemon", "stop"]).ok();
        eventually("the calm daemon is gone", REST, || {
            place.run(&["daemon", "status"]).code != 0
        });
        // The daemon has begun to answer by the time it dies: the command would begin anew otherwise.
        let second = "RUN cat /one > /two; echo two >> /two; sleep 1\n";
        let (_both, path) = context(&format!("{first}{second}"));
        // The daemon is this command's.
        let mut start = place.devpod(&["sandbox", "ps"]);
        process::run(start.env("DEVPOD_CRASH_AT", point)).ok();
        let ran = build(&place, &path);
        assert_ne!(ran.code, 0, "{point}: {ran}");
        let appliance = TestAppliance::start_at(place);
        let built = build(appliance.place(), &path).ok().json();
        assert_eq!(built["cached"], cached, "{point}");
        let cat = ["sandbox", "run", "--rm", "made", "cat", "/two"];
        assert_eq!(appliance.run(&cat).ok().text(), format!("{point}\ntwo"));
        let staged = appliance.place().data().join("snapshots/.staging");
        assert_eq!(fs::read_dir(staged).unwrap().count(), 0, "{point}");
        place = appliance.stop();
    }
}

#[test]
fn a_kill_in_the_middle_of_a_step_leaves_nothing() {
    let Some(appliance) = start(Place::new()) else {
        return;
    };
    let word = format!("word-{}", std::process::id());
    let (_folder, path) = context(&format!(
        "RUN echo one > /one\nRUN --mount=type=cache,id=m,target=/m : {word}; echo half > /two; \
         if mkdir /m/once; then sleep 86400; fi; echo whole >> /two\n"
    ));
    let mut command = appliance.place().devpod(&["build", "-t", "made", &path]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut building = process::spawn(&mut command).unwrap();
    let data = appliance.place().data();
    eventually("the step runs", REST, || {
        mount_with(&data, "once").is_some()
    });
    let place = appliance.kill();
    assert!(wait(&mut building, REST).is_some_and(|code| code != 0));
    eventually("the command is gone", REST, || !runs(&word));
    let appliance = TestAppliance::start_at(place);
    let built = build(appliance.place(), &path).ok().json();
    assert_eq!(built["cached"], 1);
    let cat = ["sandbox", "run", "--rm", "made", "cat", "/two"];
    assert_eq!(appliance.run(&cat).ok().text(), "half\nwhole");
}

/// Whether a process has this in its command line.
fn runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(word))
}
