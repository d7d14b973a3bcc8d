//! What instructions of one stage mean: commands, working folders, labels, ports, authors.

use crate::dockerfile::instruction::{CommandLine, Instruction, Kind, Pair};

use super::Findings;
use super::rule::Rule;
use super::survey::{Step, Survey};

pub(super) fn check(survey: &Survey<'_>, found: &mut Findings) {
    for stage in &survey.file.stages {
        repeated(&stage.instructions, found);
    }
    survey.walk(&mut |step| {
        if found.is_full() {
            return;
        }
        let instruction = step.instruction;
        let mut about = |rule, marked: &str, message| {
            found.about(rule, instruction, marked, message);
        };
        match &instruction.kind {
            Kind::Cmd(line) => shell_form(step, "CMD", line, &mut about),
            Kind::Entrypoint(line) => shell_form(step, "ENTRYPOINT", line, &mut about),
            Kind::Env(pairs) => legacy("ENV", pairs, &mut about),
            Kind::Label(pairs) => legacy("LABEL", pairs, &mut about),
            Kind::Maintainer(_) => {
                let message =
                    "MAINTAINER is deprecated, use LABEL org.opencontainers.image.authors";
                about(Rule::MaintainerDeprecated, "", message.to_owned());
            }
            Kind::Workdir(word) => {
                let path = survey.lexer.word(word, step.scope).unwrap_or_default();
                if !step.scope.folder && !path.starts_with('/') {
                    let message = format!(
                        "{path:?} is seen from the base image's working folder, which may change"
                    );
                    about(Rule::WorkdirRelativePath, word.raw(), message);
                }
            }
            Kind::Expose(_) => ports(survey, step, found),
            _ => {}
        }
    });
}

type About<'a> = &'a mut dyn FnMut(Rule, &str, String);

/// Of these only the last one of a stage counts.
fn repeated(instructions: &[Instruction], found: &mut Findings) {
    let of = |keyword: &'static str| {
        let all = instructions.iter();
        all.filter(move |instruction| instruction.kind.name() == keyword)
    };
    for keyword in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let all: Vec<&Instruction> = of(keyword).collect();
        for lost in all.iter().take(all.len().saturating_sub(1)) {
            let message = format!("another {keyword} of this stage follows, and only that counts");
            found.about(Rule::MultipleInstructionsDisallowed, lost, "", message);
        }
    }
}

fn shell_form(step: &Step<'_, '_>, keyword: &str, line: &CommandLine, about: About<'_>) {
    let CommandLine::Shell(text) = line else {
        return;
    };
    // Whoever sets a SHELL wants one.
    if step.scope.shell || text.is_empty() {
        return;
    }
    let message =
        format!("{keyword} as a shell's line gets no signals from outside; a JSON array does");
    about(Rule::JsonArgsRecommended, "", message);
}

fn legacy(keyword: &str, pairs: &[Pair], about: About<'_>) {
    for pair in pairs.iter().filter(|pair| pair.legacy) {
        let key = pair.key.raw();
        let message = format!("write {keyword} {key}=VALUE; the form without = is deprecated");
        about(Rule::LegacyKeyValueFormat, key, message);
    }
}

fn ports(survey: &Survey<'_>, step: &Step<'_, '_>, found: &mut Findings) {
    let Kind::Expose(words) = &step.instruction.kind else {
        return;
    };
    for word in words {
        if found.is_full() {
            return;
        }
        let mut about = |rule, message| found.about(rule, step.instruction, word.raw(), message);
        let ports = survey.lexer.words(word, step.scope).unwrap_or_default();
        for port in ports {
            let (number, protocol) = port.split_once('/').unwrap_or((&port, ""));
            if protocol != protocol.to_lowercase() {
                let message = format!("the protocol of {port:?} should be in lower case");
                about(Rule::ExposeProtoCasing, message);
            }
            if number.contains(':') {
                let message = format!(
                    "{port:?} names an address or port of a host, which an image cannot have"
                );
                about(Rule::ExposeInvalidFormat, message);
            }
        }
    }
}
