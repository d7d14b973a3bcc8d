//! What the settings allow whom. Pure.
//!
//! ```text
//! nothing set                     everybody may do everything
//! registry.anonymous              what nameless callers may do everywhere
//! users, no rules                 every named caller may pull, push and delete everywhere
//! rules                           a named caller may do what any rule that means it says
//! ```
//!
//! All of these add up; what nothing allows is denied. A named caller may always do what a nameless
//! one may.

use config::name::RepositoryName;
use config::registry::access::{Access, Action, Anonymous, Rule, User};

/// The settings as a decision.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    anonymous: Anonymous,
    names_people: bool,
    rules: Vec<Rule>,
}

impl Rules {
    pub(super) fn new(settings: &Access) -> Self {
        let names_people = settings.names_people();
        let default = if names_people {
            Anonymous::None
        } else {
            Anonymous::Push
        };
        Self {
            anonymous: settings.anonymous.unwrap_or(default),
            names_people,
            rules: settings.rules.clone(),
        }
    }

    /// Whether everybody may do everything, so that nobody needs to say who they are.
    pub(super) fn is_open(&self) -> bool {
        self.anonymous == Anonymous::Push && !self.names_people
    }

    /// Whether nameless callers may do anything at all.
    pub(super) fn knows_anonymous(&self) -> bool {
        let named = |rule: &Rule| rule.users.contains(&User::Anonymous);
        self.anonymous != Anonymous::None || self.rules.iter().any(named)
    }

    /// Whether rules were written, beside who the users are.
    pub(super) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether `user`, or with `None` a nameless caller, may do this to the repository.
    pub(super) fn allow(
        &self,
        user: Option<&str>,
        action: Action,
        repository: &RepositoryName,
    ) -> bool {
        let matches = |rule: &Rule| rule.repositories.matches(repository.as_str());
        self.allow_where(user, action, matches)
    }

    /// Whether `user` may do this to the registry as a whole: by a rule for `**`.
    pub(super) fn allow_everywhere(&self, user: Option<&str>, action: Action) -> bool {
        self.allow_where(user, action, |rule| rule.repositories.as_str() == "**")
    }

    fn allow_where(
        &self,
        user: Option<&str>,
        action: Action,
        matches: impl Fn(&Rule) -> bool,
    ) -> bool {
        if self.is_open() || self.allow_anonymous(action) {
            return true;
        }
        if user.is_some() && self.rules.is_empty() {
            return action != Action::Admin;
        }
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.actions.contains(&action) && means(rule, user) && matches(rule))
    }

    fn allow_anonymous(&self, action: Action) -> bool {
        match self.anonymous {
            Anonymous::None => false,
            Anonymous::Pull => action == Action::Pull,
            Anonymous::Push => action != Action::Admin,
        }
    }
}

fn means(rule: &Rule, user: Option<&str>) -> bool {
    rule.users.iter().any(|meant| match meant {
        User::Anonymous => true,
        User::AnyNamed => user.is_some(),
        User::Named(name) => user == Some(name.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(repositories: &str, users: &[&str], actions: &[Action]) -> Rule {
        Rule {
            repositories: repositories.parse().unwrap(),
            users: users.iter().map(|user| user.parse().unwrap()).collect(),
            actions: actions.to_vec(),
        }
    }

    /// What a caller may do, in one word: "lpda" for pull, push, delete and admin.
    fn letters(rules: &Rules, user: Option<&str>, repository: &str) -> String {
        let repository = repository.parse().unwrap();
        let all = [
            (Action::Pull, 'l'),
            (Action::Push, 'p'),
            (Action::Delete, 'd'),
            (Action::Admin, 'a'),
        ];
        let may = all
            .iter()
            .filter(|(action, _)| rules.allow(user, *action, &repository));
        may.map(|(_, letter)| letter).collect()
    }

    #[test]
    fn defaults_follow_what_is_set() {
        let users = Some("/etc/users".into());
        for (anonymous, htpasswd, nameless, named) in [
            (None, None, "lpda", "lpda"),
            (Some(Anonymous::Push), None, "lpda", "lpda"),
            (Some(Anonymous::Pull), None, "l", "lpd"),
            (Some(Anonymous::None), None, "", "lpd"),
            (None, users.clone(), "", "lpd"),
            (Some(Anonymous::Pull), users.clone(), "l", "lpd"),
            (Some(Anonymous::Push), users, "lpd", "lpd"),
        ] {
            let rules = Rules::new(&Access {
                anonymous,
                htpasswd,
                ..Access::default()
            });
            let found = (
                letters(&rules, None, "a/b"),
                letters(&rules, Some("ann"), "a/b"),
            );
            assert_eq!(found, (nameless.to_owned(), named.to_owned()));
            assert_eq!(rules.is_open(), nameless == "lpda");
        }
    }

    #[test]
    fn rules_add_up_and_the_rest_is_denied() {
        use Action::{Admin, Delete, Pull, Push};
        let rules = Rules::new(&Access {
            rules: vec![
                rule("public/**", &["anonymous"], &[Pull]),
                rule("team/**", &["*"], &[Pull]),
                rule("team/web", &["ann", "bob"], &[Push]),
                rule("team/*", &["ann"], &[Delete]),
                rule("**", &["root"], &[Pull, Push, Delete, Admin]),
            ],
            ..Access::default()
        });
        for (user, repository, expected) in [
            (None, "public/a", "l"),
            (None, "team/web", ""),
            (None, "public", ""),
            (Some("ann"), "public/a/b", "l"),
            (Some("ann"), "team/web", "lpd"),
            (Some("ann"), "team/web/deep", "l"),
            (Some("bob"), "team/web", "lp"),
            (Some("eve"), "team/web", "l"),
            (Some("eve"), "other", ""),
            (Some("root"), "other", "lpda"),
            // Words of the rules' language are no names of people.
            (Some("*"), "team/web", "l"),
            (Some("anonymous"), "public/a", "l"),
        ] {
            assert_eq!(
                letters(&rules, user, repository),
                expected,
                "{user:?} {repository}"
            );
        }
        assert!(rules.allow_everywhere(Some("root"), Admin));
        assert!(!rules.allow_everywhere(Some("ann"), Pull));
        assert!(rules.knows_anonymous() && !rules.is_open());
    }
}
