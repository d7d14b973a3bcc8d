//! The entries of an archive by name: a map, never a folder.
//!
//! A name is a key that a manifest may ask for. What would leave a folder if it were unpacked is
//! refused all the same: two tools must not read one archive in two ways. Links between entries are
//! followed in the map, after everything was read, because a link may stand before its target.

use std::collections::HashMap;

use super::read::ReadError;
use crate::digest::Digest;

/// Longer names are attacks: the longest that a tool writes has some 140 bytes.
const MAX_NAME: usize = 4096;
/// Bytes of all names and targets of links together: two hundred thousand of the longest that a tool
/// writes.
pub(super) const MAX_NAMES: usize = 32 << 20;
/// Links to links; docker never writes more than one.
const MAX_HOPS: usize = 16;

/// A file of the archive that became a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Blob(Stored),
    /// A small file that says what the others are.
    Document(Vec<u8>),
    /// Another entry's name.
    Link(String),
}

impl Entry {
    /// Bytes of the name that it holds.
    fn name_len(&self) -> usize {
        match self {
            Self::Link(target) => target.len(),
            Self::Blob(_) | Self::Document(_) => 0,
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Entries {
    entries: HashMap<String, Entry>,
    /// Bytes of their names and of what links name.
    names: usize,
    /// A few names, for whoever must be told that this is no image.
    pub(super) first: Vec<String>,
}

impl Entries {
    pub(super) fn blob(&mut self, name: String, stored: Stored) -> Result<(), ReadError> {
        self.add(name, Entry::Blob(stored))
    }

    pub(super) fn document(&mut self, name: String, bytes: Vec<u8>) -> Result<(), ReadError> {
        self.add(name, Entry::Document(bytes))
    }

    /// A hard link names its target as the archive does, a symbolic one from where it stands.
    pub(super) fn link(
        &mut self,
        name: String,
        target: &[u8],
        symbolic: bool,
    ) -> Result<(), ReadError> {
        let target = match symbolic {
            true => beside(&name, target)?,
            false => clean(target)?,
        };
        self.add(name, Entry::Link(target))
    }

    /// Two entries of one name are no harm where they are equal.
    fn add(&mut self, name: String, entry: Entry) -> Result<(), ReadError> {
        match self.entries.get(&name) {
            Some(known) if *known != entry => Err(ReadError::Twice { name }),
            Some(_) => Ok(()),
            None => {
                self.names += name.len() + entry.name_len();
                if self.names > MAX_NAMES {
                    return Err(ReadError::TooManyNames);
                }
                self.entries.insert(name, entry);
                Ok(())
            }
        }
    }

    /// A document by its name.
    pub(super) fn get_document(&self, name: &str) -> Option<&[u8]> {
        match self.entries.get(name) {
            Some(Entry::Document(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// The blob that a manifest calls `name`, through links; `None` where there is none.
    pub(super) fn get_blob(&self, name: &str) -> Result<Option<&Stored>, ReadError> {
        let mut at = clean(name.as_bytes())?;
        for _ in 0..MAX_HOPS {
            match self.entries.get(&at) {
                Some(Entry::Blob(stored)) => return Ok(Some(stored)),
                Some(Entry::Link(target)) => at.clone_from(target),
                Some(Entry::Document(_)) | None => return Ok(None),
            }
        }
        Err(ReadError::Loop { name: at })
    }
}

/// The name as a key: relative, without `.` and empty parts.
pub(super) fn clean(name: &[u8]) -> Result<String, ReadError> {
    let bad = || ReadError::Name { name: shown(name) };
    let text = std::str::from_utf8(name).map_err(|_| bad())?;
    if text.len() > MAX_NAME || text.starts_with('/') || text.contains('\0') {
        return Err(bad());
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    match parts.contains(&"..") {
        true => Err(bad()),
        false => Ok(parts.join("/")),
    }
}

/// Where a symbolic link at `name` leads.
fn beside(name: &str, target: &[u8]) -> Result<String, ReadError> {
    let bad = || ReadError::Name {
        name: format!("{name} -> {}", shown(target)),
    };
    let text = std::str::from_utf8(target).map_err(|_| bad())?;
    if text.len() > MAX_NAME || text.starts_with('/') || text.contains('\0') {
        return Err(bad());
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(bad)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// A name for a message: what an attacker wrote may be long.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn stored(text: &str) -> Stored {
        Stored {
            digest: sha256(text.as_bytes()),
            size: text.len() as u64,
        }
    }

    #[test]
    fn names_that_would_leave_a_folder_are_refused() {
        for (name, key) in [("a/b", "a/b"), ("./a//b/", "a/b"), ("a/./b", "a/b")] {
            assert_eq!(clean(name.as_bytes()).unwrap(), key);
        }
        let long = "x".repeat(5000);
        for name in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", &long] {
            let refused = clean(name.as_bytes());
            assert!(matches!(refused, Err(ReadError::Name { .. })), "{name:?}");
        }
        assert!(clean(b"\xff").is_err());
    }

    #[test]
    fn links_lead_to_what_comes_later_and_never_out() {
        let mut entries = Entries::default();
        entries
            .link("a/layer.tar".into(), b"../b/layer.tar", true)
            .unwrap();
        entries
            .link("c/layer.tar".into(), b"a/layer.tar", false)
            .unwrap();
        entries.blob("b/layer.tar".into(), stored("b")).unwrap();
        for name in ["a/layer.tar", "./c/layer.tar", "b/layer.tar"] {
            assert_eq!(entries.get_blob(name).unwrap(), Some(&stored("b")));
        }
        assert_eq!(entries.get_blob("d").unwrap(), None);
        for (target, symbolic) in [("../../b", true), ("/b", true), ("../b", false)] {
            let link = entries.link("e/x".into(), target.as_bytes(), symbolic);
            assert!(matches!(link, Err(ReadError::Name { .. })), "{target}");
        }
        entries.link("l/1".into(), b"2", true).unwrap();
        entries.link("l/2".into(), b"1", true).unwrap();
        assert!(matches!(
            entries.get_blob("l/1"),
            Err(ReadError::Loop { .. })
        ));
    }

    #[test]
    fn one_name_means_one_content() {
        let mut entries = Entries::default();
        entries.blob("a".into(), stored("1")).unwrap();
        entries.blob("a".into(), stored("1")).unwrap();
        let twice = entries.blob("a".into(), stored("2"));
        assert!(matches!(twice, Err(ReadError::Twice { .. })));
        assert!(entries.document("a".into(), Vec::new()).is_err());
    }
}
