//! `RUN --mount=…` (Dockerfile reference, "RUN --mount").
//!
//! Values may hold variables, so a flag is read twice: when the file is parsed, for what can be known
//! then, and by [`MountFlag::resolve`] when its step is solved. A key that means nothing for a mount's
//! type is refused, never dropped.

mod options;

use super::csv;
use super::expand::{Env, ExpandError, Lexer};
use super::source::Word;
use super::suggest::closest;
use options::{KEYS, Options};

const TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: &[&str] = &["shared", "private", "locked"];

/// Why a `--mount` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("--mount={text} is not a list of key=value")]
    List { text: String },
    #[error("mount type {value:?} is not known")]
    Type { value: String },
    #[error("mount option {key:?} is not known")]
    Key { key: String },
    #[error("mount option {key:?} is given twice")]
    Twice { key: String },
    #[error("mount option {key:?} needs a value")]
    NoValue { key: String },
    #[error("mount option {key:?} means nothing for type {kind}")]
    NotFor { key: String, kind: String },
    #[error("mount option {key} takes {expected}, not {value:?}")]
    Value {
        key: String,
        value: String,
        expected: &'static str,
    },
    #[error("mount option from takes no variables")]
    FromVariable,
    #[error("a secret mount needs an id, a source or a target")]
    SecretWithoutId,
    #[error("a secret mount has an id and a source, which mean the same")]
    SecretTwoIds,
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

impl MountError {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Type { value } => Some(match closest(value, TYPES) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it is one of {}", TYPES.join(", ")),
            }),
            Self::Key { key } => closest(key, KEYS).map(|near| format!("did you mean {near}?")),
            Self::FromVariable => Some("name a stage with FROM and use that".to_owned()),
            Self::Value { key, value, .. } if key == "sharing" => {
                closest(value, SHARING).map(|near| format!("did you mean {near}?"))
            }
            _ => None,
        }
    }
}

/// One `--mount` as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    text: String,
    from: Option<String>,
}

impl MountFlag {
    /// Checks what does not depend on variables.
    pub(super) fn parse(text: &str, lexer: &Lexer) -> Result<Self, MountError> {
        let from = split(text)?
            .into_iter()
            .rev()
            .find_map(|(key, value)| value.filter(|_| key == "from"));
        if from.as_deref().is_some_and(has_variable) {
            return Err(MountError::FromVariable);
        }
        let flag = Self {
            text: text.to_owned(),
            from,
        };
        if !text.contains('$') {
            flag.resolve(lexer, &())?;
        }
        Ok(flag)
    }

    /// The stage, context or image this mount needs: known before expansion, since `from` cannot
    /// hold variables.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    /// The flag's value as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Replaces the variables and checks the result.
    pub fn resolve(&self, lexer: &Lexer, env: &(impl Env + ?Sized)) -> Result<Mount, MountError> {
        let mut options = Options::default();
        for (key, value) in split(&self.text)? {
            let value = value.map(|value| lexer.word(&Word::new(value), env));
            options.add(&key, value.transpose()?)?;
        }
        options.mount()
    }
}

/// The pairs of a flag, keys in lower case and by their first spelling.
fn split(text: &str) -> Result<Vec<(String, Option<String>)>, MountError> {
    let list = || MountError::List {
        text: text.to_owned(),
    };
    let fields = csv::fields(text).ok_or_else(list)?;
    let pairs = fields.iter().map(|field| match field.split_once('=') {
        Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
        None => (field.to_ascii_lowercase(), None),
    });
    Ok(pairs.collect())
}

/// A `$` that is not the last character.
fn has_variable(value: &str) -> bool {
    value.find('$').is_some_and(|at| at + 1 < value.len())
}

/// The kind of a mount, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache {
        id: Option<String>,
        sharing: Sharing,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: String,
        required: bool,
        /// The variable that gets the secret; an empty name stands for the id.
        env: Option<String>,
    },
    Ssh {
        id: Option<String>,
        required: bool,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// A mount with its variables replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// A stage's name or number, a named context or an image; absent: the build context (bind) or
    /// an empty folder (cache).
    pub from: Option<String>,
    /// Path below `from`.
    pub source: Option<String>,
    /// Absolute, or relative to WORKDIR; secrets and ssh have defaults.
    pub target: Option<String>,
    pub read_only: bool,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}
