//! Settings that are lists of tables: they stand in the settings files only.
//!
//! A later file's list takes the place of an earlier one's.

use super::Settings;
use crate::jsonc::{Cursor, Located};
use crate::registry::{access, quota, retention, upstream, webhook};
use crate::remote;

pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) read: fn(&mut Settings, &Cursor<'_>) -> Result<(), Located>,
    /// In a word; `None` where nothing is set.
    pub(super) show: fn(&Settings) -> Option<String>,
}

pub(super) const TABLES: &[Table] = &[
    Table {
        name: "registry.quotas",
        help: "bytes that repositories may hold: repositories, bytes",
        read: |s, cursor| quota::read(cursor).map(|v| s.registry.quotas = v),
        show: |s| count(s.registry.quotas.len()),
    },
    Table {
        name: "registry.rules",
        help: "who may do what: repositories, users, actions",
        read: |s, cursor| access::read_rules(cursor).map(|v| s.registry.access.rules = v),
        show: |s| count(s.registry.access.rules.len()),
    },
    Table {
        name: "registry.immutable",
        help: "tags that neither move nor go: repositories, tags",
        read: |s, cursor| access::read_immutable(cursor).map(|v| s.registry.access.immutable = v),
        show: |s| count(s.registry.access.immutable.len()),
    },
    Table {
        name: "registry.retention",
        help: "how long tags are kept: repositories, tags, keep_last, keep_for, keep_pulled_for",
        read: |s, cursor| retention::read(cursor).map(|v| s.registry.retention = v),
        show: |s| count(s.registry.retention.len()),
    },
    Table {
        name: "registry.upstreams",
        help: "registries that are mirrored: host, url, prefix, default, tags_ttl, plain_http, credentials",
        read: |s, cursor| upstream::read(cursor).map(|v| s.registry.upstreams = v),
        show: |s| count(s.registry.upstreams.len()),
    },
    Table {
        name: "remote.registries",
        help: "registries with something of their own: host, mirrors, ca_file, client_certificate, client_key",
        read: |s, cursor| remote::read(cursor).map(|v| s.remote.registries = v),
        show: |s| count(s.remote.registries.len()),
    },
    Table {
        name: "registry.webhooks",
        help: "who is told of events: name, url, events, repositories, secret_file",
        read: |s, cursor| webhook::read(cursor).map(|v| s.registry.webhooks = v),
        show: |s| count(s.registry.webhooks.len()),
    },
];

pub(super) fn find(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

fn count(items: usize) -> Option<String> {
    (items > 0).then(|| format!("{items} in all"))
}

#[cfg(test)]
mod tests {
    use crate::settings::{Settings, SourceFile, Sources, edit};

    fn load(toml: &str) -> Result<Settings, String> {
        let sources = Sources {
            system: Some(SourceFile {
                path: "config.toml",
                text: toml,
            }),
            ..Sources::default()
        };
        let flags = [crate::settings::Flag {
            name: "--data",
            key: "data",
            value: "/d",
        }];
        let sources = Sources {
            flags: &flags,
            ..sources
        };
        Settings::load(&sources).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_lists_of_tables() {
        let text = "[[registry.quotas]]\nrepositories = \"team/**\"\nbytes = \"10Gi\"\n\
                    [[registry.quotas]]\nrepositories = \"**\"\nbytes = 1024\n";
        let settings = load(text).unwrap();
        let quotas = &settings.registry.quotas;
        assert_eq!(quotas.len(), 2);
        assert!(quotas[0].repositories.matches("team/a/b"));
        assert_eq!(quotas[1].bytes.0, 1024);
        let shown = settings.get("registry.quotas").unwrap();
        assert_eq!(shown.value.as_deref(), Some("2 in all"));
        assert_eq!(shown.origin.to_string(), "config.toml:1");
    }

    #[test]
    fn says_which_line_is_wrong() {
        for (text, expected) in [
            (
                "[[registry.quotas]]\nrepositories = \"a\"\n",
                "config.toml:1:1: \"bytes\" is missing",
            ),
            (
                "[[registry.quotas]]\nrepositories = \"a b\"\nbytes = 1\n",
                "config.toml:2:16: \"registry.quotas.0.repositories\": pattern",
            ),
            (
                "[[registry.quotas]]\nrepositores = \"a\"\nbytes = 1\n",
                "config.toml:2:1: \"repositores\" is not known here; did you mean \"repositories\"?",
            ),
            (
                "[registry]\nquotas = 3\n",
                "config.toml:2:10: \"registry.quotas\" must be a list",
            ),
            (
                "[[registry.quota]]\nbytes = 1\n",
                "config.toml:1:12: \"registry.quota\" is not a setting; did you mean \"registry.quotas\"?",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn reads_retention() {
        let text = "[[registry.retention]]\nrepositories = \"workspace/*\"\ntags = \"*\"\n\
                    keep_last = 10\nkeep_for = \"30d\"\n";
        let settings = load(text).unwrap();
        let [rule] = settings.registry.retention.as_slice() else {
            panic!("one rule");
        };
        assert_eq!(rule.keep_last, Some(10));
        assert_eq!(rule.keep_for.map(|seconds| seconds.0), Some(30 * 86_400));
        assert_eq!(rule.keep_pulled_for, None);
        for (keep, expected) in [
            (
                "",
                "config.toml:1:1: a rule needs \"keep_last\", \"keep_for\" or",
            ),
            (
                "keep_for = \"soon\"\n",
                "config.toml:4:12: \"registry.retention.0.keep_for\": \"soon\" is not a duration",
            ),
            (
                "keep_lst = 3\n",
                "config.toml:4:1: \"keep_lst\" is not known here; did you mean \"keep_last\"?",
            ),
        ] {
            let text =
                format!("[[registry.retention]]\nrepositories = \"a\"\ntags = \"*\"\n{keep}");
            let error = load(&text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn one_word_cannot_set_them() {
        let error = edit::set("{}", "registry.quotas", "x").unwrap_err();
        assert!(error.to_string().contains("list of tables"), "{error}");
    }
}
