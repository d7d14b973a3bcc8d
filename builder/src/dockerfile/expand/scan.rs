//! The walk over a word's characters.
//!
//! It yields the value and, beside it, the words that the value falls into; a nested substitution has
//! a value only.

use super::{Expanded, Lexer, MAX_DEPTH, MAX_EXPANDED, Problem};
use crate::dockerfile::pattern::{Extent, Pattern};

/// What a variable holds.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value as it grows, and the same split into words.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) value: String,
    pub(super) words: Words,
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

/// Words as they grow.
#[derive(Debug, Default)]
pub(super) struct Words {
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

    pub(super) fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

/// The state of a walk.
pub(super) struct Scan<'a> {
    lexer: Lexer,
    rest: &'a str,
    env: Lookup<'a>,
    keep_escapes: bool,
    depth: usize,
    pub(super) found: Expanded,
}

impl<'a> Scan<'a> {
    pub(super) fn new(lexer: Lexer, text: &'a str, env: Lookup<'a>) -> Self {
        Self {
            lexer,
            rest: text,
            env,
            keep_escapes: lexer.mode.keep_escapes,
            depth: 0,
            found: Expanded::default(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    /// Reads up to the end, or up to and including `stop`.
    pub(super) fn until(&mut self, stop: Option<char>, out: &mut Output) -> Result<(), Problem> {
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
