//! From each layer's own notation to keys and values.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Raw};
use super::tables;
use super::{Flag, Origin, Settings, SettingsError, SourceFile};
use crate::jsonc::{Document, Located, Member, Node, Value};
use crate::suggest;

/// Variables of ours that are no settings: the client and its daemon use them between each other.
const PREFIX: &str = "DEVPOD_";

pub(super) fn json(file: SourceFile<'_>) -> Result<Document, SettingsError> {
    let empty = file.text.trim().is_empty();
    Document::parse(if empty { "{}" } else { file.text }).map_err(|at| in_file(file, at))
}

/// TOML becomes the same tree, so that one walk reads both.
pub(super) fn toml(file: SourceFile<'_>) -> Result<Document, SettingsError> {
    let table = DeTable::parse(file.text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let first = error.message().lines().next().unwrap_or("syntax error");
        in_file(file, Located::new(file.text, at, first))
    })?;
    let root = Node {
        at: 0,
        value: object(table.get_ref()),
    };
    Ok(Document::from_tree(file.text, root))
}

fn object(table: &DeTable<'_>) -> Value {
    Value::Object(
        table
            .iter()
            .map(|(key, value)| Member {
                key: key.get_ref().to_string(),
                at: key.span().start,
                node: node(value),
            })
            .collect(),
    )
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let tree = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(date) => Value::Text(date.to_string()),
        DeValue::Array(list) => Value::List(list.iter().map(node).collect()),
        DeValue::Table(table) => object(table),
    };
    Node {
        at: value.span().start,
        value: tree,
    }
}

fn in_file(file: SourceFile<'_>, at: Located) -> SettingsError {
    SettingsError::File {
        path: file.path.to_owned(),
        at,
    }
}

impl Settings {
    pub(super) fn apply_file(
        &mut self,
        file: SourceFile<'_>,
        document: Document,
    ) -> Result<(), SettingsError> {
        document.cursor().map_err(|at| in_file(file, at))?;
        self.apply_node(file, &document, "", &document.root)
    }

    fn apply_node(
        &mut self,
        file: SourceFile<'_>,
        document: &Document,
        name: &str,
        node: &Node,
    ) -> Result<(), SettingsError> {
        let Value::Object(members) = &node.value else {
            return self.apply_leaf(file, document, name, node);
        };
        for member in members.iter().filter(|member| member.key != "$schema") {
            let name = match name {
                "" => member.key.clone(),
                section => format!("{section}.{}", member.key),
            };
            if let Some(table) = tables::find(&name) {
                let cursor = document.cursor_at(&member.node, &name);
                (table.read)(self, &cursor).map_err(|at| in_file(file, at))?;
                self.note_origin(file, document, table.name, member.at);
                continue;
            }
            if !keys::is_section(&name) && keys::find(&name).is_none() {
                let reason = format!("{name:?} is not a setting{}", keys::hint(&name));
                return Err(in_file(file, document.error(member.at, reason)));
            }
            self.apply_node(file, document, &name, &member.node)?;
        }
        Ok(())
    }

    fn apply_leaf(
        &mut self,
        file: SourceFile<'_>,
        document: &Document,
        name: &str,
        node: &Node,
    ) -> Result<(), SettingsError> {
        let error = |reason: String| in_file(file, document.error(node.at, reason));
        let Some(key) = keys::find(name) else {
            return Err(error(format!(
                "{name:?} is a section, with its settings inside"
            )));
        };
        let Some(raw) = raw(&node.value) else {
            return Err(error(format!(
                "{name:?} must be a string, a number or a list of strings"
            )));
        };
        (key.set)(self, &raw).map_err(|reason| error(format!("{name:?}: {reason}")))?;
        self.note_origin(file, document, key.name, node.at);
        Ok(())
    }

    fn note_origin(
        &mut self,
        file: SourceFile<'_>,
        document: &Document,
        key: &'static str,
        at: usize,
    ) {
        let origin = Origin::File {
            path: file.path.to_owned(),
            line: document.error(at, "").line,
        };
        self.origins.insert(key, origin);
    }

    /// An empty variable is as good as none.
    pub(super) fn apply_environment(
        &mut self,
        environment: &[(String, String)],
    ) -> Result<(), SettingsError> {
        for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let Some(key) = keys::KEYS.iter().find(|key| variable(key.name) == *name) else {
                self.suspect(name, rest);
                continue;
            };
            (key.set)(self, &Raw::Text(value.clone())).map_err(|reason| {
                SettingsError::Environment {
                    name: name.clone(),
                    reason,
                }
            })?;
            let origin = Origin::Environment { name: name.clone() };
            self.origins.insert(key.name, origin);
        }
        Ok(())
    }

    /// Other programs have `DEVPOD_*` variables too, so an unknown one is told only when it is near
    /// to one of ours.
    fn suspect(&mut self, name: &str, rest: &str) {
        let ours: Vec<String> = keys::KEYS.iter().map(|key| variable(key.name)).collect();
        let bare = ours.iter().filter_map(|name| name.strip_prefix(PREFIX));
        if let Some(near) = suggest::nearest(rest, bare) {
            self.warnings.push(format!(
                "environment variable {name} is ignored; did you mean {PREFIX}{near}?"
            ));
        }
    }

    pub(super) fn apply_flag(&mut self, flag: &Flag<'_>) -> Result<(), SettingsError> {
        let key = keys::find(flag.key).ok_or_else(|| SettingsError::Unknown {
            key: flag.key.to_owned(),
            hint: keys::hint(flag.key),
        })?;
        (key.set)(self, &Raw::Text(flag.value.to_owned())).map_err(|reason| {
            SettingsError::Flag {
                name: flag.name.to_owned(),
                reason,
            }
        })?;
        let origin = Origin::Flag {
            name: flag.name.to_owned(),
        };
        self.origins.insert(key.name, origin);
        Ok(())
    }
}

/// `registry.listen` is `DEVPOD_REGISTRY_LISTEN`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// `null` takes a value away, as the empty text does.
fn raw(value: &Value) -> Option<Raw> {
    Some(match value {
        Value::Null => Raw::Text(String::new()),
        Value::Bool(value) => Raw::Text(value.to_string()),
        Value::Number(text) | Value::Text(text) => Raw::Text(text.clone()),
        Value::List(items) => Raw::List(items.iter().map(item).collect::<Option<_>>()?),
        Value::Object(_) => return None,
    })
}

fn item(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) | Value::Number(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::{ByteSize, Cpu};
    use crate::settings::Sources;
    use std::path::Path;

    fn file<'a>(path: &'a str, text: &'a str) -> Option<SourceFile<'a>> {
        Some(SourceFile { path, text })
    }

    fn load(
        system: &str,
        user: &str,
        environment: &[(&str, &str)],
    ) -> Result<Settings, SettingsError> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::load(&Sources {
            system: file("config.toml", system),
            user: file("config.json", user),
            environment: &environment,
            home: Some(Path::new("/home/me")),
            euid: 1000,
            ..Sources::default()
        })
    }

    #[test]
    fn defaults_follow_the_person() {
        let settings = load("", "", &[]).unwrap();
        assert_eq!(settings.data, Path::new("/home/me/.local/share/devpod"));
        assert_eq!(settings.registry.listen.to_string(), "127.0.0.1:5000");
        let root = Settings::load(&Sources::default()).unwrap();
        assert_eq!(root.data, Path::new("/var/lib/devpod"));
        let homeless = Sources {
            euid: 1,
            ..Sources::default()
        };
        assert_eq!(Settings::load(&homeless), Err(SettingsError::NoHome));
    }

    #[test]
    fn each_layer_covers_the_one_before() {
        let system = "data = \"/srv\"\n[registry]\nlisten = \"0.0.0.0:80\"\n[builder]\ncpu = 4\nmemory = \"8Gi\"\n";
        let user = r#"{"endpoint": "http://cp:8080/", "registry": {"listen": "localhost:5001"},
                      "remote": {"plain_http": ["a:5000", "b.test"]}}"#;
        let environment = [
            ("DEVPOD_REGISTRY_LISTEN", "127.0.0.1:5002"),
            ("DEVPOD_DATA", ""),
            ("PATH", "/bin"),
        ];
        let settings = load(system, user, &environment).unwrap();
        assert_eq!(settings.data, Path::new("/srv"));
        assert_eq!(settings.registry.listen.port(), 5002);
        assert_eq!(settings.builder.cpu, Some(Cpu(4000)));
        assert_eq!(settings.builder.memory, Some(ByteSize(8 << 30)));
        assert_eq!(settings.endpoint.url.as_deref(), Some("http://cp:8080"));
        assert_eq!(settings.remote.plain_http, ["a:5000", "b.test"]);
        for (key, origin) in [
            ("data", "config.toml:1"),
            ("registry.listen", "environment DEVPOD_REGISTRY_LISTEN"),
            ("endpoint", "config.json:1"),
            ("remote.plain_http", "config.json:2"),
            ("remote.concurrency", "default"),
        ] {
            assert_eq!(settings.get(key).unwrap().origin.to_string(), origin);
        }
    }

    #[test]
    fn flags_win() {
        let flags = [Flag {
            name: "--data",
            key: "data",
            value: "/d",
        }];
        let environment = [("DEVPOD_DATA".to_owned(), "/e".to_owned())];
        let settings = Settings::load(&Sources {
            environment: &environment,
            flags: &flags,
            ..Sources::default()
        })
        .unwrap();
        assert_eq!(settings.data, Path::new("/d"));
        assert_eq!(
            settings.get("data").unwrap().origin.to_string(),
            "flag --data"
        );
    }

    #[test]
    fn complaints_name_file_and_place() {
        for (system, user, expected) in [
            ("x = 1\n", "", "config.toml:1:1: \"x\" is not a setting"),
            (
                "[registry]\nlisten = 5\n",
                "",
                "config.toml:2:10: \"registry.listen\": \"5\" is not an address",
            ),
            (
                "[remote]\nconcurency = 5\n",
                "",
                "config.toml:2:1: \"remote.concurency\" is not a setting; did you mean \"remote.concurrency\"?",
            ),
            (
                "[registry]\nsparse = [\"mirror/**\", \"A!\"]\n",
                "",
                "config.toml:2:10: \"registry.sparse\": pattern \"A!\" has a character",
            ),
            ("a = = 1\n", "", "config.toml:1:5: "),
            (
                "builder = 3\n",
                "",
                "config.toml:1:11: \"builder\" is a section",
            ),
            (
                "",
                "{\"builder\": {\"memory\": \"much\"}}",
                "config.json:1:24: \"builder.memory\": \"much\" is not a size",
            ),
            (
                "",
                "{\"data\": {\"x\": 1}}",
                "config.json:1:11: \"data.x\" is not a setting",
            ),
            (
                "",
                "{\"data\": \"rel\"}",
                "config.json:1:10: \"data\": \"rel\" is not an absolute path",
            ),
            ("", "[]", "config.json:1:1: the file must be an object"),
            (
                "",
                "{\"remote\": {\"concurrency\": 0}}",
                "config.json:1:28: ",
            ),
            ("", "{\"endpoint\": \"ftp://x\"}", "config.json:1:14: "),
        ] {
            let error = load(system, user, &[]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = load("", "", &[("DEVPOD_BUILDER_TIMEOUT", "soon")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("environment variable DEVPOD_BUILDER_TIMEOUT:")
        );
    }

    #[test]
    fn a_mistyped_variable_is_told() {
        let settings = load(
            "",
            "",
            &[
                ("DEVPOD_REGISTRY_LISEN", "x"),
                ("DEVPOD_WORKSPACE_UID", "y"),
            ],
        );
        let warnings = settings.unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("DEVPOD_REGISTRY_LISTEN"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_secret_is_never_shown() {
        let settings = load("", r#"{"endpoint": {"api_key": "cp_0.hush"}}"#, &[]).unwrap();
        assert_eq!(
            settings.endpoint.api_key.as_ref().unwrap().reveal(),
            "cp_0.hush"
        );
        assert!(!format!("{settings:?} {:?}", settings.list()).contains("hush"));
    }
}
