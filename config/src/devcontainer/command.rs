//! Lifecycle commands: what is to be executed, in which form.

use serde::{Deserialize, Serialize};

use crate::jsonc::{Cursor, Located, Value};

/// One lifecycle command (specification, "Formatting string vs. array properties").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Goes through `/bin/sh -c`.
    Shell(String),
    /// Program and arguments; no shell.
    Argv(Vec<String>),
    /// Named commands that may run at the same time; all must succeed.
    Parallel(Vec<(String, Command)>),
}

impl Command {
    /// The argument vectors to be executed, each with its name inside an object.
    pub fn argvs(&self) -> Vec<(Option<&str>, Vec<String>)> {
        match self {
            Self::Parallel(named) => named
                .iter()
                .flat_map(|(name, command)| {
                    command
                        .argvs()
                        .into_iter()
                        .map(move |(_, argv)| (Some(name.as_str()), argv))
                })
                .collect(),
            Self::Shell(text) => vec![(None, vec!["/bin/sh".into(), "-c".into(), text.clone()])],
            Self::Argv(argv) => vec![(None, argv.clone())],
        }
    }

    /// `None` for an empty string, list or object: nothing to do.
    pub(super) fn read(cursor: &Cursor<'_>) -> Result<Option<Self>, Located> {
        let Value::Object(_) = cursor.node.value else {
            return simple(cursor);
        };
        let mut named = Vec::new();
        for (member, entry) in cursor.members()?.iter().zip(cursor.object()?) {
            if let Some(command) = simple(&entry)? {
                named.push((member.key.clone(), command));
            }
        }
        Ok((!named.is_empty()).then_some(Self::Parallel(named)))
    }
}

fn simple(cursor: &Cursor<'_>) -> Result<Option<Command>, Located> {
    match &cursor.node.value {
        Value::Text(text) if text.trim().is_empty() => Ok(None),
        Value::Text(text) => Ok(Some(Command::Shell(text.clone()))),
        Value::List(list) if list.is_empty() => Ok(None),
        Value::List(_) => Ok(Some(Command::Argv(cursor.texts()?))),
        _ => Err(cursor.expected("a string, a list of strings or an object of them")),
    }
}

/// The commands of a container's life, in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub on_create: Option<Command>,
    pub update_content: Option<Command>,
    pub post_create: Option<Command>,
    pub post_start: Option<Command>,
    pub post_attach: Option<Command>,
}

impl Lifecycle {
    pub(super) fn read(root: &Cursor<'_>) -> Result<Self, Located> {
        let command = |key| match root.get(key) {
            Some(cursor) => Command::read(&cursor),
            None => Ok(None),
        };
        Ok(Self {
            on_create: command("onCreateCommand")?,
            update_content: command("updateContentCommand")?,
            post_create: command("postCreateCommand")?,
            post_start: command("postStartCommand")?,
            post_attach: command("postAttachCommand")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonc::Document;

    fn read(text: &str) -> Result<Option<Command>, Located> {
        let document = Document::parse(&format!("{{\"c\": {text}}}")).unwrap();
        let cursor = document.cursor().unwrap().get("c").unwrap();
        Command::read(&cursor)
    }

    #[test]
    fn three_forms() {
        let shell = |text: &str| Command::Shell(text.into());
        let argv = |words: &[&str]| Command::Argv(words.iter().map(|w| (*w).into()).collect());
        for (text, expected) in [
            ("\"npm ci\"", Some(shell("npm ci"))),
            ("[\"npm\", \"ci\"]", Some(argv(&["npm", "ci"]))),
            (
                "{\"a\": \"x y\", \"b\": [\"z\"]}",
                Some(Command::Parallel(vec![
                    ("a".into(), shell("x y")),
                    ("b".into(), argv(&["z"])),
                ])),
            ),
            ("\" \"", None),
            ("[]", None),
            ("{}", None),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for bad in ["3", "[1]", "{\"a\": {\"b\": \"c\"}}", "{\"a\": true}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn becomes_argument_vectors() {
        let command = read("{\"a\": \"x y\", \"b\": [\"z\", \"$Q\"]}")
            .unwrap()
            .unwrap();
        assert_eq!(
            command.argvs(),
            [
                (
                    Some("a"),
                    vec!["/bin/sh".into(), "-c".into(), "x y".to_owned()]
                ),
                (Some("b"), vec!["z".into(), "$Q".to_owned()]),
            ]
        );
    }
}
