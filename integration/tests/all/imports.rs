//! Who may import whom: ARCHITECTURE.md's table, held over `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use integration::process::run;
use serde_json::Value;

/// Crate, and which of ours it may depend on.
const TABLE: [(&str, &[&str]); 6] = [
    ("config", &[]),
    ("registry", &["config"]),
    ("unpacker", &["config"]),
    ("builder", &["config", "unpacker"]),
    ("appliance", &["config", "registry", "unpacker", "builder"]),
    ("integration", &["config"]),
];
/// What a crate must not reach even among other people's crates.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    (
        "config",
        &["tokio", "hyper", "reqwest", "redb", "rustix", "axum"],
    ),
    ("unpacker", &["axum", "redb"]),
    ("builder", &["axum", "hyper", "redb", "reqwest"]),
];

#[test]
fn arrows_point_down() {
    let found = dependencies();
    let expected: BTreeSet<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names, expected,
        "the table and the workspace have other crates"
    );
    for (name, allowed) in TABLE {
        for dependency in &found[name] {
            let ours = expected.contains(dependency.as_str());
            let fine = !ours || allowed.contains(&dependency.as_str());
            assert!(fine, "{name} must not import {dependency}");
        }
    }
    for (name, forbidden) in FORBIDDEN {
        for dependency in forbidden {
            assert!(
                !found[name].contains(*dependency),
                "{name} must not import {dependency}"
            );
        }
    }
}

/// Direct dependencies of each workspace member, of all kinds.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let metadata = run(&mut command).ok().json();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            (name(package), dependencies.iter().map(name).collect())
        })
        .collect()
}
