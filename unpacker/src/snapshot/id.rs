//! The name of a snapshot: a folder name below `snapshots/`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};

/// `diff-<hex>` for a layer that is the same above any others (its diffID), `sha256-<hex>` for one
/// that leans on those below it (its chainID), `step-<hex>` for one run of a build step, and
/// `root-<hex>` for nothing but a root directory (what is said of it).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

/// A folder name that no snapshot of ours has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a snapshot's name")]
pub struct BadSnapshotId {
    pub text: String,
}

impl SnapshotId {
    pub fn of_chain(chain: &ChainId) -> Self {
        Self(chain.to_string().replace(':', "-"))
    }

    pub fn of_diff(diff: &DiffId) -> Self {
        Self(format!("diff-{}", diff.digest().digest()))
    }

    /// `text` is the digest of everything that is said of the directory.
    pub(crate) fn of_root(text: &Digest) -> Self {
        Self(format!("root-{}", text.digest()))
    }

    pub fn of_step(key: &Digest) -> Self {
        Self(format!("step-{}", key.digest()))
    }

    /// Whether it is one run of a build step, here and nowhere else.
    pub fn is_step(&self) -> bool {
        self.0.starts_with("step-")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = BadSnapshotId;

    fn from_str(text: &str) -> Result<Self, BadSnapshotId> {
        let good = text.split_once('-').is_some_and(|(kind, hex)| {
            matches!(kind, "diff" | "sha256" | "sha512" | "step" | "root")
                && matches!(hex.len(), 64 | 128)
                && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadSnapshotId {
                text: text.to_owned(),
            })
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = BadSnapshotId;

    fn try_from(text: String) -> Result<Self, BadSnapshotId> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
