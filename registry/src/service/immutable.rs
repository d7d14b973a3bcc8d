//! Verbs for callers who may not touch immutable tags. The plain verbs of the same names know no
//! such tags: they are for whoever owns the data folder.

use config::name::{RepositoryName, Tag};

use super::manifests::ManifestPut;
use super::{PutManifestError, Registry, Stored};
use crate::access::immutable::Immutable;
use crate::digest::Digest;
use crate::events::journal::Notes;
use crate::events::{EventKind, Subject};
use crate::store::StoreError;
use crate::store::index::{events, immutable, links, manifests};

/// How a deletion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    Done,
    /// There was no such thing.
    Absent,
    /// It is, or is part of, the image of this tag, which is immutable.
    Held {
        tag: String,
    },
}

impl Deleted {
    fn of(done: bool) -> Self {
        if done { Self::Done } else { Self::Absent }
    }
}

impl Registry {
    /// As [`Registry::put_manifest`], but no immutable tag that is there moves to another digest.
    /// The same digest again changes nothing and is no error.
    pub fn put_manifest_keeping(
        &self,
        repository: &RepositoryName,
        put: &ManifestPut<'_>,
        keep: &Immutable,
    ) -> Result<Stored, PutManifestError> {
        let name = repository.as_str();
        let tags = put.tags.iter().chain(put.target_tag());
        let held = tags.map(Tag::to_string);
        let held = held.filter(|tag| keep.holds(name, tag)).collect();
        self.put_manifest_holding(repository, put, held)
    }

    /// As [`Registry::delete_tag`], but an immutable tag stays.
    pub fn delete_tag_keeping(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        keep: &Immutable,
    ) -> Result<Deleted, StoreError> {
        if !keep.holds(repository.as_str(), tag.as_str()) {
            return self.delete_tag(repository, tag).map(Deleted::of);
        }
        let there = self.resolve(repository, tag)?.is_some();
        Ok(match there {
            true => Deleted::Held {
                tag: tag.to_string(),
            },
            false => Deleted::Absent,
        })
    }

    /// As [`Registry::delete_manifest`], but not where an immutable tag needs it.
    pub fn delete_manifest_keeping(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        keep: &Immutable,
    ) -> Result<Deleted, StoreError> {
        if !keep.concerns(repository.as_str()) {
            return self.delete_manifest(repository, digest).map(Deleted::of);
        }
        let notes = self.note_deletion(repository, digest);
        let now = self.store().now();
        let deleted = loop {
            let (name, digest) = (repository.to_string(), digest.clone());
            let (keep, notes) = (keep.clone(), notes.clone());
            let deleted = self.store().index().write(move |rows| {
                let holds = |tag: &str| keep.holds(&name, tag);
                if let Some(tag) = immutable::needing(rows, &name, &digest, &holds)? {
                    return Ok(Some(Deleted::Held { tag }));
                }
                if manifests::trim_tags(rows, &name, &digest, now)? {
                    return Ok(None);
                }
                let done = manifests::remove(rows, &name, &digest, now)?;
                events::append_if(rows, done, notes.rows())?;
                Ok(Some(Deleted::of(done)))
            })?;
            if let Some(deleted) = deleted {
                break deleted;
            }
        };
        self.store().tags_changed();
        self.noted();
        Ok(deleted)
    }

    /// As [`Registry::delete_blob`], but not where an immutable tag needs it.
    pub fn delete_blob_keeping(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        keep: &Immutable,
    ) -> Result<Deleted, StoreError> {
        if !keep.concerns(repository.as_str()) {
            return self.delete_blob(repository, digest).map(Deleted::of);
        }
        let notes = self.note_deletion(repository, digest);
        let (repository, digest, keep) = (repository.to_string(), digest.clone(), keep.clone());
        let deleted = self.store().index().write(move |rows| {
            let holds = |tag: &str| keep.holds(&repository, tag);
            if let Some(tag) = immutable::needing(rows, &repository, &digest, &holds)? {
                return Ok(Deleted::Held { tag });
            }
            let done = links::unlink(rows, &repository, &digest)?;
            events::append_if(rows, done, notes.rows())?;
            Ok(Deleted::of(done))
        })?;
        self.noted();
        Ok(deleted)
    }

    fn note_deletion(&self, repository: &RepositoryName, digest: &Digest) -> Notes {
        self.note(&Subject {
            digest: Some(digest),
            ..Subject::new(EventKind::Delete, repository)
        })
    }
}
