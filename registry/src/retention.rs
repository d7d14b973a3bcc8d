//! Which tags have served their time; pure: facts and rules in, verdicts out.
//!
//! The first rule whose patterns match a repository and a tag decides about the tag. It stays while
//! any of the rule's conditions holds; a tag that no rule matches stays. What is removed is the tag:
//! its manifest then has `untagged_keep` to rest like any other that lost its last tag.

use std::cmp::Reverse;

use config::registry::retention::Rule;

/// What is known of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagFacts {
    pub tag: String,
    /// When it was last pushed, in seconds since 1970.
    pub pushed: u64,
    /// When it, or what it points at, was last pulled.
    pub pulled: Option<u64>,
}

/// What becomes of a tag, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No rule matches.
    Unruled,
    /// Among the newest of its rule.
    KeptLast,
    /// Pushed not long ago.
    KeptPushed,
    /// Pulled, or pushed, not long ago.
    KeptPulled,
    /// No condition of the rule with this number, counted from 0, holds.
    Expired { rule: usize },
}

/// One verdict for each tag of a repository, in their order. `now` is in seconds since 1970.
pub fn decide(repository: &str, tags: &[TagFacts], rules: &[Rule], now: u64) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Unruled; tags.len()];
    let mut open: Vec<usize> = (0..tags.len()).collect();
    for (number, rule) in rules.iter().enumerate() {
        if !rule.repositories.matches(repository) {
            continue;
        }
        let matches = |index: &usize| {
            tags.get(*index)
                .is_some_and(|tag| rule.tags.matches(&tag.tag))
        };
        let (mut ruled, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(matches);
        open = rest;
        // The newest first; among equals the greater name, as a timestamp in it would order them.
        ruled.sort_by_key(|index| {
            Reverse(tags.get(*index).map(|tag| (tag.pushed, tag.tag.as_str())))
        });
        for (place, index) in ruled.into_iter().enumerate() {
            if let (Some(tag), Some(verdict)) = (tags.get(index), verdicts.get_mut(index)) {
                *verdict =
                    judge(tag, place, rule, now).unwrap_or(Verdict::Expired { rule: number });
            }
        }
    }
    verdicts
}

/// The condition that keeps a tag which stands at `place` among those of its rule.
fn judge(tag: &TagFacts, place: usize, rule: &Rule, now: u64) -> Option<Verdict> {
    let young = |at: u64, limit: Option<config::quantity::Seconds>| {
        limit.is_some_and(|limit| now.saturating_sub(at) < limit.0)
    };
    if rule.keep_last.is_some_and(|count| (place as u64) < count) {
        return Some(Verdict::KeptLast);
    }
    if young(tag.pushed, rule.keep_for) {
        return Some(Verdict::KeptPushed);
    }
    // What was never pulled has had no chance yet: its push counts.
    let used = tag
        .pulled
        .map_or(tag.pushed, |pulled| pulled.max(tag.pushed));
    young(used, rule.keep_pulled_for).then_some(Verdict::KeptPulled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: u64 = 100 * DAY;

    fn rule(repositories: &str, tags: &str, keep: [u64; 3]) -> Rule {
        let [last, pushed, pulled] = keep.map(|keep| (keep > 0).then_some(keep));
        let seconds = |days: Option<u64>| days.map(|days| config::quantity::Seconds(days * DAY));
        Rule {
            repositories: repositories.parse().unwrap(),
            tags: tags.parse().unwrap(),
            keep_last: last,
            keep_for: seconds(pushed),
            keep_pulled_for: seconds(pulled),
        }
    }

    /// Tags as `name age [days since the last pull]`; the names of those that go.
    fn gone(repository: &str, tags: &[(&str, u64, Option<u64>)], rules: &[Rule]) -> Vec<String> {
        let facts: Vec<_> = tags
            .iter()
            .map(|(tag, age, pulled)| TagFacts {
                tag: (*tag).to_owned(),
                pushed: NOW - age * DAY,
                pulled: pulled.map(|days| NOW - days * DAY),
            })
            .collect();
        let verdicts = decide(repository, &facts, rules, NOW);
        assert_eq!(verdicts.len(), facts.len());
        let expired = facts.iter().zip(&verdicts);
        expired
            .filter(|(_, verdict)| matches!(verdict, Verdict::Expired { .. }))
            .map(|(fact, _)| fact.tag.clone())
            .collect()
    }

    #[test]
    fn each_condition_keeps() {
        let tags = [
            ("1", 40, None),
            ("2", 30, Some(1)),
            ("3", 20, None),
            ("4", 10, Some(9)),
            ("latest", 90, None),
        ];
        for (keep, expected) in [
            ([2, 0, 0], vec!["1", "2"]),
            ([9, 0, 0], vec![]),
            ([0, 15, 0], vec!["1", "2", "3"]),
            ([0, 0, 5], vec!["1", "3", "4"]),
            // Never pulled, but pushed not long ago.
            ([0, 0, 25], vec!["1"]),
            ([1, 25, 0], vec!["1", "2"]),
            ([1, 25, 5], vec!["1"]),
        ] {
            let rules = [rule("**", "?", keep)];
            assert_eq!(gone("a", &tags, &rules), expected, "{keep:?}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let tags = [("v1", 50, None), ("dev-1", 50, None), ("dev-2", 50, None)];
        let rules = [
            rule("other", "**", [0, 1, 0]),
            rule("team/*", "v*", [1, 0, 0]),
            rule("team/*", "**", [0, 60, 0]),
            rule("**", "**", [0, 1, 0]),
        ];
        assert!(gone("team/a", &tags, &rules).is_empty());
        assert_eq!(gone("x", &tags, &rules), ["v1", "dev-1", "dev-2"]);
        assert!(gone("x", &tags, &rules[..3]).is_empty(), "no rule, no end");
    }

    #[test]
    fn history_tags_pushed_at_once_go_by_their_names() {
        let tags = [
            ("20260101", 5, None),
            ("20260103", 5, None),
            ("20260102", 5, None),
        ];
        let rules = [rule("workspace/*", "????????", [2, 0, 0])];
        assert_eq!(gone("workspace/7", &tags, &rules), ["20260101"]);
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing() {
        let facts = TagFacts {
            tag: "a".to_owned(),
            pushed: NOW + DAY,
            pulled: None,
        };
        let rules = [rule("**", "**", [0, 1, 0])];
        let verdicts = decide("a", &[facts], &rules, NOW);
        assert_eq!(verdicts, [Verdict::KeptPushed]);
    }
}
