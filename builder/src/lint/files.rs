//! Sources of COPY and ADD that the ignore file leaves out.

use std::path::Path;

use crate::dockerfile::instruction::{Kind, Transfer};
use crate::ignore::Ignore;
use crate::plan::path::source;
use crate::plan::transfer::is_remote;

use super::Findings;
use super::rule::Rule;
use super::survey::{Step, Survey};

pub(super) fn check(survey: &Survey<'_>, found: &mut Findings) {
    // What `!` brings back cannot be told from the names alone.
    let Some(ignore) = survey.ignore.filter(|ignore| !ignore.brings_back()) else {
        return;
    };
    survey.walk(&mut |step| match &step.instruction.kind {
        Kind::Copy(copy) if copy.from.is_none() => {
            judge(survey, step, &copy.transfer, ignore, found);
        }
        Kind::Add(add) => judge(survey, step, &add.transfer, ignore, found),
        _ => {}
    });
}

fn judge(
    survey: &Survey<'_>,
    step: &Step<'_, '_>,
    transfer: &Transfer,
    ignore: &Ignore,
    found: &mut Findings,
) {
    for word in &transfer.sources {
        if found.is_full() {
            return;
        }
        let Ok(written) = survey.lexer.word(word, step.scope) else {
            continue;
        };
        if is_remote(&written) {
            continue;
        }
        let path = source(&written).path;
        let left_out = match path.as_str() {
            "." => ignore.leaves_out_all(),
            path => ignore.is_ignored(Path::new(path)),
        };
        if left_out {
            let message = format!("the ignore file leaves {path:?} out");
            found.about(Rule::CopyIgnoredFile, step.instruction, word.raw(), message);
        }
    }
}
