//! What the specification says that a registry knows, in plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What the specification says that a registry knows.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) repositories: BTreeMap<&'static str, Repository>,
}

#[derive(Debug, Default)]
pub(crate) struct Repository {
    pub(crate) blobs: BTreeMap<String, Bytes>,
    pub(crate) manifests: BTreeMap<String, Manifest>,
    pub(crate) tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: &'static str,
    pub(crate) needs: Vec<String>,
    pub(crate) subject: Option<String>,
    pub(crate) kind: Option<String>,
}

impl Repository {
    pub(crate) fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty()
    }

    pub(crate) fn has(&self, digest: &str) -> bool {
        self.blobs.contains_key(digest) || self.manifests.contains_key(digest)
    }

    pub(crate) fn manifest(&self, reference: &str) -> Option<(String, Manifest)> {
        let digest = match self.tags.get(reference) {
            Some(digest) => digest,
            None => reference,
        };
        let found = self.manifests.get(digest)?;
        Some((digest.to_owned(), found.clone()))
    }
}

impl Model {
    pub(crate) fn of(&mut self, repository: &'static str) -> &mut Repository {
        self.repositories.entry(repository).or_default()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let known = self
            .repositories
            .iter()
            .filter(|(_, held)| !held.is_empty());
        known.map(|(name, _)| (*name).to_owned()).collect()
    }

    /// With no grace everything that no manifest of its repository needs goes.
    pub(crate) fn collect(&mut self) {
        for held in self.repositories.values_mut() {
            let manifests = &held.manifests;
            let needed = |digest: &String| manifests.values().any(|one| one.needs.contains(digest));
            held.blobs.retain(|digest, _| needed(digest));
        }
    }
}
