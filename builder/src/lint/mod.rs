//! Build checks: what a Dockerfile may say and had better not. The rules are BuildKit's, by its names.
//!
//! ```text
//! options    what is skipped: "# check=…", BUILDKIT_DOCKERFILE_CHECK, a comment over an instruction
//! rule       the names
//! survey     the file with its variables, stage after stage           (used by all below)
//! casing     ConsistentInstructionCasing, FromAsCasing, StageNameCasing
//! stages     stage names, and what FROM is made of
//! variables  UndefinedVar, SecretsUsedInArgOrEnv
//! commands   what instructions of one stage mean together
//! files      CopyIgnoredFile
//! ```
//!
//! Pure: what a base image or an ignore file says is handed in. Without a base image's variables
//! nothing is called undefined in stages on top of it.

mod casing;
mod commands;
mod files;
pub mod options;
pub mod rule;
mod stages;
mod survey;
mod variables;

use std::collections::BTreeMap;

use config::name::Reference;
use serde::{Deserialize, Serialize};
use unpacker::image::config::ImageConfig;

use crate::dockerfile::Dockerfile;
use crate::dockerfile::error::Remark;
use crate::dockerfile::instruction::Instruction;
use crate::dockerfile::source::{Position, Range};
use crate::dockerfile::stages::{Reference as Named, Stage};
use crate::error::{MAX_SHOWN, shown};
use crate::ignore::Ignore;
use crate::plan::scope::Given;

use options::Options;
use rule::Rule;
use survey::Survey;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub rule: Rule,
    pub message: String,
    pub line: u32,
    pub column: u32,
    /// The instruction, of a long one the beginning; empty for one of several lines.
    pub text: String,
    /// What of it is meant, as written, or its beginning; empty for all of it.
    pub marked: String,
}

impl Warning {
    /// `file:line:column: message (Rule)`, and the line with the text marked below it.
    pub fn shown(&self, file: &str) -> String {
        let Self { line, column, .. } = self;
        let mut shown = format!("{file}:{line}:{column}: {} ({})", self.message, self.rule);
        let place = self
            .text
            .find(&self.marked)
            .filter(|_| !self.text.is_empty());
        let Some(at) = place else {
            return shown;
        };
        let before = self.text.get(..at).unwrap_or_default().chars().count();
        let marked = match self.marked.is_empty() {
            true => self.text.chars().count(),
            false => self.marked.chars().count(),
        };
        let (space, carets) = (" ".repeat(before), "^".repeat(marked.max(1)));
        shown.push_str(&format!("\n  {}\n  {space}{carets}", self.text));
        shown
    }
}

/// What is known beside the file.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// `--build-arg` and the platform arguments; ARGs of the file are found here.
    pub given: &'a Given,
    /// The ignore file of the build context.
    pub ignore: Option<&'a Ignore>,
    /// Configurations of external base images, by the number of the stage on top.
    pub bases: &'a BTreeMap<usize, ImageConfig>,
}

/// All findings that are not skipped, in the order of the file.
pub fn check(file: &Dockerfile, options: &Options, known: &Known<'_>) -> Vec<Warning> {
    let survey = Survey::new(file, known);
    let mut found = Findings::default();
    remarked(file, &mut found);
    casing::check(file, &mut found);
    stages::check(&survey, &mut found);
    variables::check(&survey, &mut found);
    commands::check(&survey, &mut found);
    files::check(&survey, &mut found);
    let mut warnings = found.0;
    warnings.retain(|warning| options.allow(warning.rule, &comments_at(file, warning)));
    warnings.sort_by_key(|found| (found.line, found.column, found.rule));
    warnings.dedup();
    warnings
}

/// The external base images of a file, by the number of the stage on top.
pub fn bases(file: &Dockerfile, given: &Given) -> BTreeMap<usize, Reference> {
    let none = BTreeMap::new();
    let known = Known {
        given,
        ignore: None,
        bases: &none,
    };
    let survey = Survey::new(file, &known);
    let image = |stage: &Stage| {
        let text = survey.lexer.word(&stage.from.image, &survey.given).ok()?;
        let is_external = file.base(stage.index, &text) == Named::External(&text);
        let image = (is_external && text != "scratch").then(|| text.parse().ok())??;
        Some((stage.index, image))
    };
    file.stages.iter().filter_map(image).collect()
}

/// What the parser noted already.
fn remarked(file: &Dockerfile, found: &mut Findings) {
    for note in &file.notes {
        if note.remark == Remark::EmptyContinuation {
            found.at(
                Rule::NoEmptyContinuation,
                note.position,
                "an empty line inside a continued instruction will be an error some day".to_owned(),
            );
        }
    }
}

/// The comments over the instruction that a warning is about.
fn comments_at<'f>(file: &'f Dockerfile, warning: &Warning) -> Vec<&'f str> {
    let holds = |range: &Range| (range.start.line..=range.end.line).contains(&warning.line);
    let global = file
        .global_args
        .iter()
        .map(|args| (&args.range, &args.comments));
    let froms = file
        .stages
        .iter()
        .map(|stage| (&stage.range, &stage.comments));
    let body = file.stages.iter().flat_map(|stage| &stage.instructions);
    let body = body.map(|instruction| (&instruction.range, &instruction.comments));
    let mut all = global.chain(froms).chain(body);
    let found = all.find(|(range, _)| holds(range));
    let comments = found.map(|(_, comments)| comments.iter().map(String::as_str));
    comments.map(Iterator::collect).unwrap_or_default()
}

/// Nobody reads more.
const MAX_FINDINGS: usize = 1000;

/// Warnings as they are found.
#[derive(Debug, Default)]
struct Findings(Vec<Warning>);

impl Findings {
    fn is_full(&self) -> bool {
        self.0.len() >= MAX_FINDINGS
    }

    /// About a part of an instruction that stands in its text as `marked`.
    fn of(
        &mut self,
        rule: Rule,
        (start, text): (Position, &str),
        several_lines: bool,
        marked: &str,
        message: String,
    ) {
        if self.is_full() {
            return;
        }
        // Behind a continuation the columns of the joined text are not those of the file.
        // Its beginning is enough to find it by: a search gets ready for all that it looks for.
        let begin = &marked[..marked.floor_char_boundary(MAX_SHOWN)];
        let is_sought = !several_lines && !marked.is_empty();
        let at = is_sought.then(|| text.find(begin)).flatten();
        let before = at.and_then(|at| text.get(..at));
        let columns = before.map_or(0, |before| before.chars().count());
        // An instruction may have megabytes, and a thousand findings are about it.
        self.0.push(Warning {
            rule,
            message: shown(&message),
            line: start.line,
            column: start
                .column
                .saturating_add(u32::try_from(columns).unwrap_or(u32::MAX)),
            text: if several_lines {
                String::new()
            } else {
                shown(text)
            },
            marked: if at.is_some() {
                shown(marked)
            } else {
                String::new()
            },
        });
    }

    fn about(&mut self, rule: Rule, instruction: &Instruction, marked: &str, message: String) {
        let range = instruction.range;
        let several = range.start.line != range.end.line;
        self.of(
            rule,
            (range.start, &instruction.text),
            several,
            marked,
            message,
        );
    }

    /// About the FROM of a stage.
    fn about_from(&mut self, rule: Rule, stage: &Stage, marked: &str, message: String) {
        let Range { start, end } = stage.range;
        let several = start.line != end.line;
        self.of(rule, (start, &stage.text), several, marked, message);
    }

    fn at(&mut self, rule: Rule, position: Position, message: String) {
        self.of(rule, (position, ""), true, "", message);
    }
}
