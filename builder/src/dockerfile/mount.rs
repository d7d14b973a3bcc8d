//! `RUN --mount=…` (Dockerfile reference, "RUN --mount").
//!
//! Values may hold variables, so a flag is read twice: when the file is parsed, for what can be known
//! then, and by [`MountFlag::resolve`] when its step is solved. A key that means nothing for a mount's
//! type is refused, never dropped.

use super::csv;
use super::expand::{Env, ExpandError, Lexer};
use super::source::Word;
use super::suggest::closest;

const TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: &[&str] = &["shared", "private", "locked"];
const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

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

/// The options of a flag, before it is known which its type allows.
#[derive(Debug, Default)]
struct Options {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    id: Option<String>,
    sharing: Option<Sharing>,
    required: Option<bool>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

impl Options {
    fn add(&mut self, key: &str, value: Option<String>) -> Result<(), MountError> {
        match key {
            "readonly" | "ro" => return set(&mut self.read_only, key, truth(key, value)?),
            "readwrite" | "rw" => return set(&mut self.read_only, key, !truth(key, value)?),
            "required" => return set(&mut self.required, key, truth(key, value)?),
            key if !KEYS.contains(&key) => {
                let key = key.to_owned();
                return Err(MountError::Key { key });
            }
            _ => {}
        }
        let value = value.ok_or_else(|| MountError::NoValue {
            key: key.to_owned(),
        })?;
        match key {
            "type" => set(&mut self.kind, key, value.to_ascii_lowercase()),
            "from" => set(&mut self.from, key, value),
            "source" | "src" => set(&mut self.source, key, value),
            "target" | "dst" | "destination" => set(&mut self.target, key, value),
            "id" => set(&mut self.id, key, value),
            "env" => set(&mut self.env, key, value),
            "sharing" => set(&mut self.sharing, key, sharing(value)?),
            "size" => set(&mut self.size, key, size(value)?),
            "mode" => set(&mut self.mode, key, number(key, value, 8)?),
            "uid" => set(&mut self.uid, key, number(key, value, 10)?),
            "gid" => set(&mut self.gid, key, number(key, value, 10)?),
            key => Err(MountError::Key {
                key: key.to_owned(),
            }),
        }
    }

    fn mount(mut self) -> Result<Mount, MountError> {
        let name = self.kind.take().unwrap_or_else(|| "bind".to_owned());
        self.refuse_foreign(&name)?;
        let kind = self.kind(&name)?;
        let writable = matches!(kind, MountKind::Cache { .. } | MountKind::Tmpfs { .. });
        let source = match kind {
            MountKind::Secret { .. } => None,
            _ => self.source,
        };
        Ok(Mount {
            kind,
            from: self.from,
            source,
            target: self.target,
            read_only: self.read_only.unwrap_or(!writable),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        })
    }

    fn kind(&self, name: &str) -> Result<MountKind, MountError> {
        let id = self.id.clone();
        let required = self.required.unwrap_or(false);
        Ok(match name {
            "bind" => MountKind::Bind,
            "cache" => MountKind::Cache {
                id,
                sharing: self.sharing.unwrap_or_default(),
            },
            "tmpfs" => MountKind::Tmpfs { size: self.size },
            "secret" => MountKind::Secret {
                id: self.secret_id()?,
                required,
                env: self.env.clone(),
            },
            "ssh" => MountKind::Ssh { id, required },
            value => {
                let value = value.to_owned();
                return Err(MountError::Type { value });
            }
        })
    }

    /// The id, or its older spelling, or the last component of the target.
    fn secret_id(&self) -> Result<String, MountError> {
        match (&self.id, &self.source, &self.target) {
            (Some(_), Some(_), _) => Err(MountError::SecretTwoIds),
            (Some(id), ..) | (None, Some(id), _) if !id.is_empty() => Ok(id.clone()),
            (.., Some(target)) => {
                let target = target.trim_end_matches('/');
                let base = target.rsplit('/').next().unwrap_or_default();
                match base.is_empty() {
                    true => Err(MountError::SecretWithoutId),
                    false => Ok(base.to_owned()),
                }
            }
            _ => Err(MountError::SecretWithoutId),
        }
    }

    /// Which options each type has: Dockerfile reference, the tables of "RUN --mount=type=…".
    fn refuse_foreign(&self, kind: &str) -> Result<(), MountError> {
        let given = [
            ("from", self.from.is_some()),
            ("source", self.source.is_some()),
            ("id", self.id.is_some()),
            ("sharing", self.sharing.is_some()),
            ("required", self.required.is_some()),
            ("size", self.size.is_some()),
            ("mode", self.mode.is_some()),
            ("uid", self.uid.is_some()),
            ("gid", self.gid.is_some()),
            ("env", self.env.is_some()),
        ];
        let allowed: &[&str] = match kind {
            "bind" => &["from", "source"],
            "cache" => &["from", "source", "id", "sharing", "mode", "uid", "gid"],
            "tmpfs" => &["size"],
            "secret" => &["source", "id", "required", "mode", "uid", "gid", "env"],
            "ssh" => &["id", "required", "mode", "uid", "gid"],
            _ => return Ok(()),
        };
        let foreign = given
            .iter()
            .find(|(key, given)| *given && !allowed.contains(key));
        match foreign {
            None => Ok(()),
            Some((key, _)) => Err(MountError::NotFor {
                key: (*key).to_owned(),
                kind: kind.to_owned(),
            }),
        }
    }
}

fn set<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), MountError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(MountError::Twice {
            key: key.to_owned(),
        }),
    }
}

fn refused(key: &str, value: String, expected: &'static str) -> MountError {
    MountError::Value {
        key: key.to_owned(),
        value,
        expected,
    }
}

/// A key alone means true.
fn truth(key: &str, value: Option<String>) -> Result<bool, MountError> {
    let Some(value) = value else {
        return Ok(true);
    };
    match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(refused(key, value, "true or false")),
    }
}

fn sharing(value: String) -> Result<Sharing, MountError> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(refused("sharing", value, "shared, private or locked")),
    }
}

fn number(key: &str, value: String, radix: u32) -> Result<u32, MountError> {
    let expected = match radix {
        8 => "an octal number",
        _ => "a number",
    };
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match u32::from_str_radix(&value, radix) {
        Ok(number) if digits => Ok(number),
        _ => Err(refused(key, value, expected)),
    }
}

/// Bytes with a binary suffix: `64m`, `1.5g`, `512KiB`.
fn size(value: String) -> Result<u64, MountError> {
    let lower = value.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = lower.get(digits.len()..).unwrap_or_default();
    let shift = match suffix {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(refused("size", value, "bytes, as in 64m")),
    };
    scaled(digits.trim_end(), shift).ok_or_else(|| refused("size", value, "bytes, as in 64m"))
}

/// Decimal digits times a power of two, in integers: thousandths are precise enough.
fn scaled(digits: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return None;
    }
    let unit = 1_u64 << shift;
    let thousandths: u64 = format!("{fraction}00").get(..3)?.parse().ok()?;
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    whole.checked_add(unit / 1000 * thousandths + unit % 1000 * thousandths / 1000)
}
