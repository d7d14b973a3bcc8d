//! Names of stages, what FROM is made of, and comments that describe.

use std::collections::BTreeSet;

use config::name::Reference;
use unpacker::image::read::Platform;

use crate::dockerfile::source::{Position, Range, Word};
use crate::dockerfile::stages::{GlobalArgs, Stage};
use crate::dockerfile::suggest::closest;
use crate::plan::scope::Given;

use super::Findings;
use super::rule::Rule;
use super::survey::{MAX_KNOWN, Room, Survey};

/// Names that mean something else in FROM and `--from`.
const RESERVED: &[&str] = &["context", "scratch"];

pub(super) fn check(survey: &Survey<'_>, found: &mut Findings) {
    names(survey, found);
    let unset = without_arguments(survey);
    for stage in &survey.file.stages {
        if found.is_full() {
            break;
        }
        undeclared(survey, stage, &stage.from.image, found);
        if let Some(platform) = &stage.from.platform {
            undeclared(survey, stage, platform, found);
            judge_platform(survey, stage, platform, found);
        }
        judge_default(survey, stage, &unset, found);
    }
    descriptions(survey, found);
}

fn names(survey: &Survey<'_>, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for stage in &survey.file.stages {
        if found.is_full() {
            return;
        }
        let Some(name) = stage.name() else {
            continue;
        };
        let written = stage
            .text
            .split_whitespace()
            .next_back()
            .unwrap_or_default();
        let mut about = |rule, message| {
            found.about_from(rule, stage, written, message);
        };
        if RESERVED.contains(&name) {
            about(
                Rule::ReservedStageName,
                format!("{name:?} is a reserved name"),
            );
        }
        if !seen.insert(name) {
            let message = format!("another stage is called {name:?}, too; the later one counts");
            about(Rule::DuplicateStageName, message);
        }
    }
}

/// Variables of FROM that no ARG before it declares.
fn undeclared(survey: &Survey<'_>, stage: &Stage, word: &Word, found: &mut Findings) {
    let Ok(expanded) = survey.lexer.expand(word, &survey.given) else {
        return;
    };
    let platforms = &survey.given.platforms;
    let is_known = |name: &str| survey.globals.contains(name) || platforms.contains_key(name);
    for name in expanded.missing.iter().filter(|name| !is_known(name)) {
        if found.is_full() {
            return;
        }
        let known = survey.globals.iter().chain(platforms.keys());
        let known: Vec<&str> = known.map(String::as_str).take(MAX_KNOWN).collect();
        let hint = match closest(name, &known) {
            Some(near) => format!(" (did you mean {near}?)"),
            None => String::new(),
        };
        let message = format!("FROM uses {name}, which no ARG before it declares{hint}");
        found.about_from(Rule::UndefinedArgInFrom, stage, word.raw(), message);
    }
}

fn judge_platform(survey: &Survey<'_>, stage: &Stage, word: &Word, found: &mut Findings) {
    let Ok(expanded) = survey.lexer.expand(word, &survey.given) else {
        return;
    };
    let target = survey.given.platforms.get("TARGETPLATFORM");
    if expanded.used.len() == 1 && expanded.used.contains("TARGETPLATFORM") {
        if expanded.missing.is_empty() && Some(&expanded.value) == target {
            let message = "the target platform is the one that is used anyway".to_owned();
            found.about_from(Rule::RedundantTargetPlatform, stage, word.raw(), message);
        }
        return;
    }
    if !expanded.used.is_empty() || !expanded.missing.is_empty() {
        return;
    }
    let Ok(platform) = expanded.value.parse::<Platform>() else {
        return;
    };
    // A stage that is called by its platform means it.
    let name = stage.name().unwrap_or_default();
    if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
        let message = format!("--platform is always {:?}", expanded.value);
        let rule = Rule::FromPlatformFlagConstDisallowed;
        found.about_from(rule, stage, word.raw(), message);
    }
}

/// What FROM sees when nobody gives an argument.
fn without_arguments(survey: &Survey<'_>) -> Given {
    let mut given = Given {
        platforms: survey.given.platforms.clone(),
        ..Given::default()
    };
    let mut room = Room::default();
    for arg in survey
        .file
        .global_args
        .iter()
        .flat_map(|args| &args.declarations)
    {
        let name = survey.lexer.word(&arg.name, &given);
        let value = arg
            .default
            .as_ref()
            .map(|word| survey.lexer.word(word, &given));
        if let (Ok(name), Some(Ok(value))) = (name, value) {
            room.keep(&mut given.globals, name, value);
        }
    }
    given
}

fn judge_default(survey: &Survey<'_>, stage: &Stage, unset: &Given, found: &mut Findings) {
    let image = &stage.from.image;
    let Ok(expanded) = survey.lexer.expand(image, unset) else {
        return;
    };
    let is_stage = survey.file.earlier(&expanded.value, stage.index).is_some();
    if !is_stage && expanded.value.parse::<Reference>().is_err() {
        let raw = image.raw();
        let message = format!("without build arguments {raw:?} names no image");
        found.about_from(Rule::InvalidDefaultArgInFrom, stage, raw, message);
    }
}

/// A comment right over FROM … AS or ARG describes what is named there, and begins with the name.
fn descriptions(survey: &Survey<'_>, found: &mut Findings) {
    let mut judge = |range: Range, text: &str, names: &[&str], comments: &[String]| {
        let (Some(name), Some(comment)) = (names.first(), comments.last()) else {
            return;
        };
        let first = comment.split(' ').next().unwrap_or_default();
        if names.contains(&first) {
            return;
        }
        let name = if names.len() > 1 { "<name>" } else { name };
        let message = format!("a comment that describes this begins with \"# {name} \"");
        let place: (Position, &str) = (range.start, text);
        found.of(
            Rule::InvalidDefinitionDescription,
            place,
            false,
            "",
            message,
        );
    };
    for GlobalArgs {
        declarations,
        range,
        comments,
    } in &survey.file.global_args
    {
        let names: Vec<&str> = declarations.iter().map(|arg| arg.name.raw()).collect();
        judge(*range, "", &names, comments);
    }
    for stage in &survey.file.stages {
        let names: Vec<&str> = stage.name().into_iter().collect();
        judge(stage.range, &stage.text, &names, &stage.comments);
    }
    let bodies = survey
        .file
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions);
    for instruction in bodies {
        if let crate::dockerfile::instruction::Kind::Arg(declarations) = &instruction.kind {
            let names: Vec<&str> = declarations.iter().map(|arg| arg.name.raw()).collect();
            judge(
                instruction.range,
                &instruction.text,
                &names,
                &instruction.comments,
            );
        }
    }
}
