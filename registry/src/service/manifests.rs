//! Verbs over manifests and tags.

use config::name::{RepositoryName, Tag, Target};
use redb::WriteTransaction;

use super::{References, Registry};
use crate::digest::{Algorithm, Digest, digest_of};
use crate::events::journal::Notes;
use crate::events::{EventKind, Subject};
use crate::manifest::{MAX_MANIFEST, ManifestError, ManifestView, Remark};
use crate::store::StoreError;
use crate::store::index::release::Links;
use crate::store::index::{ManifestRow, events, links, manifests, needs, release};

/// So many seconds a manifest that somebody was told of is not collected, as a blob's link.
const TOLD: u64 = 3600;

/// A manifest to be stored.
#[derive(Debug, Clone)]
pub struct ManifestPut<'a> {
    /// The tag it is pushed as, or its digest.
    pub target: &'a Target,
    /// Further tags (distribution-spec, end-7b).
    pub tags: &'a [Tag],
    /// Content-Type; `None` believes the manifest.
    pub media_type: Option<&'a str>,
    /// Stored as they are.
    pub bytes: &'a [u8],
    pub references: References,
}

/// A manifest that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub digest: Digest,
    pub subject: Option<Digest>,
    /// Tags that pointed at another manifest until now, and at which.
    pub replaced: Vec<(String, Digest)>,
    /// What whoever pushed it should know.
    pub remarks: Vec<Remark>,
}

/// A manifest at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    /// As they were pushed.
    pub bytes: Vec<u8>,
}

/// Why a manifest was refused. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub enum PutManifestError {
    #[error("manifest has {size} bytes, more than {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("manifest is invalid")]
    Invalid(#[from] ManifestError),
    #[error("manifest has digest {actual}, not {expected}")]
    Digest { expected: Digest, actual: Digest },
    #[error(
        "manifest references {} that the repository does not have",
        list(missing)
    )]
    Missing { missing: Vec<Digest> },
    #[error("tag {tag} is immutable and points at another manifest")]
    Immutable { tag: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ManifestPut<'_> {
    /// The tag that the manifest is pushed as.
    pub(super) fn target_tag(&self) -> Option<&Tag> {
        match self.target {
            Target::Tag(tag) => Some(tag),
            Target::Digest(_) => None,
        }
    }
}

fn list(digests: &[Digest]) -> String {
    let texts: Vec<_> = digests.iter().take(4).map(Digest::to_string).collect();
    let more = digests.len().saturating_sub(texts.len());
    match more {
        0 => texts.join(", "),
        more => format!("{} and {more} more", texts.join(", ")),
    }
}

impl Registry {
    /// Stores a manifest and its tags, all or nothing.
    pub fn put_manifest(
        &self,
        repository: &RepositoryName,
        put: &ManifestPut<'_>,
    ) -> Result<Stored, PutManifestError> {
        self.put_manifest_holding(repository, put, Vec::new())
    }

    /// As [`Registry::put_manifest`], unless one of the tags `held` would move.
    pub(super) fn put_manifest_holding(
        &self,
        repository: &RepositoryName,
        put: &ManifestPut<'_>,
        held: Vec<String>,
    ) -> Result<Stored, PutManifestError> {
        let size = put.bytes.len();
        if size > MAX_MANIFEST {
            let limit = MAX_MANIFEST;
            return Err(PutManifestError::TooLarge { size, limit });
        }
        let digest = check_digest(put)?;
        let view = ManifestView::parse(put.bytes, put.media_type)?;
        let new = self.new_manifest(repository, put, digest.clone(), &view)?;
        let recorded = self.store().put_manifest(put.bytes, new, held)?;
        if let Some(tag) = recorded.held {
            return Err(PutManifestError::Immutable { tag });
        }
        if !recorded.missing.is_empty() {
            let missing = recorded.missing;
            return Err(PutManifestError::Missing { missing });
        }
        self.noted();
        let mut remarks = view.remarks();
        if put.references == References::Sparse {
            remarks.extend(self.absent(repository, &view)?);
        }
        Ok(Stored {
            digest,
            subject: view.subject,
            replaced: recorded.replaced,
            remarks,
        })
    }

    /// How much of a sparse manifest is not there.
    fn absent(
        &self,
        repository: &RepositoryName,
        view: &ManifestView,
    ) -> Result<Option<Remark>, StoreError> {
        let (repository, required) = (repository.as_str(), view.required());
        let count = self.store().index().read(|rows| {
            let mut count = 0;
            for digest in &required {
                let absent = links::size(rows, repository, digest)?.is_none()
                    && manifests::get(rows, repository, digest)?.is_none();
                count += usize::from(absent);
            }
            Ok(count)
        })?;
        Ok((count > 0).then_some(Remark::Absent { count }))
    }

    fn new_manifest(
        &self,
        repository: &RepositoryName,
        put: &ManifestPut<'_>,
        digest: Digest,
        view: &ManifestView,
    ) -> Result<manifests::NewManifest, PutManifestError> {
        let size = put.bytes.len() as u64;
        let descriptor = match view.subject {
            Some(_) => Some(
                view.descriptor(&digest, size)
                    .map_err(ManifestError::Json)?,
            ),
            None => None,
        };
        let named = put.target_tag();
        let tags: Vec<Tag> = named.into_iter().chain(put.tags).cloned().collect();
        let notes = self.note(&Subject {
            tags: &tags,
            digest: Some(&digest),
            media_type: Some(&view.media_type),
            size: Some(size),
            ..Subject::new(EventKind::Push, repository)
        });
        Ok(manifests::NewManifest {
            repository: repository.to_string(),
            digest,
            row: ManifestRow {
                media_type: view.media_type.clone(),
                size,
                subject: view.subject.clone(),
                artifact_type: view.artifact_type.clone(),
                references: view.references.clone(),
                pushed: self.store().now(),
                by_digest: named.is_none() && put.tags.is_empty(),
            },
            tags: tags.iter().map(Tag::to_string).collect(),
            notes,
            descriptor,
            required: match put.references {
                References::Required => view.required(),
                References::Sparse => Vec::new(),
            },
        })
    }

    /// What a tag points at.
    pub fn resolve(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| manifests::resolve(rows, repository.as_str(), tag.as_str()))?)
    }

    /// Digest and row of a manifest, whose file is here, without its bytes. Whoever is told of it may
    /// name it in an index after a while, also when nothing else does.
    pub fn stat_manifest(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<Option<(Digest, ManifestRow)>, StoreError> {
        let Some((digest, row)) = self.manifest_row(repository, target)? else {
            return Ok(None);
        };
        let store = self.store();
        let here = store.stat_blob(&digest, row.size)?.is_some()
            && store.refresh_manifest(repository.as_str(), &digest, TOLD)?;
        Ok(here.then_some((digest, row)))
    }

    fn manifest_row(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<Option<(Digest, ManifestRow)>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| {
            let digest = match target {
                Target::Digest(digest) => Some(digest.clone()),
                Target::Tag(tag) => manifests::resolve(rows, repository.as_str(), tag.as_str())?,
            };
            let Some(digest) = digest else {
                return Ok(None);
            };
            let row = manifests::get(rows, repository.as_str(), &digest)?;
            Ok(row.map(|row| (digest, row)))
        })?)
    }

    /// A manifest with its bytes, as they were pushed. Bytes that are not what the digest says are
    /// taken out of the way; then there is no such manifest.
    pub fn manifest(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<Option<Manifest>, StoreError> {
        let Some((digest, row)) = self.manifest_row(repository, target)? else {
            return Ok(None);
        };
        let Some(bytes) = self.store().read_manifest(&digest, MAX_MANIFEST)? else {
            return Ok(None);
        };
        Ok(Some(Manifest {
            digest,
            media_type: row.media_type,
            bytes,
        }))
    }

    /// Tells that a client was given a manifest.
    pub fn note_served(&self, repository: &RepositoryName, manifest: &Manifest, tag: Option<&Tag>) {
        self.note_later(&Subject {
            tags: tag.map(std::slice::from_ref).unwrap_or_default(),
            digest: Some(&manifest.digest),
            media_type: Some(&manifest.media_type),
            size: Some(manifest.bytes.len() as u64),
            ..Subject::new(EventKind::Pull, repository)
        });
    }

    /// A manifest of the repository that needs this one or this blob; `None` where none does.
    pub fn needing(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Digest>, StoreError> {
        let index = self.store().index();
        let found = index.read(|rows| needs::needing(rows, repository.as_str(), digest, 1))?;
        Ok(found.into_iter().next())
    }

    /// Points a tag at a manifest of the same repository; false where it has no such manifest.
    pub fn tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        if self.store().blobs().size(digest)?.is_none() {
            return Ok(false);
        }
        let notes = self.note(&Subject {
            tags: std::slice::from_ref(tag),
            digest: Some(digest),
            ..Subject::new(EventKind::Push, repository)
        });
        let (repository, tag, digest) = (repository.to_string(), tag.to_string(), digest.clone());
        let now = self.store().now();
        self.change_tags(notes, move |rows| {
            manifests::tag(rows, &repository, &tag, &digest, now)
        })
    }

    /// Runs a change that answers whether it did anything; if so, its notes are written with it.
    pub(super) fn change_tags(
        &self,
        notes: Notes,
        change: impl FnOnce(&WriteTransaction) -> Result<bool, redb::Error> + Send + 'static,
    ) -> Result<bool, StoreError> {
        let done = self.store().index().write(move |rows| {
            let done = change(rows)?;
            if done {
                events::append(rows, notes.rows())?;
            }
            Ok(done)
        })?;
        self.store().tags_changed();
        self.noted();
        Ok(done)
    }

    /// Removes one tag and nothing else; false where there is none.
    pub fn delete_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<bool, StoreError> {
        let notes = self.note(&Subject {
            tags: std::slice::from_ref(tag),
            ..Subject::new(EventKind::Delete, repository)
        });
        let (repository, tag) = (repository.to_string(), tag.to_string());
        let now = self.store().now();
        self.change_tags(notes, move |rows| {
            manifests::untag(rows, &repository, &tag, now)
        })
    }

    /// Removes a tag, and its manifest with its blobs' links where nothing else of the repository
    /// needs them; false where there is no such tag. Files go at the next sweep. While somebody
    /// pushes to the repository, links are left to the collection.
    pub fn release_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<bool, StoreError> {
        let notes = self.note(&Subject {
            tags: std::slice::from_ref(tag),
            ..Subject::new(EventKind::Delete, repository)
        });
        let links = self.freed_links(repository)?;
        let (repository, tag) = (repository.to_string(), tag.to_string());
        let now = self.store().now();
        self.change_tags(notes, move |rows| {
            release::untag(rows, &repository, &tag, now, links)
        })
    }

    /// Removes a manifest, and what only it needed, unless a tag or an index of its repository
    /// needs it: what a tag that moved may leave behind.
    pub fn release_unneeded(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let links = self.freed_links(repository)?;
        let (repository, digest) = (repository.to_string(), digest.clone());
        let (index, now) = (self.store().index(), self.store().now());
        Ok(index.write(move |rows| release::unneeded(rows, &repository, &digest, now, links))?)
    }

    /// Removes a manifest with all its tags and with what only it needed in its repository.
    pub fn release_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let links = self.freed_links(repository)?;
        self.remove_manifest(repository, digest, move |rows, name, digest, now| {
            release::remove_with(rows, name, digest, now, links)
        })
    }

    fn freed_links(&self, repository: &RepositoryName) -> Result<Links, StoreError> {
        let pushed_to = self.store().sessions().repositories()?;
        Ok(match pushed_to.contains(repository.as_str()) {
            true => Links::Rest,
            false => Links::Own,
        })
    }

    /// Removes a manifest with all its tags; false where there is none.
    pub fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        self.remove_manifest(repository, digest, manifests::remove)
    }

    /// Very many tags go before their manifest, in transactions of their own; when that is
    /// interrupted, the rest can be removed again.
    fn remove_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        remove: impl Fn(&WriteTransaction, &str, &Digest, u64) -> Result<bool, redb::Error>
        + Copy
        + Send
        + 'static,
    ) -> Result<bool, StoreError> {
        let notes = self.note(&Subject {
            digest: Some(digest),
            ..Subject::new(EventKind::Delete, repository)
        });
        let now = self.store().now();
        let removed = loop {
            let (notes, name, digest) = (notes.clone(), repository.to_string(), digest.clone());
            let removed = self.store().index().write(move |rows| {
                if manifests::trim_tags(rows, &name, &digest, now)? {
                    return Ok(None);
                }
                let removed = remove(rows, &name, &digest, now)?;
                events::append_if(rows, removed, notes.rows())?;
                Ok(Some(removed))
            })?;
            if let Some(removed) = removed {
                break removed;
            }
        };
        self.store().tags_changed();
        self.noted();
        Ok(removed)
    }
}

/// The digest of the bytes, in the algorithm that the target names; it must be the target's.
fn check_digest(put: &ManifestPut<'_>) -> Result<Digest, PutManifestError> {
    let Target::Digest(expected) = put.target else {
        return Ok(digest_of(Algorithm::Sha256, put.bytes));
    };
    let actual = digest_of(Algorithm::of(expected).unwrap_or_default(), put.bytes);
    if actual != *expected {
        return Err(PutManifestError::Digest {
            expected: expected.clone(),
            actual,
        });
    }
    Ok(actual)
}
