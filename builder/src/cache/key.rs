//! What enters the key of a step. Two steps with one key have the same result.
//!
//! | step    | enters its key                                                                     |
//! |---------|------------------------------------------------------------------------------------|
//! | every   | format version, kind, layers and results below it, how owners are kept             |
//! | WORKDIR | path, user in force                                                                |
//! | RUN     | command with its shell, ENV and declared ARGs, folder, user, network, mounts       |
//! | COPY    | content of the selected sources, destination, --chown, --chmod                     |
//! | ADD     | as COPY, that archives are unpacked, and digest, name and time of what is fetched  |
//!
//! Mounts enter by kind, target and options; a bind from the context or from a stage enters with the
//! content of its source. A source's content is names, types, modes, owners (of stages and images
//! only), link targets and data, never times. What never enters: names of stages, secrets and their
//! values, what cache mounts hold, undeclared proxy arguments, and settings such as LABEL or CMD.
//!
//! A COPY from a stage has a second, cheaper key by the names of what its origin is made of, which leads
//! to the first. Layers of base images are named by their diffIDs and results by their keys, never by
//! folders, users or compressed bytes: other hosts come to the same keys. Which runs of those results are
//! meant is no matter of keys: see [`super::steps`]. Pure: nothing here reads a file.

use unpacker::digest::{Digest, Hasher};
use unpacker::layer::Ownership;
use unpacker::snapshot::id::SnapshotId;

/// Changes whenever a step of old would have another result today.
const FORMAT: &str = "devpod build step 3";

/// Hashes fields so that no two different lists of them look the same.
#[derive(Debug)]
pub struct KeyWriter(Hasher);

impl KeyWriter {
    pub fn new(kind: &str) -> Self {
        let mut writer = Self(Hasher::sha256());
        writer.field(FORMAT, kind);
        writer
    }

    /// A key of something that happens on top of `below`.
    pub(crate) fn of_step(kind: &str, below: &[SnapshotId], ownership: Ownership) -> Self {
        let mut writer = Self::new(kind);
        writer.field("owners", format!("{ownership:?}"));
        writer.list("below", below.iter().map(SnapshotId::as_str));
        writer
    }

    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        self.frame(name.as_bytes());
        self.frame(value.as_ref());
        self
    }

    pub fn list<T: AsRef<[u8]>>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        let values: Vec<T> = values.into_iter().collect();
        self.frame(name.as_bytes());
        self.0.update(&(values.len() as u64).to_le_bytes());
        for value in &values {
            self.frame(value.as_ref());
        }
        self
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_never_run_together() {
        let key = |fields: &[(&str, &str)]| {
            let mut writer = KeyWriter::new("t");
            for (name, value) in fields {
                writer.field(name, value);
            }
            writer.finish()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", ""), ("b", "")]), key(&[("a", "b")]));
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        let list = |values: &[&str]| {
            let mut writer = KeyWriter::new("t");
            writer.list("l", values);
            writer.finish()
        };
        assert_ne!(list(&["a", "b"]), list(&["ab"]));
        assert_ne!(list(&[]), list(&[""]));
    }

    #[test]
    fn what_is_below_and_how_owners_are_kept_matter() {
        let id = |c: char| {
            let text = format!("step-{}", c.to_string().repeat(64));
            text.parse::<SnapshotId>().unwrap()
        };
        let key =
            |below: &[SnapshotId], ownership| KeyWriter::of_step("RUN", below, ownership).finish();
        let first = key(&[id('a')], Ownership::Mapped);
        assert_ne!(first, key(&[id('b')], Ownership::Mapped));
        assert_ne!(first, key(&[id('a'), id('b')], Ownership::Mapped));
        assert_ne!(first, key(&[id('a')], Ownership::Recorded));
    }
}
