//! Repositories as people look at them, and their removal.

use config::name::RepositoryName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::images::USUAL_PAGE;
use super::{Listing, Registry};
use crate::access::immutable::Immutable;
use crate::events::envelope::rfc3339;
use crate::events::{EventKind, Subject};
use crate::store::StoreError;
use crate::store::index::holdings::{self, RepositorySums};
use crate::store::index::{self, Page, catalog, events, immutable};

/// The sums of a repository are a walk over its rows.
const MAX_REPOSITORIES: usize = 1000;
/// How the removal of a repository ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emptied {
    Done {
        manifests: u64,
        blobs: u64,
    },
    /// There was no such repository.
    Absent,
    /// This tag is immutable.
    Held {
        tag: String,
    },
}

/// Rows that one transaction removes, and as many again that follow from them: others wait for it.
const REMOVED_AT_ONCE: usize = 1000;

/// A repository in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryRow {
    pub name: String,
    pub tags: u64,
    pub manifests: u64,
    /// Blobs beside the manifests.
    pub blobs: u64,
    /// Bytes of blobs and manifests. What several repositories hold is on disk once, and counted in
    /// each.
    pub size: u64,
    /// The newest push of a manifest, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<String>,
}

fn row(name: String, sums: RepositorySums) -> RepositoryRow {
    RepositoryRow {
        name,
        tags: sums.tags,
        manifests: sums.manifests,
        blobs: sums.blobs,
        size: sums.bytes,
        pushed: (sums.pushed > 0).then(|| rfc3339(sums.pushed.saturating_mul(1000))),
    }
}

impl Registry {
    /// Repositories in order, with their sums.
    pub fn repository_page(&self, listing: Listing<'_>) -> Result<Page<RepositoryRow>, StoreError> {
        let limit = listing.limit.unwrap_or(USUAL_PAGE).min(MAX_REPOSITORIES);
        Ok(self.store().index().read(|rows| {
            let page = index::repositories(rows, listing.last, limit)?;
            let mut items = Vec::with_capacity(page.items.len());
            for name in page.items {
                let sums = holdings::of_repository(rows, &name)?;
                items.push(row(name, sums));
            }
            Ok(Page {
                items,
                more: page.more,
            })
        })?)
    }

    /// One repository; `None` where there is none.
    pub fn repository_row(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<RepositoryRow>, StoreError> {
        let name = repository.as_str();
        Ok(self.store().index().read(|rows| {
            if !index::has_repository(rows, name)? {
                return Ok(None);
            }
            Ok(Some(row(
                name.to_owned(),
                holdings::of_repository(rows, name)?,
            )))
        })?)
    }

    /// Removes everything that a repository holds, unless a tag in it is one of `keep`; answers how
    /// many manifests and blobs that were.
    /// Large ones go in several transactions, so that nobody waits long: first all tags, then images
    /// before their parts. When it is interrupted, the rest can be removed again. Files go with the
    /// next collection.
    pub fn delete_repository(
        &self,
        repository: &RepositoryName,
        keep: &Immutable,
    ) -> Result<Emptied, StoreError> {
        let store = self.store().index();
        if !store.read(|rows| index::has_repository(rows, repository.as_str()))? {
            return Ok(Emptied::Absent);
        }
        let notes = self.note(&Subject::new(EventKind::Delete, repository));
        let (now, mut manifests, mut blobs) = (self.store().now(), 0, 0);
        loop {
            let (name, notes) = (repository.to_string(), notes.clone());
            let keep = keep.clone();
            let removed = store.write(move |rows| {
                let holds = |tag: &str| keep.holds(&name, tag);
                if keep.concerns(&name)
                    && let Some(tag) = immutable::first(rows, &name, &holds)?
                {
                    return Ok(Err(tag));
                }
                let removed = catalog::remove_some(rows, &name, REMOVED_AT_ONCE, now)?;
                events::append_if(rows, !removed.more, notes.rows())?;
                Ok(Ok(removed))
            })?;
            let removed = match removed {
                Ok(removed) => removed,
                Err(tag) => return Ok(Emptied::Held { tag }),
            };
            manifests += removed.manifests as u64;
            blobs += removed.blobs as u64;
            if !removed.more {
                break;
            }
        }
        self.store().tags_changed();
        self.noted();
        Ok(Emptied::Done { manifests, blobs })
    }
}
