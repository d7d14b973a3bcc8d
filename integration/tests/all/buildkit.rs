//! Differential tests: what BuildKit makes of a Dockerfile, and what we make of it, as root and as an
//! ordinary user. The same files (type, mode, owner, attributes, links, content, and times where the
//! Dockerfile says them), the same configuration, the same history.
//!
//! BuildKit is right unless a specification or its own reference says otherwise. What is left is in a
//! case's `.differences`, and its reason in docs/build-differences.md.

mod built;
mod case;
mod compare;
mod interplay;
mod rig;
mod server;

use rig::Rig;

fn compare(topics: &[&str]) {
    let Some(rig) = Rig::start() else {
        return;
    };
    for topic in topics {
        rig.compare(topic);
    }
}

#[test]
fn copies_are_the_same() {
    compare(&["copy"]);
}

#[test]
fn commands_are_the_same() {
    compare(&["run", "add"]);
}

#[test]
fn syntax_and_variables_are_the_same() {
    compare(&["syntax", "variables", "ignore"]);
}

#[test]
fn settings_and_stages_are_the_same() {
    compare(&["settings", "stages"]);
}

#[test]
fn the_same_is_refused() {
    compare(&["refused"]);
}
