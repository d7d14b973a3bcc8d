//! Patterns over repository names and tags, as rules, quotas and retention use them.
//!
//! `*` stands for anything within one component, `**` for anything at all, `?` for one character of
//! a component; everything else stands for itself. `team/**` does not match `team`.

use std::fmt;
use std::str::FromStr;

/// A pattern that matches whole names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Literal(char),
    One,
    Component,
    Anything,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern is empty")]
    Empty,
    #[error("pattern {text:?} has a character that no name has: {character:?}")]
    Character { text: String, character: char },
    #[error("pattern {text:?} is longer than {MAX} characters")]
    Long { text: String },
}

/// Names have at most 255 characters.
const MAX: usize = 255;

impl Pattern {
    /// Whether the whole of `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // reachable[i]: the parts so far can match exactly name[..i].
        let mut reachable = vec![false; name.len() + 1];
        reachable[0] = true;
        for part in &self.parts {
            reachable = step(part, &name, &reachable);
        }
        reachable[name.len()]
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What is reachable after one part more: linear in the name, so a pattern cannot cost much.
fn step(part: &Part, name: &[char], before: &[bool]) -> Vec<bool> {
    let mut after = vec![false; before.len()];
    for (at, reached) in before.iter().enumerate() {
        let previous = at.checked_sub(1);
        let character = previous.map(|previous| name[previous]);
        let came_on = previous.is_some_and(|previous| after[previous]);
        let stepped = previous.is_some_and(|previous| before[previous]);
        after[at] = match part {
            Part::Literal(wanted) => stepped && character == Some(*wanted),
            Part::One => stepped && character != Some('/'),
            Part::Component => *reached || (came_on && character != Some('/')),
            Part::Anything => *reached || came_on,
        };
    }
    after
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX {
            let text = text.chars().take(MAX).collect();
            return Err(PatternError::Long { text });
        }
        let mut parts = Vec::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            parts.push(match character {
                '*' if characters.next_if_eq(&'*').is_some() => Part::Anything,
                '*' => Part::Component,
                '?' => Part::One,
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' | '/' | ':' => {
                    Part::Literal(character)
                }
                _ => {
                    let text = text.to_owned();
                    return Err(PatternError::Character { text, character });
                }
            });
        }
        let text = text.to_owned();
        Ok(Self { text, parts })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_whole_names() {
        for (pattern, name, expected) in [
            ("**", "a/b/c", true),
            ("*", "a", true),
            ("*", "a/b", false),
            ("team/*", "team/app", true),
            ("team/*", "team/app/web", false),
            ("team/**", "team/app/web", true),
            ("team/**", "team", false),
            ("team/**", "teams/app", false),
            ("**/cache", "a/b/cache", true),
            ("**/cache", "cache", false),
            ("v?.*", "v1.2", true),
            ("v?.*", "v12.2", false),
            ("a?b", "a/b", false),
            ("*-*-*", "a-b-c", true),
            ("latest", "latest", true),
            ("latest", "latest2", false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_cost_little() {
        let pattern: Pattern = "*a".repeat(100).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(99)));
        assert!(pattern.matches(&"a".repeat(255)));
    }

    #[test]
    fn refuses_what_no_name_has() {
        assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
        assert!("a b".parse::<Pattern>().is_err());
        assert!("a[bc]".parse::<Pattern>().is_err());
        assert!("a".repeat(256).parse::<Pattern>().is_err());
    }
}
