//! The file as the checks see it: every instruction with the variables that it can use.
//!
//! It goes through all stages, also those that no target needs, and knows names only: what a command
//! would make of them does not matter. Expansion that fails is an error of the build and told there.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::Dockerfile;
use crate::dockerfile::expand::{Env, Expanded, Lexer};
use crate::dockerfile::instruction::{ArgDeclaration, Instruction, Kind, Pair, Transfer};
use crate::dockerfile::source::Word;
use crate::dockerfile::stages::{self, Reference};
use crate::ignore::Ignore;
use crate::plan::scope::Given;

use super::Known;

/// A whole file.
#[derive(Debug)]
pub(super) struct Survey<'f> {
    pub(super) file: &'f Dockerfile,
    pub(super) lexer: Lexer,
    /// What FROM sees.
    pub(super) given: Given,
    /// Global ARGs, with a value or without.
    pub(super) globals: BTreeSet<String>,
    pub(super) ignore: Option<&'f Ignore>,
    pub(super) stages: Vec<Stage<'f>>,
}

/// One stage.
#[derive(Debug)]
pub(super) struct Stage<'f> {
    pub(super) steps: Vec<Step<'f>>,
    end: Scope,
}

/// One instruction, with what it found set.
#[derive(Debug)]
pub(super) struct Step<'f> {
    pub(super) instruction: &'f Instruction,
    pub(super) scope: Scope,
}

/// What is set at some place.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    values: BTreeMap<String, String>,
    /// ARGs without a value: nobody calls them undefined.
    declared: BTreeSet<String>,
    /// False on top of an image that nobody looked at.
    pub(super) is_complete: bool,
    /// A SHELL was set.
    pub(super) shell: bool,
    /// An absolute or relative WORKDIR was set in this file.
    pub(super) folder: bool,
}

impl Env for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

impl Scope {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Names of an expansion that nothing sets.
    pub(super) fn unknown<'e>(&self, expanded: &'e Expanded) -> Vec<&'e str> {
        let missing = expanded.missing.iter().map(String::as_str);
        missing
            .filter(|name| !self.declared.contains(*name))
            .collect()
    }
}

impl<'f> Survey<'f> {
    pub(super) fn new(file: &'f Dockerfile, known: &Known<'f>) -> Self {
        let mut survey = Self {
            file,
            lexer: Lexer::new(file.directives.escape),
            given: known.given.clone(),
            globals: BTreeSet::new(),
            ignore: known.ignore,
            stages: Vec::new(),
        };
        let globals = file.global_args.iter().flat_map(|args| &args.declarations);
        for arg in globals {
            survey.global(arg);
        }
        for stage in &file.stages {
            let start = survey.start(stage, known);
            let read = survey.stage(stage, start);
            survey.stages.push(read);
        }
        survey
    }

    fn global(&mut self, arg: &ArgDeclaration) {
        let lexer = self.lexer;
        let Ok(name) = lexer.word(&arg.name, &self.given) else {
            return;
        };
        let value = arg.default.as_ref();
        let value = value.and_then(|word| lexer.word(word, &self.given).ok());
        if let Some(value) = self.given.of_file(&name, value) {
            self.given.globals.insert(name.clone(), value);
        }
        self.globals.insert(name);
    }

    fn start(&self, stage: &stages::Stage, known: &Known<'_>) -> Scope {
        let image = self.lexer.word(&stage.from.image, &self.given);
        let image = image.unwrap_or_default();
        if let Reference::Stage(earlier) = self.file.base(stage.index, &image) {
            let base = self.stages.get(earlier).map(|stage| stage.end.clone());
            return base.unwrap_or_default();
        }
        let mut scope = Scope {
            is_complete: image == "scratch",
            ..Scope::default()
        };
        // BuildKit gives every stage a PATH.
        scope.values.insert("PATH".to_owned(), String::new());
        if let Some(config) = known.bases.get(&stage.index) {
            let pairs = config
                .config
                .env
                .iter()
                .filter_map(|text| text.split_once('='));
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            scope.values.extend(pairs);
            scope.is_complete = true;
            scope.shell = config
                .config
                .shell
                .as_ref()
                .is_some_and(|shell| !shell.is_empty());
        }
        scope
    }

    fn stage(&self, stage: &'f stages::Stage, start: Scope) -> Stage<'f> {
        let mut scope = start;
        let mut steps = Vec::new();
        for instruction in &stage.instructions {
            let seen = scope.clone();
            self.apply(instruction, &mut scope);
            steps.push(Step {
                instruction,
                scope: seen,
            });
        }
        Stage { steps, end: scope }
    }

    /// What an instruction leaves for the next.
    fn apply(&self, instruction: &Instruction, scope: &mut Scope) {
        match &instruction.kind {
            Kind::Env(pairs) => {
                let old = scope.clone();
                let word = |word| self.lexer.word(word, &old).unwrap_or_default();
                let set = pairs
                    .iter()
                    .map(|pair| (word(&pair.key), word(&pair.value)));
                scope.values.extend(set);
            }
            Kind::Arg(declarations) => {
                for arg in declarations {
                    self.declare(arg, scope);
                }
            }
            Kind::Shell(_) => scope.shell = true,
            Kind::Workdir(_) => scope.folder = true,
            _ => {}
        }
    }

    fn declare(&self, arg: &ArgDeclaration, scope: &mut Scope) {
        let name = self.lexer.word(&arg.name, scope).unwrap_or_default();
        let default = arg.default.as_ref();
        let default = default.map(|word| self.lexer.word(word, scope).unwrap_or_default());
        match self.given.of_stage(&name, default) {
            Some(value) => drop(scope.values.insert(name, value)),
            None => drop(scope.declared.insert(name)),
        }
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = &Step<'f>> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

/// The words of an instruction that are expanded.
pub(super) fn words<'k>(kind: &'k Kind) -> Vec<&'k Word> {
    match kind {
        Kind::Env(pairs) | Kind::Label(pairs) => {
            let both = |pair: &'k Pair| [&pair.key, &pair.value];
            pairs.iter().flat_map(both).collect()
        }
        Kind::Arg(declarations) => declarations
            .iter()
            .filter_map(|arg| arg.default.as_ref())
            .collect(),
        Kind::Workdir(word) | Kind::User(word) | Kind::StopSignal(word) => vec![word],
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::Copy(copy) => transferred(&copy.transfer),
        Kind::Add(add) => {
            let mut words = transferred(&add.transfer);
            words.extend(&add.checksum);
            words
        }
        _ => Vec::new(),
    }
}

fn transferred(transfer: &Transfer) -> Vec<&Word> {
    let mut words: Vec<&Word> = transfer.sources.iter().collect();
    words.push(&transfer.dest);
    words.extend(&transfer.chown);
    words.extend(&transfer.chmod);
    words
}
