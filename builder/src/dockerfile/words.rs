//! How the rest of an instruction's line is cut: at white space, in quoted words, in flags, as JSON.
//!
//! Each piece keeps its offset, so that an error can point at it. Quotes and escapes stay in quoted
//! words (the lexer of `expand` removes them) but are removed from flags.

/// The white space that separates arguments; a logical line holds no line feed.
const BLANKS: [char; 5] = [' ', '\t', '\u{b}', '\u{c}', '\r'];

/// A text with its byte offset in the logical line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) at: usize,
}

/// Cuts the first word off: the word, and the rest with its offset.
pub(super) fn first_word(line: &str) -> (&str, &str, usize) {
    let Some(end) = line.find(BLANKS) else {
        return (line, "", line.len());
    };
    let (word, rest) = line.split_at(end);
    let trimmed = rest.trim_start_matches(BLANKS);
    (word, trimmed, line.len() - trimmed.len())
}

/// The words between white space, quotes being ordinary characters.
pub(super) fn blank_separated(text: &str, at: usize) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(BLANKS);
    while !rest.is_empty() {
        let end = rest.find(BLANKS).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        words.push(Piece {
            text: word.to_owned(),
            at: at + (text.len() - rest.len()),
        });
        rest = behind.trim_start_matches(BLANKS);
    }
    words
}

/// The words of ENV, LABEL and ARG: white space inside quotes or behind an escape does not separate,
/// quotes and escapes stay.
pub(super) fn quoted(text: &str, at: usize, escape: char) -> Vec<Piece> {
    let mut words: Vec<Piece> = Vec::new();
    let mut current: Option<Piece> = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((offset, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(current.take());
            continue;
        }
        let word = current.get_or_insert_with(|| Piece {
            text: String::new(),
            at: at + offset,
        });
        let escapes = c == escape && quote != Some('\'');
        quote = match quote {
            None if c == '\'' || c == '"' => Some(c),
            Some(open) if c == open => None,
            unchanged => unchanged,
        };
        if !escapes {
            word.text.push(c);
        } else if let Some((_, next)) = chars.next() {
            word.text.extend([c, next]);
        }
    }
    words.extend(current.filter(|word| !word.text.is_empty()));
    words
}

/// The leading words that start with `--`, unquoted, and the rest with its offset.
///
/// A lone `--` ends the flags and is dropped.
pub(super) fn flags(text: &str, at: usize, escape: char) -> (Vec<Piece>, &str, usize) {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let offset = at + (text.len() - rest.len());
        let (word, behind) = flag(rest, escape);
        rest = behind.trim_start();
        if word == "--" {
            break;
        }
        found.push(Piece {
            text: word,
            at: offset,
        });
    }
    (found, rest, at + (text.len() - rest.len()))
}

/// One flag without its quotes, and what follows it.
fn flag(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    loop {
        let behind = chars.as_str();
        let Some(c) = chars.next() else {
            return (word, "");
        };
        match quote {
            None if c.is_whitespace() => return (word, behind),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => word.extend(chars.next()),
            _ => word.push(c),
        }
    }
}

/// What a text is in the eyes of the exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    Strings(Vec<String>),
    /// An array that holds other things than strings.
    NotStrings,
    /// Starts like an array but is not JSON: the shell form is meant, perhaps not by the author.
    Broken,
    Other,
}

pub(super) fn json(text: &str) -> Json {
    let text = text.trim();
    if !text.starts_with('[') {
        return Json::Other;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Json::Broken;
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    });
    match strings.collect::<Option<Vec<String>>>() {
        Some(strings) => Json::Strings(strings),
        None => Json::NotStrings,
    }
}

/// `["` or `['`: an array that somebody meant, unlike the shell's `[ -f x ]`.
pub(super) fn looks_like_json(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('[').unwrap_or_default();
    inside.trim_start().starts_with(['"', '\''])
}
