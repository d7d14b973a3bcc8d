//! The options of one mount: their values, and which type has which.

use super::{Mount, MountError, MountKind, Sharing};

/// Every key of every type.
pub(super) const KEYS: &[&str] = &[
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

/// The options of a flag, before it is known which its type allows.
#[derive(Debug, Default)]
pub(super) struct Options {
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
    pub(super) fn add(&mut self, key: &str, value: Option<String>) -> Result<(), MountError> {
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

    pub(super) fn mount(mut self) -> Result<Mount, MountError> {
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
