//! Results of steps, one small file per key below `<cache>/steps`.
//!
//! A file that is missing, damaged or of another version is a miss, never an error: the step runs
//! again and writes it anew.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unpacker::digest::{Digest, hex};
use unpacker::snapshot::id::SnapshotId;

use super::{touch, write_atomically};

const VERSION: u32 = 1;
/// Entries are some hundred bytes; a larger file is none of ours.
const MAX_ENTRY: u64 = 64 * 1024;

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `None` where the step changed nothing.
    pub snapshot: Option<SnapshotId>,
    /// When it ran, RFC 3339; a later build that finds it here is as old as this.
    pub created: String,
    /// The instruction's first line, for people who look through the cache.
    #[serde(default)]
    pub made_by: String,
    /// There where the result is, or stands on, what another host made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

impl Outcome {
    /// What keys call it.
    pub(crate) fn name(&self) -> Option<&SnapshotId> {
        match &self.standing {
            Some(standing) => standing.name.as_ref(),
            None => self.snapshot.as_ref(),
        }
    }
}

/// A result with everything that it stands on: it is taken as a whole or not at all, because what is
/// here under the names below it may be another run of the same commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What keys call the result; `None` where the step changed nothing.
    pub name: Option<SnapshotId>,
    /// The snapshots of the whole file system, lowest first.
    pub stack: Vec<SnapshotId>,
    /// The snapshot of each layer since the base image.
    pub layers: Vec<SnapshotId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Outcome(Outcome),
    /// This key means the same as another.
    Same(String),
}

#[derive(Debug)]
pub struct Steps {
    dir: PathBuf,
}

impl Steps {
    /// `cache` is `<data>/cache`; nothing is read or made yet.
    pub fn new(cache: &Path) -> Self {
        Self {
            dir: cache.join("steps"),
        }
    }

    pub fn get(&self, key: &Digest) -> Option<Outcome> {
        touch(&self.dir.join(key.digest()));
        if let Some(Entry::Same(other)) = self.read(key.digest())
            && self.read(&other).is_some()
        {
            touch(&self.dir.join(other));
        }
        self.peek(key.digest())
    }

    /// As [`Steps::get`] of a key in hexadecimal, without counting it as use.
    pub(super) fn peek(&self, key: &str) -> Option<Outcome> {
        match self.read(key)? {
            Entry::Outcome(outcome) => Some(outcome),
            Entry::Same(other) => match self.read(&other)? {
                Entry::Outcome(outcome) => Some(outcome),
                Entry::Same(_) => None,
            },
        }
    }

    pub fn put(&self, key: &Digest, outcome: &Outcome) -> io::Result<()> {
        self.write(key, Entry::Outcome(outcome.clone()))
    }

    /// Lets `key` lead to what `to` has.
    pub fn link(&self, key: &Digest, to: &Digest) -> io::Result<()> {
        self.write(key, Entry::Same(to.digest().to_owned()))
    }

    /// The key that this one means the same as.
    pub(crate) fn same_as(&self, key: &Digest) -> Option<String> {
        match self.read(key.digest())? {
            Entry::Same(other) => Some(other),
            Entry::Outcome(_) => None,
        }
    }

    fn read(&self, name: &str) -> Option<Entry> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let path = self.dir.join(name);
        if std::fs::metadata(&path).ok()?.len() > MAX_ENTRY {
            return None;
        }
        let file: File = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (file.version == VERSION).then_some(file.entry)
    }

    fn write(&self, key: &Digest, entry: Entry) -> io::Result<()> {
        let version = VERSION;
        let bytes = serde_json::to_vec(&File { version, entry })?;
        write_atomically(&self.dir, key.digest(), &bytes)
    }
}

/// A name for something that must not collide with an earlier result: hexadecimal and random.
pub(crate) fn nonce() -> io::Result<String> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use unpacker::digest::sha256;

    #[test]
    fn remembers_follows_and_forgives() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::new(dir.path());
        let (a, b) = (sha256(b"a"), sha256(b"b"));
        assert_eq!(steps.get(&a), None);
        let outcome = Outcome {
            snapshot: Some(SnapshotId::of_step(&a)),
            created: "2026-01-01T00:00:00Z".to_owned(),
            made_by: "RUN true".to_owned(),
            standing: None,
        };
        steps.put(&a, &outcome).unwrap();
        steps.link(&b, &a).unwrap();
        assert_eq!(steps.get(&a).as_ref(), Some(&outcome));
        assert_eq!(steps.get(&b).as_ref(), Some(&outcome));
        let file = dir.path().join("steps").join(a.digest());
        for damage in ["", "{", "{\"version\":9}", "\0\0"] {
            std::fs::write(&file, damage).unwrap();
            assert_eq!(steps.get(&a), None);
        }
        steps.link(&a, &b).unwrap();
        assert_eq!(steps.get(&b), None, "a circle is a miss");
    }
}
