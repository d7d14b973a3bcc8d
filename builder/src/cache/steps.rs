//! Results of steps, one small file per key below `<cache>/steps`.
//!
//! A file that is missing, damaged or of another version is a miss, never an error: the step runs
//! again and writes it anew.
//!
//! Keys name what is below by what it was meant to be, so that other hosts come to the same keys. Which
//! run of it a result was made on they do not say: commands that are run again need not make the same
//! bytes. So every run's snapshot has an id of its own, and a result remembers the ids that it was made
//! on: on top of anything else it is a miss.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unpacker::digest::{Digest, hex};
use unpacker::snapshot::id::SnapshotId;

use super::{touch, write_atomically};

const VERSION: u32 = 2;
/// An entry names what is below it, at most twice 500 snapshots; a larger file is none of ours.
const MAX_ENTRY: u64 = 128 * 1024;

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `None` where the step changed nothing. Of this run and no other.
    pub snapshot: Option<SnapshotId>,
    /// What keys call it; as absent as the snapshot.
    pub name: Option<SnapshotId>,
    /// When it ran, RFC 3339; a later build that finds it here is as old as this.
    pub created: String,
    /// The instruction's first line, for people who look through the cache.
    #[serde(default)]
    pub made_by: String,
    pub standing: Standing,
}

/// What a result is worth nothing without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing, as long as the root directory below is an ordinary one: a linked copy.
    Free,
    /// The layers since the base image that it was made on, lowest first.
    On(Vec<SnapshotId>),
    /// It is, or stands on, what another host made, and brings everything below it: it is taken as a
    /// whole or not at all.
    Whole {
        /// The snapshots of the whole file system, lowest first.
        stack: Vec<SnapshotId>,
        /// The snapshot of each layer since the base image.
        layers: Vec<SnapshotId>,
    },
}

impl Outcome {
    /// Whether it may be put on a stage of these layers; `foreign` says that another host made some of
    /// them, and `plain` whether the root directory is an ordinary one.
    pub(crate) fn fits(
        &self,
        below: &[SnapshotId],
        foreign: bool,
        plain: impl FnOnce() -> bool,
    ) -> bool {
        match &self.standing {
            Standing::Free => !foreign && plain(),
            Standing::On(layers) => !foreign && layers == below,
            // It takes the place of them, so there are as many.
            Standing::Whole { layers, .. } => {
                layers.len() == below.len() + usize::from(self.name.is_some())
            }
        }
    }

    /// Every snapshot that it is worth nothing without but its own.
    pub(crate) fn stands_on(&self) -> Vec<SnapshotId> {
        match &self.standing {
            Standing::Free => Vec::new(),
            Standing::On(layers) => layers.clone(),
            Standing::Whole { stack, layers } => [&stack[..], layers].concat(),
        }
    }
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
    /// What is read by the names of its results is known to mean the same as another key, as long as
    /// these are the runs of them.
    Same {
        key: String,
        runs: String,
    },
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
        match self.read(key.digest())? {
            Entry::Outcome(outcome) => Some(outcome),
            Entry::Same { .. } => None,
        }
    }

    /// What a definition leads to, and the key of that where it is another one. `runs` are those of the
    /// results that it reads now.
    pub fn defined(&self, key: &Digest, runs: &Digest) -> Option<(Outcome, Option<String>)> {
        touch(&self.dir.join(key.digest()));
        match self.read(key.digest())? {
            Entry::Outcome(outcome) => Some((outcome, None)),
            Entry::Same { runs: of, .. } if of != runs.digest() => None,
            Entry::Same { key, .. } => {
                touch(&self.dir.join(&key));
                Some((self.peek(&key)?, Some(key)))
            }
        }
    }

    /// What a key in hexadecimal leads to, whatever runs it is of, without counting it as use.
    pub(super) fn peek(&self, key: &str) -> Option<Outcome> {
        match self.read(key)? {
            Entry::Outcome(outcome) => Some(outcome),
            Entry::Same { key: other, .. } => match self.read(&other)? {
                Entry::Outcome(outcome) => Some(outcome),
                Entry::Same { .. } => None,
            },
        }
    }

    pub fn put(&self, key: &Digest, outcome: &Outcome) -> io::Result<()> {
        self.write(key, Entry::Outcome(outcome.clone()))
    }

    /// Lets `key` lead to what `to` has, for these runs of what it reads.
    pub fn link(&self, key: &Digest, to: &Digest, runs: &Digest) -> io::Result<()> {
        let same = Entry::Same {
            key: to.digest().to_owned(),
            runs: runs.digest().to_owned(),
        };
        self.write(key, same)
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

    fn id(text: &str) -> SnapshotId {
        SnapshotId::of_step(&sha256(text.as_bytes()))
    }

    fn outcome(standing: Standing) -> Outcome {
        Outcome {
            snapshot: Some(id("run")),
            name: Some(id("key")),
            created: "2026-01-01T00:00:00Z".to_owned(),
            made_by: "RUN true".to_owned(),
            standing,
        }
    }

    #[test]
    fn remembers_follows_and_forgives() {
        let dir = tempfile::tempdir().unwrap();
        let steps = Steps::new(dir.path());
        let (a, b, runs) = (sha256(b"a"), sha256(b"b"), sha256(b"runs"));
        assert_eq!(steps.get(&a), None);
        let outcome = outcome(Standing::On(vec![id("below")]));
        steps.put(&a, &outcome).unwrap();
        steps.link(&b, &a, &runs).unwrap();
        assert_eq!(steps.get(&a).as_ref(), Some(&outcome));
        assert_eq!(steps.get(&b), None, "a link is for whom asks by definition");
        let key = Some(a.digest().to_owned());
        assert_eq!(steps.defined(&b, &runs), Some((outcome.clone(), key)));
        assert_eq!(steps.defined(&a, &runs), Some((outcome.clone(), None)));
        let other_runs = sha256(b"other runs");
        assert_eq!(steps.defined(&b, &other_runs), None);
        let file = dir.path().join("steps").join(a.digest());
        let old = r#"{"version":1,"outcome":{"snapshot":null,"created":"2026-01-01T00:00:00Z"}}"#;
        for damage in ["", "{", "{\"version\":9}", "\0\0", old] {
            std::fs::write(&file, damage).unwrap();
            assert_eq!(steps.get(&a), None);
            assert_eq!(steps.defined(&b, &runs), None);
        }
        steps.link(&a, &b, &runs).unwrap();
        assert_eq!(steps.defined(&b, &runs), None, "a circle is a miss");
    }

    /// What is below, whether another host made some of it, and whether its root is an ordinary one.
    #[test]
    fn a_result_fits_on_what_it_was_made_on() {
        let ids = |texts: &[&str]| -> Vec<SnapshotId> { texts.iter().map(|t| id(t)).collect() };
        let on = || Standing::On(ids(&["a", "b"]));
        let whole = || Standing::Whole {
            stack: ids(&["base", "x", "y", "run"]),
            layers: ids(&["x", "y", "run"]),
        };
        let table: &[(Standing, &[&str], bool, bool, bool)] = &[
            (on(), &["a", "b"], false, true, true),
            (on(), &["a", "b"], false, false, true),
            // The lower one was made again.
            (on(), &["a", "c"], false, true, false),
            (on(), &["c", "b"], false, true, false),
            (on(), &["b", "a"], false, true, false),
            // One of them has changed nothing this time, or did not then.
            (on(), &["a"], false, true, false),
            (on(), &["a", "b", "c"], false, true, false),
            (Standing::On(Vec::new()), &[], false, true, true),
            (Standing::On(Vec::new()), &["a"], false, true, false),
            (on(), &["a", "b"], true, true, false),
            (Standing::Free, &["c"], false, true, true),
            (Standing::Free, &["c"], false, false, false),
            (Standing::Free, &["c"], true, true, false),
            // It takes the place of what is there.
            (whole(), &["a", "b"], false, true, true),
            (whole(), &["a", "b"], true, true, true),
            (whole(), &["a"], false, true, false),
        ];
        for (standing, below, foreign, plain, fits) in table {
            let found = outcome(standing.clone()).fits(&ids(below), *foreign, || *plain);
            assert_eq!(found, *fits, "{standing:?} on {below:?} {foreign} {plain}");
        }
    }
}
