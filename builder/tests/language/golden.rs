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

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfile");
    let entries = fs::read_dir(root).unwrap();
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

#[test]
fn golden() {
    let cases = cases();
    assert!(cases.len() >= 20, "only {} cases were found", cases.len());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for case in cases {
        let actual = match dockerfile::parse(&fs::read(case.join("Dockerfile")).unwrap()) {
            Ok(file) => rendered(&file),
            Err(error) => format!("line {}: {error}\n", error.position),
        };
        let expected = case.join("expected");
        if update {
            fs::write(&expected, &actual).unwrap();
        }
        let expected = fs::read_to_string(expected).unwrap();
        assert_eq!(actual, expected, "in {}", case.display());
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
    ] {
        text = text.replace(default, "");
    }
    text
}
