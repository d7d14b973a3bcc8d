//! What a client asks of the token service, and what of it is granted. Pure.
//!
//! A scope is `type:name:action,action` (Docker token specification, "Token scope grammar").

use config::name::RepositoryName;
use config::registry::access::Action;

use super::jwt::Grant;

const REPOSITORY: &str = "repository";
/// The scope of `_catalog`, as docker's registry calls it.
const REGISTRY: &str = "registry";
const CATALOG: &str = "catalog";
/// What people with credentials may want at once; a mount needs two.
pub const MAX_SCOPES: usize = 32;

/// A scope that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Repository(RepositoryName, Vec<Action>),
    Catalog,
}

impl Scope {
    /// `None` for what means nothing here; it is then not granted, as any that is not allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // A class, `repository(plugin)`, says what is kept there; it changes nothing.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        match kind {
            REPOSITORY => {
                let actions = actions.split(',').flat_map(meant).copied().collect();
                Some(Self::Repository(name.parse().ok()?, actions))
            }
            REGISTRY if name == CATALOG => Some(Self::Catalog),
            _ => None,
        }
    }

    /// The grant, cut down to the actions that `may` allows; `None` when none is left.
    pub fn granted(&self, may: impl Fn(&RepositoryName, Action) -> bool) -> Option<Grant> {
        match self {
            Self::Catalog => Some(Grant {
                kind: REGISTRY.to_owned(),
                name: CATALOG.to_owned(),
                actions: vec!["*".to_owned()],
            }),
            Self::Repository(name, actions) => {
                let mut actions = actions.clone();
                actions.sort_unstable();
                actions.dedup();
                actions.retain(|action| may(name, *action));
                (!actions.is_empty()).then(|| Grant {
                    kind: REPOSITORY.to_owned(),
                    name: name.to_string(),
                    actions: actions.iter().map(Action::to_string).collect(),
                })
            }
        }
    }
}

/// The actions that a word of a scope or a grant means. `*` is what docker's registry deletes with;
/// it never means admin.
fn meant(word: &str) -> &'static [Action] {
    match word {
        "pull" => &[Action::Pull],
        "push" => &[Action::Push],
        "delete" => &[Action::Delete],
        "*" => &[Action::Pull, Action::Push, Action::Delete],
        _ => &[],
    }
}

/// Whether the grants of a token allow this.
pub(super) fn allows(grants: &[Grant], action: Action, repository: &RepositoryName) -> bool {
    grants.iter().any(|grant| {
        let kind = grant.kind.split_once('(');
        kind.map_or(grant.kind.as_str(), |(kind, _)| kind) == REPOSITORY
            && grant.name == repository.as_str()
            && grant
                .actions
                .iter()
                .any(|word| meant(word).contains(&action))
    })
}

/// Whether the grants of a token allow the catalog.
pub(super) fn allows_catalog(grants: &[Grant]) -> bool {
    grants
        .iter()
        .any(|grant| grant.kind == REGISTRY && grant.name == CATALOG && !grant.actions.is_empty())
}

/// The scope that a request needs, as a challenge names it. A push reads too.
pub fn needed(action: Action, repository: &RepositoryName) -> String {
    let words = match action {
        Action::Pull => "pull",
        Action::Push => "pull,push",
        Action::Delete | Action::Admin => "delete",
    };
    format!("{REPOSITORY}:{repository}:{words}")
}

/// The scope of the catalog, as a challenge names it.
pub const CATALOG_SCOPE: &str = "registry:catalog:*";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant(text: &str, allowed: &[Action]) -> Option<Vec<String>> {
        let scope = Scope::parse(text)?;
        let grant = scope.granted(|_, action| allowed.contains(&action))?;
        Some(grant.actions)
    }

    #[test]
    fn scopes_are_cut_down_to_what_is_allowed() {
        use Action::{Delete, Pull, Push};
        for (text, allowed, expected) in [
            (
                "repository:a/b:pull,push",
                &[Pull, Push][..],
                Some("pull,push"),
            ),
            ("repository:a/b:pull,push", &[Pull], Some("pull")),
            ("repository:a/b:push", &[Pull], None),
            (
                "repository:a/b:*",
                &[Pull, Push, Delete, Action::Admin],
                Some("pull,push,delete"),
            ),
            ("repository(plugin):a:pull", &[Pull], Some("pull")),
            (
                "repository:a:pull,pull,admin,x",
                &[Pull, Action::Admin],
                Some("pull"),
            ),
            ("repository:a:", &[Pull], None),
            ("repository:A:pull", &[Pull], None),
            ("repository:a/../b:pull", &[Pull], None),
            ("registry:catalog:*", &[], Some("*")),
            ("registry:other:*", &[Pull], None),
            ("repository", &[Pull], None),
            ("", &[Pull], None),
        ] {
            let found = grant(text, allowed).map(|actions| actions.join(","));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_grant_is_for_its_repository_and_its_actions() {
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        let grants = [Scope::parse("repository:a/b:pull,push")
            .unwrap()
            .granted(|_, _| true)
            .unwrap()];
        assert!(allows(&grants, Action::Push, &name("a/b")));
        assert!(!allows(&grants, Action::Delete, &name("a/b")));
        for other in ["a", "a/b/c", "b", "a/bb", "x/a/b"] {
            assert!(!allows(&grants, Action::Pull, &name(other)), "{other}");
        }
        assert!(!allows_catalog(&grants));
        let starred = [Grant {
            kind: "repository".to_owned(),
            name: "*".to_owned(),
            actions: vec!["*".to_owned()],
        }];
        assert!(
            !allows(&starred, Action::Pull, &name("a")),
            "names are no patterns"
        );
        assert_eq!(
            needed(Action::Push, &name("a/b")),
            "repository:a/b:pull,push"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = Scope::parse(&text);
        }
    }
}
