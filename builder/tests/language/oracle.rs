//! The same files read by an independent parser: same stages, same instructions in the same order.

use std::fs;
use std::path::Path;

use builder::dockerfile;
use parse_dockerfile::Instruction;

fn oracle(text: &str) -> Result<Vec<&'static str>, String> {
    let file = parse_dockerfile::parse(text).map_err(|error| error.to_string())?;
    let names = file
        .instructions
        .iter()
        .map(|instruction| match instruction {
            Instruction::Add(_) => "ADD",
            Instruction::Arg(_) => "ARG",
            Instruction::Cmd(_) => "CMD",
            Instruction::Copy(_) => "COPY",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Env(_) => "ENV",
            Instruction::Expose(_) => "EXPOSE",
            Instruction::From(_) => "FROM",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            Instruction::Label(_) => "LABEL",
            Instruction::Maintainer(_) => "MAINTAINER",
            Instruction::Onbuild(_) => "ONBUILD",
            Instruction::Run(_) => "RUN",
            Instruction::Shell(_) => "SHELL",
            Instruction::Stopsignal(_) => "STOPSIGNAL",
            Instruction::User(_) => "USER",
            Instruction::Volume(_) => "VOLUME",
            Instruction::Workdir(_) => "WORKDIR",
            _ => "?",
        });
    Ok(names.collect())
}

/// Nothing for a file that is wrong.
fn ours(text: &str) -> Option<Vec<&'static str>> {
    let file = dockerfile::parse(text.as_bytes()).ok()?;
    let mut names = vec!["ARG"; file.global_args.len()];
    for stage in &file.stages {
        names.push("FROM");
        names.extend(
            stage
                .instructions
                .iter()
                .map(|instruction| instruction.kind.name()),
        );
    }
    Some(names)
}

/// The oracle takes an escape character before a line's end as a continuation also when it is itself
/// escaped; BuildKit does not.
const ORACLE_DIFFERS: &[&str] = &["escaped-escape"];

/// What the oracle is known to refuse although the language allows it.
const BEYOND_THE_ORACLE: &[&str] = &[
    "duplicate-stage",
    "empty-command",
    // A command before the heredoc, or several heredocs.
    "heredoc-numbered",
    "heredoc-several",
];

#[test]
fn an_independent_parser_agrees() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dockerfile");
    let mut compared = 0;
    let mut refused = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let case = entry.unwrap();
        let name = case.file_name().into_string().unwrap();
        let text = fs::read_to_string(case.path().join("Dockerfile")).unwrap();
        let Some(ours) = ours(&text) else {
            assert!(name.starts_with("error-"), "{name}");
            continue;
        };
        match oracle(&text) {
            Ok(_) if ORACLE_DIFFERS.contains(&name.as_str()) => {}
            Ok(expected) => {
                assert_eq!(ours, expected, "{name}");
                compared += 1;
            }
            Err(_) if BEYOND_THE_ORACLE.contains(&name.as_str()) => {}
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(compared >= 18, "only {compared} files were compared");
}
