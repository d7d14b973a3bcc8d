//! Shell patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and `\`, without brackets.
//!
//! A pattern is a list of segments with a `*` between each two, so every match is found by searching
//! the segments in turn: linear in the value for each segment, no backtracking.

use std::ops::Range;

/// More than any sane pattern has; keeps the cost of a match bounded.
const MAX_PATTERN: usize = 1024;

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error(
        "pattern {pattern:?} escapes {escaped:?}, only '*', '?', '/', '}}' and '\\' can be escaped"
    )]
    Escape {
        pattern: String,
        escaped: Option<char>,
    },
    #[error("pattern is longer than {MAX_PATTERN} characters")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Any,
    Literal(char),
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Never empty; a leading or trailing `*` shows as an empty segment.
    segments: Vec<Vec<Unit>>,
}

/// Which of several matches that begin at one place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Shortest,
    Longest,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        if text.chars().count() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let mut segments = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let unit = match c {
                '*' => {
                    segments.push(Vec::new());
                    continue;
                }
                '?' => Unit::Any,
                '\\' => Unit::Literal(escaped(chars.next(), text)?),
                other => Unit::Literal(other),
            };
            if let Some(last) = segments.last_mut() {
                last.push(unit);
            }
        }
        Ok(Self { segments })
    }

    fn reversed(&self) -> Self {
        let mut segments = self.segments.clone();
        segments.reverse();
        for segment in &mut segments {
            segment.reverse();
        }
        Self { segments }
    }

    /// The value without the prefix that matches.
    pub(super) fn trim_prefix(&self, value: &str, extent: Extent) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.match_at(&chars, 0, extent) {
            Some(end) => chars.get(end..).unwrap_or_default().iter().collect(),
            None => value.to_owned(),
        }
    }

    /// The value without the suffix that matches.
    pub(super) fn trim_suffix(&self, value: &str, extent: Extent) -> String {
        let backwards: String = value.chars().rev().collect();
        let kept = self.reversed().trim_prefix(&backwards, extent);
        kept.chars().rev().collect()
    }

    /// The value with the first match, or all that do not overlap, replaced.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut copied = 0;
        let mut from = 0;
        let mut previous_end = None;
        while let Some(found) = self.find(&chars, from) {
            let empty = found.is_empty();
            from = found.end + usize::from(empty);
            // An empty match right behind another match is part of it.
            if !(empty && previous_end == Some(found.start)) {
                out.extend(chars.get(copied..found.start).unwrap_or_default());
                out.push_str(replacement);
                copied = found.end;
            }
            previous_end = Some(found.end);
            if !all {
                break;
            }
        }
        out.extend(chars.get(copied..).unwrap_or_default());
        out
    }

    /// The leftmost match at or behind `from`, as long as possible.
    fn find(&self, chars: &[char], from: usize) -> Option<Range<usize>> {
        if from > chars.len() {
            return None;
        }
        let first = self.segments.first()?;
        // If what follows does not fit behind the first place of the first segment, there is less
        // room behind any later place.
        let start = search(first, chars, from)?;
        let end = self.match_at(chars, start, Extent::Longest)?;
        Some(start..end)
    }

    /// The end of the match that begins at `start`.
    fn match_at(&self, chars: &[char], start: usize, extent: Extent) -> Option<usize> {
        let (first, rest) = self.segments.split_first()?;
        if !fits(first, chars, start) {
            return None;
        }
        let mut end = start + first.len();
        let Some((last, middle)) = rest.split_last() else {
            return Some(end);
        };
        for segment in middle {
            end = search(segment, chars, end)? + segment.len();
        }
        let place = match extent {
            Extent::Shortest => search(last, chars, end)?,
            Extent::Longest => search_back(last, chars, end)?,
        };
        Some(place + last.len())
    }
}

/// `}` and `/` are escaped because of the `${}` around the pattern, the others for themselves.
fn escaped(c: Option<char>, pattern: &str) -> Result<char, PatternError> {
    match c {
        Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Ok(c),
        escaped => Err(PatternError::Escape {
            pattern: pattern.to_owned(),
            escaped,
        }),
    }
}

fn fits(segment: &[Unit], chars: &[char], at: usize) -> bool {
    let Some(place) = chars.get(at..at + segment.len()) else {
        return false;
    };
    segment.iter().zip(place).all(|(unit, c)| match unit {
        Unit::Any => true,
        Unit::Literal(wanted) => wanted == c,
    })
}

fn search(segment: &[Unit], chars: &[char], from: usize) -> Option<usize> {
    (from..=chars.len()).find(|at| fits(segment, chars, *at))
}

fn search_back(segment: &[Unit], chars: &[char], from: usize) -> Option<usize> {
    (from..=chars.len())
        .rev()
        .find(|at| fits(segment, chars, *at))
}
