//! The one-word settings of who may do what in the registry; its tables are in [`super::tables`].

use std::path::PathBuf;

use super::keys::{Key, Kind, Raw, absolute, hosts, number, one, optional};

const fn key(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    set: fn(&mut super::Settings, &Raw) -> Result<(), String>,
    get: fn(&super::Settings) -> Option<String>,
) -> Key {
    Key {
        name,
        help,
        kind,
        secret: false,
        set,
        get,
    }
}

pub(super) const ANONYMOUS: Key = key(
    "registry.anonymous",
    "what people without credentials may do: none, pull or push",
    Kind::Text,
    |s, raw| optional(raw).map(|v| s.registry.access.anonymous = v),
    |s| s.registry.access.anonymous.map(|v| v.to_string()),
);

pub(super) const HTPASSWD: Key = key(
    "registry.htpasswd",
    "file of users and bcrypt hashes (htpasswd -B)",
    Kind::Text,
    |s, raw| file(raw).map(|v| s.registry.access.htpasswd = v),
    |s| shown(s.registry.access.htpasswd.as_ref()),
);

pub(super) const AUTH: Key = key(
    "registry.auth",
    "how clients are asked for credentials: basic or token",
    Kind::Text,
    |s, raw| optional(raw).map(|v| s.registry.access.challenge = v),
    |s| s.registry.access.challenge.map(|v| v.to_string()),
);

pub(super) const TOKEN_REALM: Key = key(
    "registry.token_realm",
    "address where clients get tokens, if not from this registry",
    Kind::Text,
    |s, raw| realm(raw).map(|v| s.registry.access.token_realm = v),
    |s| s.registry.access.token_realm.clone(),
);

pub(super) const TOKEN_SERVICE: Key = key(
    "registry.token_service",
    "name of this registry in tokens",
    Kind::Text,
    |s, raw| word(raw).map(|v| s.registry.access.token_service = v),
    |s| s.registry.access.token_service.clone(),
);

pub(super) const TOKEN_ISSUER: Key = key(
    "registry.token_issuer",
    "name of another issuer in its tokens",
    Kind::Text,
    |s, raw| word(raw).map(|v| s.registry.access.token_issuer = v),
    |s| s.registry.access.token_issuer.clone(),
);

pub(super) const TOKEN_KEYS: Key = key(
    "registry.token_keys",
    "file of another issuer's public keys: PEM or a JWK set",
    Kind::Text,
    |s, raw| file(raw).map(|v| s.registry.access.token_keys = v),
    |s| shown(s.registry.access.token_keys.as_ref()),
);

pub(super) const HOSTS: Key = key(
    "registry.hosts",
    "further names by which programs of this machine call the registry",
    Kind::List,
    |s, raw| hosts(raw).map(|v| s.registry.access.hosts = v),
    |s| Some(s.registry.access.hosts.join(",")),
);

pub(super) const RATE_LIMIT: Key = key(
    "registry.rate_limit",
    "requests per second of one caller, 0 for no limit",
    Kind::Number,
    |s, raw| number(raw, 0, 1_000_000).map(|v| s.registry.access.rate_limit = v as u32),
    |s| Some(s.registry.access.rate_limit.to_string()),
);

pub(super) const RATE_BURST: Key = key(
    "registry.rate_burst",
    "requests that one caller may send at once, 0 for twice the limit",
    Kind::Number,
    |s, raw| number(raw, 0, 1_000_000).map(|v| s.registry.access.rate_burst = v as u32),
    |s| Some(s.registry.access.rate_burst.to_string()),
);

pub(super) const AUDIT_LOG: Key = key(
    "registry.audit_log",
    "file that gets a line of JSON for each change and refusal",
    Kind::Text,
    |s, raw| file(raw).map(|v| s.registry.access.audit_log = v),
    |s| shown(s.registry.access.audit_log.as_ref()),
);

pub(super) const AUDIT_PULLS: Key = key(
    "registry.audit_pulls",
    "whether pulls go to the audit log too: true or false",
    Kind::Text,
    |s, raw| truth(raw).map(|v| s.registry.access.audit_pulls = v),
    |s| Some(s.registry.access.audit_pulls.to_string()),
);

/// Empty text takes the value away.
fn file(raw: &Raw) -> Result<Option<PathBuf>, String> {
    match one(raw)? {
        "" => Ok(None),
        _ => absolute(raw).map(Some),
    }
}

fn shown(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

fn truth(raw: &Raw) -> Result<bool, String> {
    match one(raw)? {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        text => Err(format!("{text:?} is not true or false")),
    }
}

/// A name that stands between quotes in a header.
fn word(raw: &Raw) -> Result<Option<String>, String> {
    let text = one(raw)?;
    if text.contains(|c: char| !(c.is_ascii_graphic() || c == ' ') || c == '"' || c == '\\') {
        return Err(format!("{text:?} has a character that no header may quote"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn realm(raw: &Raw) -> Result<Option<String>, String> {
    match word(raw)? {
        Some(text) if !(text.starts_with("https://") || text.starts_with("http://")) => {
            Err(format!("{text:?} is not an http or https address"))
        }
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use crate::registry::access::{Action, Anonymous, Challenge, User};
    use crate::settings::{Flag, Settings, SourceFile, Sources};

    fn load(toml: &str) -> Result<Settings, String> {
        let flags = [Flag {
            name: "--data",
            key: "data",
            value: "/d",
        }];
        let sources = Sources {
            system: Some(SourceFile {
                path: "config.toml",
                text: toml,
            }),
            flags: &flags,
            ..Sources::default()
        };
        Settings::load(&sources).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_decided_by_default() {
        let access = load("").unwrap().registry.access;
        assert!(!access.is_decided());
        let access = load("[registry]\nanonymous = \"pull\"\n").unwrap();
        assert!(access.registry.access.is_decided());
        assert!(!access.registry.access.names_people());
    }

    #[test]
    fn reads_words_and_tables() {
        let text = "[registry]\nanonymous = \"pull\"\nhtpasswd = \"/etc/users\"\nauth = \"token\"\n\
                    rate_limit = 50\naudit_pulls = true\n\
                    [[registry.rules]]\nrepositories = \"team/**\"\nusers = [\"ann\", \"*\", \"anonymous\"]\n\
                    actions = [\"pull\", \"admin\"]\n\
                    [[registry.immutable]]\nrepositories = \"**\"\ntags = \"v*\"\n";
        let settings = load(text).unwrap();
        let access = &settings.registry.access;
        assert_eq!(access.anonymous, Some(Anonymous::Pull));
        assert_eq!(access.challenge, Some(Challenge::Token));
        assert_eq!(access.rate_limit, 50);
        assert!(access.audit_pulls);
        assert_eq!(
            access.rules[0].users,
            [
                User::Named("ann".to_owned()),
                User::AnyNamed,
                User::Anonymous
            ]
        );
        assert_eq!(access.rules[0].actions, [Action::Pull, Action::Admin]);
        assert!(access.immutable[0].tags[0].matches("v1.2"));
        let shown = settings.get("registry.htpasswd").unwrap();
        assert_eq!(shown.value.as_deref(), Some("/etc/users"));
        assert_eq!(shown.origin.to_string(), "config.toml:3");
    }

    #[test]
    fn says_which_line_is_wrong() {
        for (text, expected) in [
            (
                "[registry]\nanonymous = \"all\"\n",
                "config.toml:2:13: \"registry.anonymous\": \"all\" is not one of none, pull and push",
            ),
            (
                "[registry]\nhtpasswd = \"users\"\n",
                "config.toml:2:12: \"registry.htpasswd\": \"users\" is not an absolute path",
            ),
            (
                "[registry]\ntoken_service = \"a\\\"b\"\n",
                "config.toml:2:17: \"registry.token_service\": ",
            ),
            (
                "[registry]\ntoken_realm = \"ftp://x\"\n",
                "config.toml:2:15: \"registry.token_realm\": ",
            ),
            (
                "[registry]\naudit_pulls = \"yes\"\n",
                "config.toml:2:15: \"registry.audit_pulls\": ",
            ),
            (
                "[[registry.rules]]\nrepositories = \"**\"\nusers = \"*\"\nactions = [\"pull\", \"write\"]\n",
                "config.toml:4:20: \"registry.rules.0.actions.1\": \"write\" is not an action",
            ),
            (
                "[[registry.rules]]\nrepositories = \"**\"\nusers = []\nactions = \"pull\"\n",
                "config.toml:3:9: \"registry.rules.0.users\" is empty",
            ),
            (
                "[[registry.rules]]\nrepositories = \"**\"\nactions = \"pull\"\n",
                "config.toml:1:1: \"users\" is missing",
            ),
            (
                "[[registry.rules]]\nrepositories = \"**\"\nuser = \"a\"\nactions = \"pull\"\n",
                "config.toml:3:1: \"user\" is not known here; did you mean \"users\"?",
            ),
            (
                "[[registry.immutable]]\nrepositories = \"**\"\ntags = [\"v 1\"]\n",
                "config.toml:3:9: \"registry.immutable.0.tags.0\": pattern",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
