//! `.dockerignore`, and the patterns of `COPY --exclude` (Dockerfile reference, ".dockerignore file").
//!
//! The rules are those of moby's patternmatcher, not git's: a pattern is anchored at the context's
//! root, matches a path when it matches the path or one of its parents, and the last pattern that
//! matches decides, so that `!` brings back files even below an excluded folder.
//!
//! Paths are relative, with `/` between components and without `.` and `..`. No file is read here.

mod pattern;

use std::path::Path;

use pattern::{Pattern, Syntax};

/// More than any sane file has; each is tried on each path.
const MAX_PATTERNS: usize = 10_000;
/// Linux allows no longer path.
const MAX_PATTERN: usize = 4096;
/// What messages show of one.
const SHOWN: usize = 200;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("line {line}: {pattern:?} is not a pattern: {why}")]
    Pattern {
        /// Counts from one; for a list of patterns, the number in the list.
        line: usize,
        pattern: String,
        why: &'static str,
    },
    #[error("there are more than {MAX_PATTERNS} patterns")]
    TooMany,
}

/// Decides what of a context is left out.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    /// Written with `!`: brings back what an earlier rule left out.
    includes: bool,
    pattern: Pattern,
}

impl Ignore {
    /// Reads a `.dockerignore` file. An empty one leaves nothing out.
    pub fn parse(file: &[u8]) -> Result<Self, IgnoreError> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let text = String::from_utf8_lossy(file);
        let mut ignore = Self::default();
        for (index, line) in text.lines().enumerate() {
            if !line.starts_with('#') {
                ignore.add(index + 1, line)?;
            }
        }
        Ok(ignore)
    }

    /// Takes patterns one by one, as `--exclude` gives them: here `#` starts no comment.
    pub fn from_patterns<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        for (index, pattern) in patterns.into_iter().enumerate() {
            ignore.add(index + 1, pattern)?;
        }
        Ok(ignore)
    }

    fn add(&mut self, line: usize, written: &str) -> Result<(), IgnoreError> {
        let written = written.trim();
        if written.is_empty() {
            return Ok(());
        }
        if self.rules.len() >= MAX_PATTERNS {
            return Err(IgnoreError::TooMany);
        }
        let (text, includes) = match written.strip_prefix('!') {
            Some(text) => (text.trim(), true),
            None => (written, false),
        };
        let refused = |why| IgnoreError::Pattern {
            line,
            pattern: written.chars().take(SHOWN).collect(),
            why,
        };
        if text.is_empty() {
            return Err(refused("there is nothing behind '!'"));
        }
        if text.len() > MAX_PATTERN {
            return Err(refused("it is longer than a path can be"));
        }
        let pattern = Pattern::parse(&rooted(text)).map_err(|Syntax(why)| refused(why))?;
        self.rules.push(Rule { includes, pattern });
        Ok(())
    }

    /// True if there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `!` brings anything back.
    pub fn brings_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.includes)
    }

    /// Whether whatever is in the context is left out, by any name.
    pub fn leaves_out_all(&self) -> bool {
        self.is_ignored(Path::new("\u{1}"))
    }

    /// Whether this file or folder is left out.
    pub fn is_ignored(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let mut ignored = false;
        for rule in &self.rules {
            // A rule that cannot change the outcome need not be tried.
            if rule.includes == ignored && rule.matches_at_or_above(&path) {
                ignored = !rule.includes;
            }
        }
        ignored
    }

    /// Whether a walk has to look inside this folder: false only if all of it is left out.
    pub fn may_descend(&self, dir: &Path) -> bool {
        if !self.is_ignored(dir) {
            return true;
        }
        let below = format!("{}/", dir.to_string_lossy());
        let mut including = self.rules.iter().filter(|rule| rule.includes);
        including.any(|rule| rule.pattern.may_match_below(&below))
    }
}

/// One pattern that says what is taken, as `--parents` needs it.
#[derive(Debug, Clone)]
pub struct Include(Rule);

impl Include {
    /// Reads a pattern; `!` and surrounding space are ordinary here.
    pub fn parse(written: &str) -> Result<Self, IgnoreError> {
        let refused = |why| IgnoreError::Pattern {
            line: 1,
            pattern: written.chars().take(SHOWN).collect(),
            why,
        };
        if written.len() > MAX_PATTERN {
            return Err(refused("it is longer than a path can be"));
        }
        let pattern = Pattern::parse(&rooted(written)).map_err(|Syntax(why)| refused(why))?;
        Ok(Self(Rule {
            includes: false,
            pattern,
        }))
    }

    /// Whether this path, or a folder that it is in, is meant.
    pub fn takes(&self, path: &Path) -> bool {
        self.0.matches_at_or_above(&path.to_string_lossy())
    }

    /// Whether a walk has to look inside this folder.
    pub fn may_descend(&self, dir: &Path) -> bool {
        let below = format!("{}/", dir.to_string_lossy());
        self.takes(dir) || self.0.pattern.may_match_below(&below)
    }
}

impl Rule {
    fn matches_at_or_above(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(end, _)| end);
        let ends = parents.chain([path.len()]);
        let mut prefixes = ends.filter_map(|end| path.get(..end));
        prefixes.any(|prefix| self.pattern.matches(prefix))
    }
}

/// The cleaned pattern, relative to the context: `/a` is `a`, and a lone `/` stays, matching nothing.
fn rooted(pattern: &str) -> String {
    let cleaned = clean(pattern);
    match cleaned.strip_prefix('/') {
        Some(relative) if !relative.is_empty() => relative.to_owned(),
        _ => cleaned,
    }
}

/// The shortest path with the same meaning by text alone, as Go's `path.Clean`.
fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if absolute => {}
            other => kept.push(other),
        }
    }
    match (absolute, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [
            ("a/../b", "b"),
            ("./a/", "a"),
            ("a//b", "a/b"),
            ("../a", "../a"),
            ("/../a", "/a"),
            ("a/..", "."),
            ("/", "/"),
            ("../../a/..", "../.."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
