//! Tags that neither move nor go. Pure.

use std::sync::Arc;

use config::registry::access;

/// Which tags of which repositories are immutable once they are there. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Immutable(Arc<[access::Immutable]>);

impl Immutable {
    pub fn new(settings: &[access::Immutable]) -> Self {
        Self(settings.into())
    }

    /// Whether any tag of the repository may be.
    pub fn concerns(&self, repository: &str) -> bool {
        self.0
            .iter()
            .any(|setting| setting.repositories.matches(repository))
    }

    /// Whether this tag is.
    pub fn holds(&self, repository: &str, tag: &str) -> bool {
        self.0.iter().any(|setting| {
            setting.repositories.matches(repository)
                && setting.tags.iter().any(|pattern| pattern.matches(tag))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_patterns_must_match() {
        let setting = |repositories: &str, tags: &[&str]| access::Immutable {
            repositories: repositories.parse().unwrap(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        };
        let immutable = Immutable::new(&[
            setting("team/**", &["v*", "release-*"]),
            setting("exact", &["**"]),
        ]);
        for (repository, tag, expected) in [
            ("team/app", "v1", true),
            ("team/app", "release-1", true),
            ("team/app", "latest", false),
            ("team", "v1", false),
            ("exact", "latest", true),
        ] {
            assert_eq!(
                immutable.holds(repository, tag),
                expected,
                "{repository}:{tag}"
            );
        }
        assert!(immutable.concerns("team/x") && !immutable.concerns("other"));
    }
}
