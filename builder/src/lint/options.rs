//! Which checks count: `skip=A,B;error=true;experimental=all`, as the directive `# check=`, the build
//! argument `BUILDKIT_DOCKERFILE_CHECK` and a comment over one instruction take it.
//!
//! A rule that is not known is passed over: it may be one of a newer BuildKit.

use super::rule::Rule;

/// Rules that are named, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Set {
    All,
    Named(Vec<Rule>),
}

impl Set {
    fn read(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(
                names
                    .split(',')
                    .filter_map(|n| n.trim().parse().ok())
                    .collect(),
            ),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Named(rules) => rules.contains(&rule),
        }
    }
}

/// What is skipped, and whether a finding ends the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    skip: Set,
    experimental: Set,
    pub error: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            skip: Set::Named(Vec::new()),
            experimental: Set::Named(Vec::new()),
            error: false,
        }
    }
}

/// Why a list of options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no option of build checks (skip=RULES, error=true or experimental=RULES)")]
pub struct OptionsError {
    pub text: String,
}

impl Options {
    /// Reads options that `;` separates.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for part in text.split(';').map(str::trim) {
            let refused = || OptionsError {
                text: part.to_owned(),
            };
            match part.split_once('=').map(|(key, value)| (key.trim(), value)) {
                None if text.trim().is_empty() => {}
                Some(("skip", rules)) => options.skip = Set::read(rules),
                Some(("experimental", rules)) => options.experimental = Set::read(rules),
                Some(("error", value)) => options.error = truth(value).ok_or_else(refused)?,
                _ => return Err(refused()),
            }
        }
        Ok(options)
    }

    /// Whether a finding counts, given the comments over its instruction.
    pub(super) fn allow(&self, rule: Rule, comments: &[&str]) -> bool {
        let own = comments.iter().find_map(|comment| own(comment));
        let own = own.unwrap_or_default();
        match rule.is_experimental() {
            true => self.experimental.has(rule) || own.experimental.has(rule),
            false => !self.skip.has(rule) && !own.skip.has(rule),
        }
    }
}

/// `# check=skip=RULE  and why` over an instruction; what cannot be read is an ordinary comment.
fn own(comment: &str) -> Option<Options> {
    let (name, value) = comment.split_once('=')?;
    let value = value.trim_start().split(' ').next()?;
    (name.trim().eq_ignore_ascii_case("check"))
        .then(|| Options::parse(value).ok())
        .flatten()
}

fn truth(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_say_what_counts() {
        let rule = Rule::StageNameCasing;
        let draft = Rule::InvalidDefinitionDescription;
        for (text, counts, experimental, error) in [
            ("", true, false, false),
            ("skip=StageNameCasing", false, false, false),
            (
                "skip=UndefinedVar, StageNameCasing;error=true",
                false,
                false,
                true,
            ),
            ("skip=all", false, false, false),
            ("error=1;experimental=all", true, true, true),
            (
                "experimental=InvalidDefinitionDescription",
                true,
                true,
                false,
            ),
            ("skip=OfTomorrow", true, false, false),
        ] {
            let options = Options::parse(text).unwrap();
            assert_eq!(options.allow(rule, &[]), counts, "{text}");
            assert_eq!(options.allow(draft, &[]), experimental, "{text}");
            assert_eq!(options.error, error, "{text}");
        }
        for bad in ["skip", "error=maybe", "speed=high", "skip=all;x"] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_comment_concerns_its_instruction() {
        let options = Options::default();
        let rule = Rule::StageNameCasing;
        for (comment, counts) in [
            ("check=skip=StageNameCasing because it is old", false),
            ("check=skip=all", false),
            ("check=skip=UndefinedVar", true),
            ("check skip=all", true),
            ("check=nonsense", true),
        ] {
            assert_eq!(
                options.allow(rule, &["first", comment]),
                counts,
                "{comment}"
            );
        }
    }
}
