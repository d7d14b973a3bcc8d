//! One folder for each feature: a Dockerfile and what is read from it.
//!
//! `UPDATE_EXPECT=1 cargo test -p builder --test language golden` writes the expected files anew;
//! read the difference before committing it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use builder::dockerfile::expand::Lexer;
use builder::dockerfile::instruction::{Instruction, Kind};
use builder::dockerfile::{self, Dockerfile};

/// The folders of a kind of case; fewer than there have been are a mistake.
pub(crate) fn cases(kind: &str, least: usize) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind);
    let entries = fs::read_dir(root).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let count = cases.len();
    assert!(count >= least, "only {count} cases are in {kind}");
    cases
}

/// Compares with the case's `expected`, or writes it.
pub(crate) fn agree(case: &Path, actual: &str) {
    let file = case.join("expected");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, actual).unwrap();
    }
    let expected = fs::read_to_string(file).unwrap();
    assert_eq!(actual, expected, "in {}", case.display());
}

#[test]
fn golden() {
    for case in cases("tests/dockerfile", 60) {
        let actual = match dockerfile::parse(&fs::read(case.join("Dockerfile")).unwrap()) {
            Ok(file) => rendered(&file),
            Err(error) => format!("line {}: {error}\n", error.position),
        };
        agree(&case, &actual);
    }
}

fn rendered(file: &Dockerfile) -> String {
    let mut out = String::new();
    let escape = file.directives.escape;
    if escape != '\\' {
        writeln!(out, "escape {escape}").unwrap();
    }
    for note in &file.notes {
        writeln!(out, "note {} {}", note.position, note.remark).unwrap();
    }
    for args in &file.global_args {
        let declarations = compact(&args.declarations);
        writeln!(out, "{} {declarations}", args.range.start).unwrap();
    }
    for stage in &file.stages {
        let (start, end) = (stage.range.start, stage.range.end);
        let from = compact(&stage.from);
        writeln!(out, "{start}-{end} stage {} {from}", stage.index).unwrap();
        for instruction in &stage.instructions {
            line(&mut out, instruction);
        }
    }
    out
}

fn line(out: &mut String, instruction: &Instruction) {
    let (start, end) = (instruction.range.start, instruction.range.end);
    let kind = compact(&instruction.kind);
    writeln!(out, "{start}-{end} {kind}").unwrap();
    let Kind::Run(run) = &instruction.kind else {
        return;
    };
    if !run.heredocs.is_empty() {
        writeln!(out, "    starts {:?}", run.invocation()).unwrap();
    }
    let env = [("arch".to_owned(), "amd64".to_owned())];
    for flag in &run.mounts {
        let mount = flag.resolve(&Lexer::new('\\'), &env[..]).unwrap();
        writeln!(out, "    mount {}", compact(&mount)).unwrap();
    }
}

/// Without what is absent and default.
fn compact(value: &impl std::fmt::Debug) -> String {
    let mut text = format!("{value:?}");
    for default in [
        ", platform: None",
        ", name: None",
        ", heredocs: []",
        ", mounts: []",
        ", network: Default",
        ", security: Sandbox",
        ", devices: []",
        ", inline: []",
        ", chown: None",
        ", chmod: None",
        ", link: false",
        ", exclude: []",
        ", from: None",
        ", parents: false",
        ", checksum: None",
        ", keep_git_dir: None",
        ", unpack: None",
        ", legacy: false",
        ", default: None",
        ", interval: None",
        ", timeout: None",
        ", start_period: None",
        ", start_interval: None",
        ", retries: None",
        ", source: None",
        ", target: None",
        ", mode: None",
        ", uid: None",
        ", gid: None",
        ", comments: []",
    ] {
        text = text.replace(default, "");
    }
    text
}
