//! Capitals: of keywords, of AS, and of stage names.

use crate::dockerfile::Dockerfile;
use crate::dockerfile::source::{Position, Range};

use super::Findings;
use super::rule::Rule;

pub(super) fn check(file: &Dockerfile, found: &mut Findings) {
    keywords(file, found);
    for stage in &file.stages {
        if found.is_full() {
            return;
        }
        let line = Line::new(stage.range, &stage.text);
        let words: Vec<&str> = stage.text.split_whitespace().collect();
        let [from, .., keyword, name] = words[..] else {
            continue;
        };
        if !keyword.eq_ignore_ascii_case("as") {
            continue;
        }
        if name != name.to_lowercase() {
            let message = format!("stage name {name:?} should be in lower case");
            line.find(found, Rule::StageNameCasing, name, message);
        }
        let expected = match from {
            from if from == from.to_lowercase() => "as",
            from if from == from.to_uppercase() => "AS",
            // Such a FROM has a warning of its own.
            _ => continue,
        };
        if keyword != expected {
            let message = format!("{keyword:?} and {from:?} differ in their case");
            line.find(found, Rule::FromAsCasing, &format!(" {keyword} "), message);
        }
    }
}

/// An instruction's line.
#[derive(Clone, Copy)]
struct Line<'f> {
    start: Position,
    text: &'f str,
    several: bool,
}

impl<'f> Line<'f> {
    fn new(range: Range, text: &'f str) -> Self {
        Self {
            start: range.start,
            text,
            several: range.start.line != range.end.line,
        }
    }

    fn keyword(&self) -> &'f str {
        self.text.split_whitespace().next().unwrap_or_default()
    }

    fn find(&self, found: &mut Findings, rule: Rule, marked: &str, message: String) {
        let place = (self.start, self.text);
        found.of(rule, place, self.several, marked, message);
    }
}

/// All keywords should be as most of them are; where there are as many of both, in capitals.
fn keywords(file: &Dockerfile, found: &mut Findings) {
    let lines = || {
        file.stages.iter().flat_map(|stage| {
            let body = stage.instructions.iter();
            let body = body.map(|instruction| Line::new(instruction.range, &instruction.text));
            std::iter::once(Line::new(stage.range, &stage.text)).chain(body)
        })
    };
    let lower = lines().filter(|line| line.keyword() == line.keyword().to_lowercase());
    let upper = lines().filter(|line| line.keyword() == line.keyword().to_uppercase());
    let most_are_lower = lower.count() > upper.count();
    for line in lines() {
        if found.is_full() {
            return;
        }
        let keyword = line.keyword();
        let (expected, case) = match most_are_lower {
            true => (keyword.to_lowercase(), "lower case"),
            false => (keyword.to_uppercase(), "capitals"),
        };
        if keyword != expected {
            let message = format!("{keyword:?} should be in {case}, as most keywords are");
            line.find(found, Rule::ConsistentInstructionCasing, keyword, message);
        }
    }
}
