//! `[[registry.retention]]`: how long tags are kept.

use super::{optional, required, tables};
use crate::jsonc::{Cursor, Located};
use crate::pattern::Pattern;
use crate::quantity::Seconds;

/// Tags that both patterns match stay while one of the conditions holds. The first rule that
/// matches a tag decides; a tag that no rule matches stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub repositories: Pattern,
    pub tags: Pattern,
    /// The newest so many of a repository.
    pub keep_last: Option<u64>,
    /// Since the tag was last pushed.
    pub keep_for: Option<Seconds>,
    /// Since the tag, or what it points at, was last pulled, or pushed.
    pub keep_pulled_for: Option<Seconds>,
}

const WORDS: &[&str] = &[
    "repositories",
    "tags",
    "keep_last",
    "keep_for",
    "keep_pulled_for",
];

/// Reads the list. A rule without a condition would remove all that it matches, and is refused.
pub(crate) fn read(cursor: &Cursor<'_>) -> Result<Vec<Rule>, Located> {
    tables(cursor, WORDS)?.iter().map(rule).collect()
}

fn rule(item: &Cursor<'_>) -> Result<Rule, Located> {
    let rule = Rule {
        repositories: required(item, "repositories")?,
        tags: required(item, "tags")?,
        keep_last: optional(item, "keep_last")?,
        keep_for: optional(item, "keep_for")?,
        keep_pulled_for: optional(item, "keep_pulled_for")?,
    };
    if rule.keep_last.is_none() && rule.keep_for.is_none() && rule.keep_pulled_for.is_none() {
        let reason = "a rule needs \"keep_last\", \"keep_for\" or \"keep_pulled_for\"";
        return Err(item.error(reason));
    }
    Ok(rule)
}
