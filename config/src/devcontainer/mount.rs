//! `mounts` and `workspaceMount`: docker's `--mount` syntax, or an object.

use serde::{Deserialize, Serialize};

use crate::jsonc::{Cursor, Located, Value};

/// Something that stands at `target` inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountKind {
    /// A folder or file of the host.
    Bind {
        source: String,
    },
    /// A named volume; an anonymous one has no name.
    Volume {
        name: Option<String>,
    },
    Tmpfs,
}

/// Why a mount was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("mount {text:?} has no target")]
    NoTarget { text: String },
    #[error("mount target {target:?} is not an absolute path")]
    Relative { target: String },
    #[error("bind mount {text:?} has no source")]
    NoSource { text: String },
    #[error("mount option {key:?} is not supported")]
    Option { key: String },
    #[error("mount type {kind:?} is not supported: use bind, volume or tmpfs")]
    Kind { kind: String },
    #[error(
        "volume name {name:?} may only have letters, digits, '_', '.' and '-', the first a letter or digit"
    )]
    Volume { name: String },
}

impl Mount {
    /// `type=bind,source=/a,target=/b,readonly`.
    pub fn parse(text: &str) -> Result<Self, MountError> {
        let fields = text
            .split(',')
            .map(str::trim)
            .filter(|field| !field.is_empty())
            .map(|field| field.split_once('=').unwrap_or((field, "true")));
        Self::from_fields(text, fields)
    }

    fn from_fields<'a>(
        text: &str,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, MountError> {
        // `volume` is docker's default for --mount.
        let (mut kind, mut source, mut target, mut read_only) = ("volume", None, None, false);
        for (key, value) in fields {
            match key.to_ascii_lowercase().as_str() {
                "type" => kind = value,
                "source" | "src" => source = Some(value.to_owned()),
                "target" | "destination" | "dst" => target = Some(value.to_owned()),
                "readonly" | "ro" => read_only = value != "false" && value != "0",
                // A hint for Docker Desktop that has no meaning on Linux.
                "consistency" => {}
                _ => return Err(MountError::Option { key: key.into() }),
            }
        }
        let target = target.ok_or_else(|| MountError::NoTarget { text: text.into() })?;
        if !target.starts_with('/') {
            return Err(MountError::Relative { target });
        }
        let kind = kind_of(kind, source, text)?;
        Ok(Self {
            kind,
            target,
            read_only,
        })
    }

    pub(super) fn read(cursor: &Cursor<'_>) -> Result<Self, Located> {
        let parsed = match &cursor.node.value {
            Value::Text(text) => Self::parse(text),
            Value::Object(_) => {
                let fields = cursor.scalars()?;
                let text = cursor.node.to_json().to_string();
                Self::from_fields(&text, fields.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            }
            _ => return Err(cursor.expected("a string or an object")),
        };
        parsed.map_err(|reason| cursor.error(reason.to_string()))
    }
}

fn kind_of(kind: &str, source: Option<String>, text: &str) -> Result<MountKind, MountError> {
    let source = source.filter(|source| !source.is_empty());
    match kind {
        "bind" => match source {
            Some(source) => Ok(MountKind::Bind { source }),
            None => Err(MountError::NoSource { text: text.into() }),
        },
        "volume" => match source {
            Some(name) if !is_volume_name(&name) => Err(MountError::Volume { name }),
            name => Ok(MountKind::Volume { name }),
        },
        "tmpfs" => Ok(MountKind::Tmpfs),
        _ => Err(MountError::Kind { kind: kind.into() }),
    }
}

/// docker's rule for volume names; it becomes a folder's name, so '/' and ".." are out.
pub fn is_volume_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dockers_syntax() {
        let mount = |kind, target: &str, read_only| Mount {
            kind,
            target: target.into(),
            read_only,
        };
        let bind = |source: &str| MountKind::Bind {
            source: source.into(),
        };
        let volume = |name: &str| MountKind::Volume {
            name: Some(name.into()),
        };
        for (text, expected) in [
            (
                "type=bind,source=/a b,target=/c",
                mount(bind("/a b"), "/c", false),
            ),
            (
                "source=/a,dst=/c,type=bind,readonly",
                mount(bind("/a"), "/c", true),
            ),
            (
                "type=bind,src=/a,target=/c,ro=false,consistency=cached",
                mount(bind("/a"), "/c", false),
            ),
            (
                "source=cache,target=/c",
                mount(volume("cache"), "/c", false),
            ),
            (
                "type=volume,target=/c",
                mount(MountKind::Volume { name: None }, "/c", false),
            ),
            ("type=tmpfs,target=/t", mount(MountKind::Tmpfs, "/t", false)),
        ] {
            assert_eq!(Mount::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_mount() {
        for text in [
            "",
            "type=bind,source=/a",
            "type=bind,target=/a",
            "type=bind,source=/a,target=b",
            "type=npipe,source=/a,target=/b",
            "type=volume,source=../x,target=/b",
            "type=volume,source=.,target=/b",
            "type=bind,source=/a,target=/b,bind-propagation=shared",
        ] {
            assert!(Mount::parse(text).is_err(), "{text:?}");
        }
    }
}
