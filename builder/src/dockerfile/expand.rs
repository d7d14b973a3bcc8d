//! Words: quotes, escapes and variables (Dockerfile reference, "Environment replacement").
//!
//! The rules are those of a POSIX shell's word expansion without commands and arithmetic. What a
//! variable holds comes in as [`Env`]; a whole instruction is expanded against one unchanged `Env`,
//! which is what makes `ENV a=new b=$a` see the old `a`. Sizes and nesting are bounded, because
//! `ENV a=$a$a` doubles with each line.

mod scan;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pattern::PatternError;
use super::source::Word;
use scan::{Lookup, Output, Scan};

/// The longest text that an expansion may give; Linux refuses longer arguments anyhow.
const MAX_EXPANDED: usize = 4 * 1024 * 1024;
/// The deepest nesting of `${x:-${y:-…}}`.
const MAX_DEPTH: usize = 64;

/// Where the values of variables come from.
pub trait Env {
    fn get(&self, name: &str) -> Option<&str>;
}

impl<E: Env + ?Sized> Env for &E {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl Env for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }
}

/// Pairs in the order they were set: the last one counts.
impl Env for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Env for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<&str> {
        Env::get(self.as_slice(), name)
    }
}

/// No variables at all.
impl Env for () {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// Why a word cannot be expanded, and which word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot expand {word:?}: {problem}")]
pub struct ExpandError {
    pub word: String,
    pub problem: Problem,
}

/// What is wrong inside a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("a {quote} quote is not closed")]
    UnclosedQuote { quote: char },
    #[error("\"${{\" is not closed by '}}'")]
    UnclosedBrace,
    #[error("\"${{…/\" lacks the second '/'")]
    UnclosedPattern,
    #[error("bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier {modifier:?}")]
    Modifier { modifier: String },
    /// `${x?message}` and `${x:?message}`.
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("substitutions are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("the result is longer than {MAX_EXPANDED} bytes")]
    TooLong,
}

/// A value, and which variables it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    pub value: String,
    pub used: BTreeSet<String>,
    /// Variables that were asked for and not set; a warning's material.
    pub missing: BTreeSet<String>,
}

/// Expands words with one escape character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lexer {
    escape: char,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    keep_quotes: bool,
    keep_escapes: bool,
    quotes_are_plain: bool,
    keep_unset: bool,
}

const NORMAL: Mode = Mode {
    keep_quotes: false,
    keep_escapes: false,
    quotes_are_plain: false,
    keep_unset: false,
};

impl Lexer {
    /// `escape` is the file's escape character, see `Directives::escape`.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            mode: NORMAL,
        }
    }

    /// A word's value; spaces that a variable brings stay inside it.
    pub fn word(&self, word: &Word, env: &(impl Env + ?Sized)) -> Result<String, ExpandError> {
        Ok(self.expand(word, env)?.value)
    }

    /// A word's value with the names it depends on.
    pub fn expand(&self, word: &Word, env: &(impl Env + ?Sized)) -> Result<Expanded, ExpandError> {
        let (expanded, _) = self.run(word.raw(), &|name| env.get(name).map(str::to_owned))?;
        Ok(expanded)
    }

    /// A word split at the unquoted spaces of its value, as EXPOSE takes it.
    pub fn words(
        &self,
        word: &Word,
        env: &(impl Env + ?Sized),
    ) -> Result<Vec<String>, ExpandError> {
        let (_, words) = self.run(word.raw(), &|name| env.get(name).map(str::to_owned))?;
        Ok(words)
    }

    /// The body of an unquoted heredoc: variables are replaced, quotes are plain characters.
    ///
    /// Its escape is always the backslash: a heredoc is the shell's syntax, not the Dockerfile's.
    pub fn heredoc(body: &str, env: &(impl Env + ?Sized)) -> Result<String, ExpandError> {
        let mode = Mode {
            quotes_are_plain: true,
            ..NORMAL
        };
        let lexer = Self { escape: '\\', mode };
        let (expanded, _) = lexer.run(body, &|name| env.get(name).map(str::to_owned))?;
        Ok(expanded.value)
    }

    /// Splits a logical line for the search of heredocs: nothing is replaced or removed.
    pub(super) fn split_line(line: &str) -> Result<Vec<String>, ExpandError> {
        let mode = Mode {
            keep_quotes: true,
            keep_escapes: true,
            keep_unset: true,
            quotes_are_plain: false,
        };
        let lexer = Self { escape: '\\', mode };
        Ok(lexer.run(line, &|_| None)?.1)
    }

    /// The words of a heredoc's delimiter, with or without its quotes.
    pub(super) fn delimiter(text: &str, keep_quotes: bool) -> Result<Vec<String>, ExpandError> {
        let mode = Mode {
            keep_quotes,
            keep_unset: true,
            ..NORMAL
        };
        let lexer = Self { escape: '\\', mode };
        Ok(lexer.run(text, &|_| None)?.1)
    }

    fn run(&self, text: &str, env: Lookup<'_>) -> Result<(Expanded, Vec<String>), ExpandError> {
        let mut scan = Scan::new(*self, text, env);
        let mut out = Output::default();
        match scan.until(None, &mut out) {
            Ok(()) => {
                scan.found.value = out.value;
                Ok((scan.found, out.words.finish()))
            }
            Err(problem) => Err(ExpandError {
                word: text.to_owned(),
                problem,
            }),
        }
    }
}
