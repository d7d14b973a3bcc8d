//! Words: quotes, escapes and variables (Dockerfile reference, "Environment replacement").
//!
//! The rules are those of a POSIX shell's word expansion without commands and arithmetic. What a
//! variable holds comes in as [`Env`]; a whole instruction is expanded against one unchanged `Env`,
//! which is what makes `ENV a=new b=$a` see the old `a`. Sizes and nesting are bounded, because
//! `ENV a=$a$a` doubles with each line.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::pattern::{Extent, Pattern, PatternError};
use super::source::Word;

/// The longest text that an expansion may give; Linux refuses longer arguments anyhow.
const MAX_EXPANDED: usize = 4 * 1024 * 1024;
/// The deepest nesting of `${x:-${y:-…}}`.
const MAX_DEPTH: usize = 64;

/// Where the values of variables come from.
pub trait Env {
    fn get(&self, name: &str) -> Option<&str>;
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
        let mut scan = Scan {
            lexer: *self,
            rest: text,
            env,
            keep_escapes: self.mode.keep_escapes,
            depth: 0,
            found: Expanded::default(),
        };
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

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value as it grows, and the same split into words.
#[derive(Debug, Default)]
struct Output {
    value: String,
    words: Words,
}

impl Output {
    /// A character of the text: a space here ends a word.
    fn plain(&mut self, c: char) {
        self.value.push(c);
        self.words.plain(c);
    }

    /// An escaped character, which never ends a word.
    fn escaped(&mut self, c: char) {
        self.value.push(c);
        self.words.current.push(c);
    }

    /// Quoted text.
    fn quoted(&mut self, text: &str) {
        self.value.push_str(text);
        self.words.current.push_str(text);
    }

    /// A variable's value: its spaces end words.
    fn substituted(&mut self, text: &str) {
        self.value.push_str(text);
        text.chars().for_each(|c| self.words.plain(c));
    }
}

#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn plain(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Scan<'a> {
    lexer: Lexer,
    rest: &'a str,
    env: Lookup<'a>,
    keep_escapes: bool,
    depth: usize,
    found: Expanded,
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    /// Reads up to the end, or up to and including `stop`.
    fn until(&mut self, stop: Option<char>, out: &mut Output) -> Result<(), Problem> {
        while let Some(c) = self.next() {
            if Some(c) == stop {
                return Ok(());
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    out.substituted(&value);
                }
                '<' => self.angle(out),
                '\'' if !self.lexer.mode.quotes_are_plain => {
                    let text = self.single_quoted()?;
                    out.quoted(&text);
                }
                '"' if !self.lexer.mode.quotes_are_plain => {
                    let text = self.double_quoted()?;
                    out.quoted(&text);
                }
                c if c == self.lexer.escape => self.escape(out),
                c => out.plain(c),
            }
            if out.value.len() > MAX_EXPANDED {
                return Err(Problem::TooLong);
            }
        }
        match stop {
            None => Ok(()),
            Some('/') => Err(Problem::UnclosedPattern),
            Some(_) => Err(Problem::UnclosedBrace),
        }
    }

    /// An escape at the very end stands for nothing.
    fn escape(&mut self, out: &mut Output) {
        if self.keep_escapes {
            out.escaped(self.lexer.escape);
        }
        if let Some(c) = self.next() {
            out.escaped(c);
        }
    }

    /// `<< EOF` is one word: the space behind `<<` does not split.
    fn angle(&mut self, out: &mut Output) {
        if self.peek() != Some('<') {
            out.quoted("<");
            return;
        }
        self.next();
        out.quoted("<<");
        while let Some(c @ (' ' | '\t' | '\r')) = self.peek() {
            self.next();
            out.escaped(c);
        }
    }

    fn single_quoted(&mut self) -> Result<String, Problem> {
        let Some((text, rest)) = self.rest.split_once('\'') else {
            return Err(Problem::UnclosedQuote { quote: '\'' });
        };
        self.rest = rest;
        Ok(match self.lexer.mode.keep_quotes {
            true => format!("'{text}'"),
            false => text.to_owned(),
        })
    }

    fn double_quoted(&mut self) -> Result<String, Problem> {
        let keep = self.lexer.mode.keep_quotes;
        let mut text = String::from(if keep { "\"" } else { "" });
        while let Some(c) = self.next() {
            match c {
                '"' => {
                    text.push_str(if keep { "\"" } else { "" });
                    return Ok(text);
                }
                '$' => text.push_str(&self.dollar()?),
                c if c == self.lexer.escape => self.escape_in_quotes(&mut text),
                c => text.push(c),
            }
            if text.len() > MAX_EXPANDED {
                return Err(Problem::TooLong);
            }
        }
        Err(Problem::UnclosedQuote { quote: '"' })
    }

    /// Inside double quotes an escape means something before `"`, `$` and itself only.
    fn escape_in_quotes(&mut self, text: &mut String) {
        let escape = self.lexer.escape;
        match self.peek() {
            Some(c) if c == '"' || c == '$' || c == escape => {
                if self.keep_escapes {
                    text.push(escape);
                }
                self.next();
                text.push(c);
            }
            Some(_) if self.keep_escapes => text.extend([escape, escape]),
            Some(_) => text.push(escape),
            None => {}
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self) -> Result<String, Problem> {
        if self.peek() == Some('{') {
            self.next();
            return self.nested();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.variable(&name) {
            Some(value) => value,
            None if self.lexer.mode.keep_unset => format!("${name}"),
            None => String::new(),
        })
    }

    fn nested(&mut self) -> Result<String, Problem> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    /// What follows a `${`.
    fn braced(&mut self) -> Result<String, Problem> {
        match self.peek() {
            None => return Err(Problem::UnclosedBrace),
            Some('{' | '}' | ':') => return Err(Problem::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.variable(&name) {
                Some(value) => value,
                None if self.lexer.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.conditional(&name, c, true),
                Some(c) => Err(modifier(&format!(":{c}"))),
                None => Err(Problem::UnclosedBrace),
            },
            Some(c @ ('-' | '+' | '?')) => self.conditional(&name, c, false),
            Some(c @ ('#' | '%')) => self.trimmed(&name, c),
            Some('/') => self.replaced(&name),
            Some(c) => Err(modifier(&c.to_string())),
            None => Err(Problem::UnclosedBrace),
        }
    }

    /// `${x-w}`, `${x+w}`, `${x?w}`, and with `:` the forms for which an empty value is none.
    fn conditional(&mut self, name: &str, c: char, colon: bool) -> Result<String, Problem> {
        let word = self.operand('}', false)?;
        let value = self.variable(name);
        if value.is_none() && self.lexer.mode.keep_unset {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{c}{word}}}"));
        }
        let set = value.is_some();
        let usable = value.filter(|value| !(colon && value.is_empty()));
        match (c, usable) {
            ('-', None) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('+', Some(_)) => Ok(word),
            ('?', None) => Err(required(name, word, set)),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(modifier(&c.to_string())),
        }
    }

    /// `${x#p}`, `${x##p}`, `${x%p}`, `${x%%p}`.
    fn trimmed(&mut self, name: &str, c: char) -> Result<String, Problem> {
        let word = self.operand('}', true)?;
        let value = self.variable(name);
        if value.is_none() && self.lexer.mode.keep_unset {
            return Ok(format!("${{{name}{c}{word}}}"));
        }
        let (pattern, extent) = match word.strip_prefix(c) {
            Some(pattern) => (pattern, Extent::Longest),
            None => (word.as_str(), Extent::Shortest),
        };
        let pattern = Pattern::parse(pattern)?;
        let value = value.unwrap_or_default();
        Ok(match c {
            '#' => pattern.trim_prefix(&value, extent),
            _ => pattern.trim_suffix(&value, extent),
        })
    }

    /// `${x/p/r}`, `${x//p/r}`.
    fn replaced(&mut self, name: &str) -> Result<String, Problem> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.variable(name);
        if value.is_none() && self.lexer.mode.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        let pattern = Pattern::parse(&pattern)?;
        Ok(pattern.replace(&value.unwrap_or_default(), &replacement, all))
    }

    /// The word inside a substitution, itself expanded; a pattern keeps its escapes.
    fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, Problem> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let mut out = Output::default();
        let read = self.until(Some(stop), &mut out);
        self.keep_escapes = outer;
        read.map(|()| out.value)
    }

    fn variable(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let names = match value {
            Some(_) => &mut self.found.used,
            None => &mut self.found.missing,
        };
        names.insert(name.to_owned());
        value
    }

    /// Letters, digits and `_`; or digits only; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let digits = self.peek().is_some_and(char::is_numeric);
        if let Some(c @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) = self.peek() {
            self.next();
            return c.to_string();
        }
        while let Some(c) = self.peek() {
            let belongs = match digits {
                true => c.is_numeric(),
                false => c.is_alphanumeric() || c == '_',
            };
            if !belongs {
                break;
            }
            self.next();
            name.push(c);
        }
        name
    }
}

fn modifier(modifier: &str) -> Problem {
    Problem::Modifier {
        modifier: modifier.to_owned(),
    }
}

fn required(name: &str, message: String, set: bool) -> Problem {
    let message = match (message.is_empty(), set) {
        (false, _) => message,
        (true, true) => "is not allowed to be empty".to_owned(),
        (true, false) => "is not allowed to be unset".to_owned(),
    };
    Problem::Required {
        name: name.to_owned(),
        message,
    }
}
