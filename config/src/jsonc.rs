//! JSON with comments and trailing commas, as a tree that remembers where everything stands.
//!
//! `devcontainer.json`, `.devpod.json` and `config.json` are read through here, so that every
//! complaint about them, of syntax or of meaning, carries a line, a column and the line itself.
//! The tree owns its strings, because variables are substituted in it before it is read.

use std::fmt;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// Longer files are refused: none that a person wrote comes near.
pub const MAX_BYTES: usize = 1024 * 1024;
/// How much of a long line an error shows.
const EXCERPT: usize = 100;

/// A complaint about one place of a text. Lines and columns count from 1; columns are characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub line: usize,
    pub column: usize,
    pub reason: String,
    /// The offending line, without control characters, cut around the column when it is long.
    pub excerpt: String,
    /// Where in `excerpt` the offending text begins, in characters.
    pub marker: usize,
}

impl std::error::Error for Located {}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.reason)?;
        let gutter = self.line.to_string();
        let (blank, marker) = (gutter.len(), self.marker);
        write!(f, "\n  {gutter} | {}", self.excerpt)?;
        write!(f, "\n  {:blank$} | {:marker$}^", "", "")
    }
}

impl Located {
    /// The place of byte `at` in `text`.
    pub fn new(text: &str, at: usize, reason: impl Into<String>) -> Self {
        let at = floor_boundary(text, at);
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
        let column = text[start..at].chars().count();
        let skipped = column.saturating_sub(EXCERPT - 20);
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let line = text[start..end].chars().skip(skipped).take(EXCERPT);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: column + 1,
            reason: reason.into(),
            excerpt: line.map(visible).collect::<String>().trim_end().to_owned(),
            marker: column - skipped,
        }
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A value and the byte at which it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<Member>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub key: String,
    pub at: usize,
    pub node: Node,
}

/// A parsed text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    text: String,
    pub root: Node,
}

impl Document {
    /// Comments and trailing commas are allowed, the other liberties of JSON5 are not
    /// (devcontainer schema: `allowComments`, `allowTrailingCommas`).
    pub fn parse(text: &str) -> Result<Self, Located> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.len() > MAX_BYTES {
            let reason = format!("the file is longer than {MAX_BYTES} bytes");
            return Err(Located::new("", 0, reason));
        }
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options())
            .map_err(|e| Located::new(text, e.range().start, lower_first(&e.kind().to_string())))?;
        let Some(root) = parsed.value else {
            return Err(Located::new(text, text.len(), "the file is empty"));
        };
        Ok(Self {
            root: node(&root),
            text: text.to_owned(),
        })
    }

    /// A tree that another syntax (TOML) was read into.
    pub fn from_tree(text: &str, root: Node) -> Self {
        Self {
            text: text.to_owned(),
            root,
        }
    }

    /// The root value, which must be an object.
    pub fn cursor(&self) -> Result<Cursor<'_>, Located> {
        let cursor = Cursor {
            document: self,
            node: &self.root,
            name: String::new(),
        };
        cursor.object().map(|_| cursor)
    }

    /// A value of this document, called `name` in complaints.
    pub fn cursor_at<'a>(&'a self, node: &'a Node, name: &str) -> Cursor<'a> {
        Cursor {
            document: self,
            node,
            name: name.to_owned(),
        }
    }

    pub fn error(&self, at: usize, reason: impl Into<String>) -> Located {
        Located::new(&self.text, at, reason)
    }
}

fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// The parser bounds the nesting, so this recursion is bounded too.
fn node(value: &ast::Value<'_>) -> Node {
    let at = value.range().start;
    let value = match value {
        ast::Value::StringLit(text) => Value::Text(text.value.to_string()),
        ast::Value::NumberLit(number) => Value::Number(number.value.to_owned()),
        ast::Value::BooleanLit(literal) => Value::Bool(literal.value),
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::Array(list) => Value::List(list.elements.iter().map(node).collect()),
        ast::Value::Object(object) => Value::Object(object.properties.iter().map(member).collect()),
    };
    Node { at, value }
}

fn member(property: &ast::ObjectProp<'_>) -> Member {
    Member {
        key: property.name.as_str().to_owned(),
        at: property.name.range().start,
        node: node(&property.value),
    }
}

impl Node {
    /// The value without its places, for what is kept but not understood.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => {
                serde_json::from_str(number).unwrap_or_else(|_| number.clone().into())
            }
            Value::Text(text) => text.clone().into(),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Object(members) => members
                .iter()
                .map(|member| (member.key.clone(), member.node.to_json()))
                .collect(),
        }
    }
}

/// A value of a document on its way to a type, and what it is called in complaints.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    document: &'a Document,
    pub node: &'a Node,
    name: String,
}

impl<'a> Cursor<'a> {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn error(&self, reason: impl Into<String>) -> Located {
        self.document.error(self.node.at, reason)
    }

    /// A complaint about byte `at` of the document.
    pub fn error_at(&self, at: usize, reason: impl Into<String>) -> Located {
        self.document.error(at, reason)
    }

    /// The line of byte `at` of the document.
    pub fn line_of(&self, at: usize) -> usize {
        self.document.error(at, "").line
    }

    /// "`build.context` must be a string".
    pub fn expected(&self, what: &str) -> Located {
        let name = if self.name.is_empty() {
            "the file".to_owned()
        } else {
            format!("\"{}\"", self.name)
        };
        self.error(format!("{name} must be {what}"))
    }

    fn child(&self, key: &str, node: &'a Node) -> Self {
        let name = match self.name.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        };
        Self {
            document: self.document,
            node,
            name,
        }
    }

    /// The member `key` of an object. `null` is as good as absent; of two the last wins, as in
    /// every JSON reader that people know.
    pub fn get(&self, key: &str) -> Option<Self> {
        let Value::Object(members) = &self.node.value else {
            return None;
        };
        let member = members.iter().rev().find(|member| member.key == key)?;
        match member.node.value {
            Value::Null => None,
            _ => Some(self.child(key, &member.node)),
        }
    }

    pub fn object(&self) -> Result<Vec<Cursor<'a>>, Located> {
        match &self.node.value {
            Value::Object(members) => Ok(members
                .iter()
                .map(|member| self.child(&member.key, &member.node))
                .collect()),
            _ => Err(self.expected("an object")),
        }
    }

    /// The members of an object with their keys, and where each key stands.
    pub fn members(&self) -> Result<&'a [Member], Located> {
        match &self.node.value {
            Value::Object(members) => Ok(members),
            _ => Err(self.expected("an object")),
        }
    }

    pub fn list(&self) -> Result<Vec<Cursor<'a>>, Located> {
        match &self.node.value {
            Value::List(nodes) => Ok(nodes
                .iter()
                .enumerate()
                .map(|(index, node)| self.child(&index.to_string(), node))
                .collect()),
            _ => Err(self.expected("a list")),
        }
    }

    pub fn text(&self) -> Result<String, Located> {
        match &self.node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.expected("a string")),
        }
    }

    /// Text, number or boolean as text: people write `"PORT": 3000`.
    pub fn scalar(&self) -> Result<String, Located> {
        match &self.node.value {
            Value::Text(text) | Value::Number(text) => Ok(text.clone()),
            Value::Bool(value) => Ok(value.to_string()),
            _ => Err(self.expected("a string, a number or a boolean")),
        }
    }

    pub fn boolean(&self) -> Result<bool, Located> {
        match self.node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(self.expected("true or false")),
        }
    }

    pub fn texts(&self) -> Result<Vec<String>, Located> {
        self.list()?.iter().map(Self::text).collect()
    }

    /// An object of scalars, in the order written.
    pub fn scalars(&self) -> Result<Vec<(String, String)>, Located> {
        self.members()?
            .iter()
            .map(|member| {
                let value = self.child(&member.key, &member.node).scalar()?;
                Ok((member.key.clone(), value))
            })
            .collect()
    }

    /// The member `key` as a type that reads itself from text.
    pub fn parse<T>(&self) -> Result<T, Located>
    where
        T: std::str::FromStr<Err: fmt::Display>,
    {
        let text = self.scalar()?;
        text.parse()
            .map_err(|reason| self.error(format!("\"{}\": {reason}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_comments_and_trailing_commas() {
        let text = "\u{feff}// head\n{ /* x */ \"a\": [1, \"b\",], }";
        let document = Document::parse(text).unwrap();
        assert_eq!(
            document.root.to_json(),
            serde_json::json!({"a": [1, "b"]}),
            "the byte order mark is no part of the text"
        );
    }

    #[test]
    fn names_the_place_of_an_error() {
        for (text, line, column, word) in [
            ("{\n  \"a\": ,\n}", 2, 8, "comma"),
            ("{\n  \"a\": 1\n  \"b\": 2\n}", 2, 9, "comma"),
            ("{\"a\": 'x'}", 1, 7, "single-quoted"),
            ("{\"a\": 1", 1, 1, "unterminated object"),
            ("// nothing", 1, 11, "empty"),
            ("{\"ä\": \u{7}tru}", 1, 7, "unexpected"),
            ("{} {}", 1, 4, "more than one"),
        ] {
            let error = Document::parse(text).unwrap_err();
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{text:?}: {error}"
            );
            assert!(error.reason.contains(word), "{text:?}: {}", error.reason);
        }
    }

    #[test]
    fn shows_the_offending_line() {
        let error = Document::parse("{\n\t\"image\" \"x\"\n}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "2:10: expected colon after the string or word in object property\n  \
             2 |  \"image\" \"x\"\n    |          ^"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let text = format!("{{\"a\": \"{}\" 1}}", "x".repeat(500));
        let error = Document::parse(&text).unwrap_err();
        assert!(error.excerpt.chars().count() <= EXCERPT);
        assert_eq!(error.column, 509);
        assert_eq!(error.excerpt.chars().nth(error.marker - 1), Some('"'));
    }

    #[test]
    fn deep_nesting_and_length_are_bounded() {
        assert!(Document::parse(&"[".repeat(100_000)).is_err());
        assert!(Document::parse(&format!("{{}}{}", " ".repeat(MAX_BYTES))).is_err());
    }

    #[test]
    fn wrong_types_are_named_with_their_path() {
        let document = Document::parse("{\"build\": {\"context\": 3}}").unwrap();
        let build = document.cursor().unwrap().get("build").unwrap();
        let error = build.get("context").unwrap().text().unwrap_err();
        assert_eq!(error.reason, "\"build.context\" must be a string");
        assert_eq!((error.line, error.column), (1, 23));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}|[\\[\\]{}\",:/* \\n0-9a-zäé\\\\]{0,80}") {
            if let Err(error) = Document::parse(&text) {
                let _ = error.to_string();
            }
        }

        #[test]
        fn reads_what_serde_writes(map in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,12}", 0..6)) {
            let text = serde_json::to_string(&map).unwrap();
            let document = Document::parse(&text).unwrap();
            proptest::prop_assert_eq!(document.root.to_json(), serde_json::to_value(&map).unwrap());
        }
    }
}
