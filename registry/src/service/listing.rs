//! Verbs that list: catalog, tags, images, referrers.

use config::name::{RepositoryName, Tag};

use super::Registry;
use crate::digest::Digest;
use crate::store::StoreError;
use crate::store::index::{self, ManifestRow, Page, manifests, usage};

/// The most names in one answer; who wants more follows the link.
pub(super) const MAX_PAGE: usize = 10_000;
/// Descriptors in one referrers answer have at most this many bytes together, so that the index
/// stays below the 4 MiB that clients accept of a manifest.
const REFERRERS_BUDGET: usize = 3 * 1024 * 1024 + 512 * 1024;

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listing<'a> {
    /// At most so many; never more than 10 000.
    pub limit: Option<usize>,
    /// Only what comes after this name.
    pub last: Option<&'a str>,
}

impl Listing<'_> {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE)
    }
}

/// A tag and what it points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedImage {
    pub repository: RepositoryName,
    pub tag: Tag,
    pub digest: Digest,
    pub manifest: ManifestRow,
}

/// Descriptors of what refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Referrers {
    /// JSON of one descriptor each.
    pub descriptors: Vec<String>,
    /// Where to go on, if there is more.
    pub next: Option<Digest>,
}

impl Registry {
    /// Tags of a repository in order; `None` for a repository that holds nothing.
    pub fn tags(
        &self,
        repository: &RepositoryName,
        listing: Listing<'_>,
    ) -> Result<Option<Page<String>>, StoreError> {
        let repository = repository.as_str();
        Ok(self.store().index().read(|rows| {
            if !index::has_repository(rows, repository)? {
                return Ok(None);
            }
            manifests::tags(rows, repository, listing.last, listing.limit()).map(Some)
        })?)
    }

    /// Names of all repositories in order.
    pub fn repositories(&self, listing: Listing<'_>) -> Result<Page<String>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| index::repositories(rows, listing.last, listing.limit()))?)
    }

    /// Every tag of every repository.
    pub fn images(&self) -> Result<Vec<TaggedImage>, StoreError> {
        let mut images = Vec::new();
        self.store().index().read(|rows| {
            manifests::each_tag(rows, &mut |row| {
                // Names were parsed before they became rows.
                let (Ok(repository), Ok(tag)) = (row.repository.parse(), row.tag.parse()) else {
                    return;
                };
                images.push(TaggedImage {
                    repository,
                    tag,
                    digest: row.digest,
                    manifest: row.manifest,
                });
            })
        })?;
        Ok(images)
    }

    /// Every manifest of a repository, tagged or not.
    pub fn manifests(
        &self,
        repository: &RepositoryName,
    ) -> Result<Vec<(Digest, ManifestRow)>, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| manifests::list(rows, repository.as_str()))?)
    }

    /// Bytes that a repository holds, each digest once.
    pub fn usage(&self, repository: &RepositoryName) -> Result<u64, StoreError> {
        let index = self.store().index();
        Ok(index.read(|rows| usage::of(rows, repository.as_str()))?)
    }

    /// Bytes that all repositories together hold, each digest once. Unfinished uploads and garbage
    /// are not among them.
    pub fn bytes_held(&self) -> Result<u64, StoreError> {
        Ok(self.store().index().read(usage::total)?)
    }

    /// What refers to `subject`, which need not exist (distribution-spec, "Listing referrers").
    pub fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&Digest>,
    ) -> Result<Referrers, StoreError> {
        let page = self.store().index().read(|rows| {
            manifests::referrers(rows, repository.as_str(), subject, last, REFERRERS_BUDGET)
        })?;
        let next = match page.items.last() {
            Some((digest, _)) if page.more => Some(digest.clone()),
            _ => None,
        };
        let wanted = |json: &Vec<u8>| artifact_type.is_none_or(|wanted| has_type(json, wanted));
        let texts = page.items.into_iter().map(|(_, json)| json).filter(wanted);
        // The rows were written as JSON, so they are UTF-8.
        let descriptors = texts
            .filter_map(|json| String::from_utf8(json).ok())
            .collect();
        Ok(Referrers { descriptors, next })
    }
}

fn has_type(descriptor: &[u8], wanted: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        artifact_type: Option<String>,
    }
    serde_json::from_slice::<Typed>(descriptor)
        .is_ok_and(|typed| typed.artifact_type.as_deref() == Some(wanted))
}
