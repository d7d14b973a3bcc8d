//! The file as the checks see it: every instruction with the variables that it can use.
//!
//! It goes through all stages, also those that no target needs, and knows names only: what a command
//! would make of them does not matter. Expansion that fails is an error of the build and told there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::dockerfile::Dockerfile;
use crate::dockerfile::expand::{Env, Expanded, Lexer};
use crate::dockerfile::instruction::{ArgDeclaration, Instruction, Kind, Pair, Transfer};
use crate::dockerfile::source::Word;
use crate::dockerfile::stages::{self, Reference};
use crate::ignore::Ignore;
use crate::plan::scope::Given;
use unpacker::image::config::ImageConfig;

use super::Known;

/// What is kept of a value: the checks look at names, and at how a value begins.
const MAX_VALUE: usize = 4096;
/// Bytes of what one walk remembers. Beyond that variables are not judged any more.
const ROOM: usize = 32 << 20;
/// What a variable takes beside its texts.
const VARIABLE: usize = 64;
/// So many names are looked through for the one that was meant.
pub(super) const MAX_KNOWN: usize = 1000;

/// What is left of [`ROOM`].
#[derive(Debug)]
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(ROOM)
    }
}

impl Room {
    /// Whether there was so much.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or_default();
        left.is_some()
    }

    /// Remembers the beginning of a value, if there is room for it.
    pub(super) fn keep(&mut self, all: &mut BTreeMap<String, String>, name: String, value: String) {
        let value = shortened(value);
        if self.take(name.len() + value.len() + VARIABLE) {
            all.insert(name, value);
        }
    }
}

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
    bases: &'f BTreeMap<usize, ImageConfig>,
}

/// One instruction, with what it found set.
#[derive(Debug)]
pub(super) struct Step<'f, 's> {
    pub(super) instruction: &'f Instruction,
    pub(super) scope: &'s Scope,
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

    fn weight(&self) -> usize {
        let values = self.values.iter();
        let values: usize = values
            .map(|(name, value)| name.len() + value.len() + VARIABLE)
            .sum();
        let declared = self.declared.iter().map(|name| name.len() + VARIABLE);
        values + declared.sum::<usize>()
    }
}

/// The scopes of one walk, and what room is left for them.
struct Walk<'s, 'f> {
    survey: &'s Survey<'f>,
    scope: Rc<Scope>,
    /// At the ends of the stages so far.
    ends: Vec<Rc<Scope>>,
    room: Room,
}

impl<'f> Survey<'f> {
    pub(super) fn new(file: &'f Dockerfile, known: &Known<'f>) -> Self {
        let mut survey = Self {
            file,
            lexer: Lexer::new(file.directives.escape),
            given: known.given.clone(),
            globals: BTreeSet::new(),
            ignore: known.ignore,
            bases: known.bases,
        };
        let globals = file.global_args.iter().flat_map(|args| &args.declarations);
        let mut room = Room::default();
        for arg in globals {
            survey.global(arg, &mut room);
        }
        survey
    }

    fn global(&mut self, arg: &ArgDeclaration, room: &mut Room) {
        let lexer = self.lexer;
        let Ok(name) = lexer.word(&arg.name, &self.given) else {
            return;
        };
        let value = arg.default.as_ref();
        let value = value.and_then(|word| lexer.word(word, &self.given).ok());
        if let Some(value) = self.given.of_file(&name, value) {
            room.keep(&mut self.given.globals, name.clone(), value);
        }
        self.globals.insert(name);
    }

    /// Shows every instruction of every stage, in the order of the file.
    pub(super) fn walk<'s>(&'s self, visit: &mut dyn FnMut(&Step<'f, '_>)) {
        let mut walk = Walk {
            survey: self,
            scope: Rc::default(),
            ends: Vec::new(),
            room: Room::default(),
        };
        for stage in &self.file.stages {
            walk.scope = walk.start(stage);
            for instruction in &stage.instructions {
                visit(&Step {
                    instruction,
                    scope: &walk.scope,
                });
                walk.apply(instruction);
            }
            walk.ends.push(Rc::clone(&walk.scope));
        }
    }
}

impl Walk<'_, '_> {
    fn start(&self, stage: &stages::Stage) -> Rc<Scope> {
        let survey = self.survey;
        let image = survey.lexer.word(&stage.from.image, &survey.given);
        let image = image.unwrap_or_default();
        if let Reference::Stage(earlier) = survey.file.base(stage.index, &image) {
            return self.ends.get(earlier).cloned().unwrap_or_default();
        }
        let mut scope = Scope {
            is_complete: image == "scratch",
            ..Scope::default()
        };
        // BuildKit gives every stage a PATH.
        scope.values.insert("PATH".to_owned(), String::new());
        if let Some(config) = survey.bases.get(&stage.index) {
            let config = &config.config;
            let pairs = config.env.iter().filter_map(|text| text.split_once('='));
            let pairs = pairs.map(|(name, value)| (name.to_owned(), shortened(value.to_owned())));
            scope.values.extend(pairs);
            scope.is_complete = true;
            scope.shell = config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
        }
        Rc::new(scope)
    }

    /// What an instruction leaves for the next.
    fn apply(&mut self, instruction: &Instruction) {
        match &instruction.kind {
            Kind::Env(pairs) => {
                let word = |word| self.word(word);
                let set = pairs
                    .iter()
                    .map(|pair| (word(&pair.key), word(&pair.value)));
                let set: Vec<_> = set.collect();
                for (name, value) in set {
                    self.set(name, Some(value));
                }
            }
            Kind::Arg(declarations) => {
                for arg in declarations {
                    self.declare(arg);
                }
            }
            Kind::Shell(_) => Rc::make_mut(&mut self.scope).shell = true,
            Kind::Workdir(_) => Rc::make_mut(&mut self.scope).folder = true,
            _ => {}
        }
    }

    fn word(&self, word: &Word) -> String {
        let survey = self.survey;
        shortened(survey.lexer.word(word, &*self.scope).unwrap_or_default())
    }

    fn declare(&mut self, arg: &ArgDeclaration) {
        let name = self.word(&arg.name);
        let default = arg.default.as_ref().map(|word| self.word(word));
        let value = self.survey.given.of_stage(&name, default);
        self.set(name, value.map(shortened));
    }

    /// Where there is no room, nothing is known of variables from here on.
    fn set(&mut self, name: String, value: Option<String>) {
        let more = name.len() + value.as_ref().map_or(0, String::len) + VARIABLE;
        // A stage that another one goes on from keeps its own.
        let copied = match Rc::strong_count(&self.scope) {
            1 => 0,
            _ => self.scope.weight(),
        };
        if !self.room.take(more + copied) {
            let Scope { shell, folder, .. } = *self.scope;
            self.scope = Rc::new(Scope {
                shell,
                folder,
                ..Scope::default()
            });
            return;
        }
        let scope = Rc::make_mut(&mut self.scope);
        match value {
            Some(value) => drop(scope.values.insert(name, value)),
            None => drop(scope.declared.insert(name)),
        }
    }
}

fn shortened(mut value: String) -> String {
    value.truncate(value.floor_char_boundary(MAX_VALUE));
    value
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
