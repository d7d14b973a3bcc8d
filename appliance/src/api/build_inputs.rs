//! What a build reads beside its context, as it crosses the control API.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use builder::lint::Warning;
use serde::{Deserialize, Serialize};

/// Part of a build's request. Paths are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildInputs {
    /// What stands for a stage or an image, by its name.
    pub contexts: BTreeMap<String, ContextInput>,
    /// By id.
    pub secrets: BTreeMap<String, SecretInput>,
    /// Sockets of ssh agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// The address of a git repository that is the context itself.
    pub repository: Option<String>,
    /// Where results of other hosts are looked for, in this order.
    pub cache_from: Vec<CacheFrom>,
    pub cache_to: Vec<CacheTo>,
}

/// A cache that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheFrom {
    /// A cache, or an image that has one in it.
    Registry(String),
    Local(LayoutImage),
}

/// A cache that is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTo {
    pub place: CachePlace,
    /// Results of all steps, not only of those that the image is made of.
    pub max: bool,
    /// That it cannot be written is a warning.
    pub ignore_error: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePlace {
    Registry(String),
    Local {
        folder: PathBuf,
        tag: Option<String>,
    },
    /// The image's own configuration.
    Inline,
}

/// What is meant in an OCI image layout: by digest, by tag, or the only one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutImage {
    pub folder: PathBuf,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextInput {
    Folder(PathBuf),
    Image(String),
    Layout(LayoutImage),
    /// The address of a git repository.
    Repository(String),
}

/// A secret: text, or bytes that are none, as base64. Nothing shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretInput(Value);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bytes {
        #[serde(with = "encoded")]
        base64: Vec<u8>,
    },
}

mod encoded {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        // What is wrong with it is not told: it is a secret.
        let bytes = STANDARD.decode(text);
        bytes.map_err(|_| D::Error::custom("a secret is not base64"))
    }
}

impl SecretInput {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text),
            Err(error) => Value::Bytes {
                base64: error.into_bytes(),
            },
        })
    }

    pub fn bytes(&self) -> Vec<u8> {
        match &self.0 {
            Value::Text(text) => text.as_bytes().to_vec(),
            Value::Bytes { base64 } => base64.clone(),
        }
    }
}

impl fmt::Debug for SecretInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretInput(..)")
    }
}

/// The answer to `build --check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// The Dockerfile.
    pub file: String,
    pub warnings: Vec<Warning>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_any_bytes_cross_over() {
        for bytes in [
            b"hush".to_vec(),
            vec![0, 255, 128],
            vec![255; 9000],
            Vec::new(),
        ] {
            let secret = SecretInput::new(bytes.clone());
            let text = serde_json::to_string(&secret).unwrap();
            assert!(text.len() < bytes.len() * 3 / 2 + 20, "{}", text.len());
            let back: SecretInput = serde_json::from_str(&text).unwrap();
            assert_eq!(back.bytes(), bytes);
        }
        for bad in ["[1,2]", "{\"base64\":\"hush!\"}"] {
            let error = serde_json::from_str::<SecretInput>(bad).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
