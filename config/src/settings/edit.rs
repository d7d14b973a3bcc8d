//! `config set` and `config unset` as edits of the text: what else stands in the file stays, comments
//! and order included.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};

use super::keys::{self, Key, Kind, Raw};
use super::{Settings, SourceFile, layer, tables};
use crate::jsonc::{Document, Located};

/// Why the text was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("{key:?} is not a setting{hint}")]
    Unknown { key: String, hint: String },
    #[error("{key:?} is a list of tables, too much for one word: write it into the settings file")]
    Table { key: String },
    #[error("{key}: {reason}")]
    Value { key: String, reason: String },
    #[error("{0}")]
    Syntax(Located),
}

/// The text with `key` set to `value`. Both are checked first.
pub fn set(text: &str, key: &str, value: &str) -> Result<String, EditError> {
    let key = known(key)?;
    let mut probe = Settings::defaults(None, 0);
    (key.set)(&mut probe, &Raw::Text(value.to_owned())).map_err(|reason| EditError::Value {
        key: key.name.to_owned(),
        reason,
    })?;
    edit(text, |root| put(root, key, input(key, value)))
}

/// The text without `key`.
pub fn unset(text: &str, key: &str) -> Result<String, EditError> {
    let key = known(key)?;
    edit(text, |root| take(root, key))
}

fn known(name: &str) -> Result<&'static Key, EditError> {
    if let Some(table) = tables::find(name) {
        let name = table.name.to_owned();
        return Err(EditError::Table { key: name });
    }
    keys::find(name).ok_or_else(|| EditError::Unknown {
        key: name.to_owned(),
        hint: keys::hint(name),
    })
}

fn edit(text: &str, change: impl FnOnce(&CstObject)) -> Result<String, EditError> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let before = text.to_owned();
    let document = Document::parse(text).map_err(EditError::Syntax)?;
    document.cursor().map_err(EditError::Syntax)?;
    let root = CstRootNode::parse(text, &ParseOptions::default())
        .map_err(|error| Located::new(text, error.range().start, error.kind().to_string()))
        .map_err(EditError::Syntax)?;
    if let Some(object) = root.object_value() {
        change(&object);
    }
    let mut text = root.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // The complaint is about the text that the person knows.
    match check(&text) {
        Ok(()) => Ok(text),
        Err(fault) => Err(check(&before).err().unwrap_or(fault)),
    }
}

/// What is written must be read again without a complaint; other keys' faults are told here too,
/// rather than left for the next command to trip over.
fn check(text: &str) -> Result<(), EditError> {
    let file = SourceFile { path: "", text };
    let mut settings = Settings::defaults(None, 0);
    let result = layer::json(file).and_then(|document| settings.apply_file(file, document));
    match result {
        Err(super::SettingsError::File { at, .. }) => Err(EditError::Syntax(at)),
        _ => Ok(()),
    }
}

fn put(root: &CstObject, key: &Key, value: CstInputValue) {
    let Some((section, name)) = key.name.split_once('.') else {
        return put_in(root, key.name, value);
    };
    if let Some(object) = root.object_value(section) {
        return put_in(&object, name, value);
    }
    // A section may be a plain string, short for one of its keys; that one moves inside.
    let short = root.get(section).filter(|_| keys::alias(section).is_some());
    let short = short.and_then(|property| property.value()?.as_string_lit()?.decoded_value().ok());
    let object = root.object_value_or_set(section);
    if let (Some(text), Some((_, short_name))) = (
        short,
        keys::alias(section).and_then(|name| name.split_once('.')),
    ) {
        put_in(&object, short_name, CstInputValue::String(text));
    }
    put_in(&object, name, value);
}

fn put_in(object: &CstObject, name: &str, value: CstInputValue) {
    match object.get(name) {
        Some(property) => property.set_value(value),
        None => {
            object.append(name, value);
        }
    }
}

fn take(root: &CstObject, key: &Key) {
    let (section, name) = key.name.split_once('.').unwrap_or((key.name, ""));
    let Some(property) = root.get(section) else {
        return;
    };
    match property.object_value() {
        Some(object) if !name.is_empty() => {
            if let Some(inner) = object.get(name) {
                inner.remove();
            }
            if object.properties().is_empty() {
                property.remove();
            }
        }
        // A section that is a plain string goes only with the key that it is short for.
        None if !name.is_empty() && keys::alias(section) != Some(key.name) => {}
        _ => property.remove(),
    }
}

fn input(key: &Key, value: &str) -> CstInputValue {
    let value = value.trim();
    match key.kind {
        Kind::Number if value.parse::<u64>().is_ok() => CstInputValue::Number(value.to_owned()),
        Kind::List => CstInputValue::Array(
            value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| CstInputValue::String(item.to_owned()))
                .collect(),
        ),
        _ => CstInputValue::String(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> serde_json::Value {
        Document::parse(text).unwrap().root.to_json()
    }

    #[test]
    fn sets_and_keeps_the_rest() {
        let text = "{\n  // mine\n  \"data\": \"/d\", /* x */\n}\n";
        let text = set(text, "endpoint", "https://cp.test").unwrap();
        assert!(
            text.contains("// mine") && text.contains("/* x */"),
            "{text}"
        );
        let text = set(&text, "remote.plain_http", "a:1, b.test").unwrap();
        let text = set(&text, "registry.sparse", "mirror/**,old/?").unwrap();
        let text = set(&text, "builder.timeout", "60").unwrap();
        let text = set(&text, "data", "/e").unwrap();
        assert_eq!(
            json(&text),
            serde_json::json!({
                "data": "/e",
                "endpoint": {"url": "https://cp.test"},
                "remote": {"plain_http": ["a:1", "b.test"]},
                "registry": {"sparse": ["mirror/**", "old/?"]},
                "builder": {"timeout": 60},
            })
        );
        assert_eq!(
            json(&set("", "data", "/a").unwrap()),
            serde_json::json!({"data": "/a"})
        );
    }

    #[test]
    fn a_plain_section_becomes_an_object() {
        let text = set("{\"endpoint\": \"http://a\"}", "endpoint.api_key", "k").unwrap();
        assert_eq!(
            json(&text),
            serde_json::json!({"endpoint": {"url": "http://a", "api_key": "k"}})
        );
    }

    #[test]
    fn unsets() {
        let text = "{\"endpoint\": {\"url\": \"http://a\"}, \"data\": \"/d\"}";
        assert_eq!(
            json(&unset(text, "endpoint").unwrap()),
            serde_json::json!({"data": "/d"})
        );
        let short = "{\"endpoint\": \"http://a\"}";
        assert_eq!(
            json(&unset(short, "endpoint.api_key").unwrap()),
            json(short)
        );
        assert_eq!(
            json(&unset(short, "endpoint").unwrap()),
            serde_json::json!({})
        );
        assert_eq!(json(&unset("{}", "data").unwrap()), serde_json::json!({}));
    }

    #[test]
    fn refuses_before_it_writes() {
        for (text, key, value, expected) in [
            ("{}", "endpoit", "x", "\"endpoit\" is not a setting"),
            (
                "{}",
                "builder.cpu",
                "many",
                "builder.cpu: \"many\" is not a number of processors",
            ),
            (
                "{}",
                "builder.parallel",
                "0",
                "builder.parallel: \"0\" is not a number from 1 to 64",
            ),
            (
                "{}",
                "layers.memory",
                "0",
                "layers.memory: must be more than nothing",
            ),
            ("{", "data", "/d", "1:1: "),
            ("[]", "data", "/d", "1:1: the file must be an object"),
            (
                "{\"datta\": 1}",
                "data",
                "/d",
                "1:2: \"datta\" is not a setting",
            ),
        ] {
            let error = set(text, key, value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
