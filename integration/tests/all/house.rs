//! The house rules that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 6] = [
    "appliance",
    "builder",
    "config",
    "integration",
    "registry",
    "unpacker",
];
/// Nobody knows what belongs into a room of this name.
const NO_ROOMS: [&str; 6] = ["utils", "util", "common", "helpers", "manager", "misc"];
/// A file longer than this has two subjects.
const LINES: usize = 700;
/// Crates that need no system call of their own.
const SAFE: [&str; 3] = ["builder", "config", "registry"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|name| workspace().join(name)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 50, "found only {} files", found.len());
    found
}

/// Checks every source file and tells all that are wrong at once.
fn check(rule: &str, broken: impl Fn(&Path, &str) -> bool) {
    let all = sources();
    let wrong = all.iter().filter(|(path, text)| broken(path, text));
    let wrong: Vec<String> = wrong.map(|(path, _)| path.display().to_string()).collect();
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    check("longer than 700 lines", |_, text| {
        text.lines().count() > LINES
    });
}

#[test]
fn rooms_have_names() {
    check("a name that says nothing", |path, _| {
        // What the folders above the workspace are called is not ours.
        let inside = path.strip_prefix(workspace()).unwrap();
        let mut parts = inside
            .iter()
            .map(|part| part.to_string_lossy().into_owned());
        parts.any(|part| NO_ROOMS.contains(&part.trim_end_matches(".rs")))
    });
}

#[test]
fn modules_say_what_lives_in_them() {
    check("no //! header", |_, text| !text.starts_with("//!"));
}

#[test]
fn nothing_is_left_for_later() {
    // Spelt apart, or this file would find itself.
    let marks = ["TODO", "FIXME", "XXX", "HACK"].map(|mark| format!("{mark}:"));
    let macros = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    check("unfinished", |_, text| {
        marks
            .iter()
            .chain(&macros)
            .any(|mark| text.contains(mark.as_str()))
    });
}

#[test]
fn crates_without_system_calls_forbid_unsafe_code() {
    for name in SAFE {
        let text = fs::read_to_string(workspace().join(name).join("src/lib.rs")).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}

#[test]
fn the_project_has_its_papers() {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "deny.toml",
        ".ci/run",
    ] {
        assert!(workspace().join(name).is_file(), "{name} is missing");
    }
    let licence = fs::read_to_string(workspace().join("LICENSE")).unwrap();
    assert!(licence.contains("Apache License") && licence.contains("END OF TERMS AND CONDITIONS"));
}
