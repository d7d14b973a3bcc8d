//! Verbs that look beyond one repository, for callers who may not see all of them.

use config::name::RepositoryName;

use super::listing::MAX_PAGE;
use super::{Listing, Registry};
use crate::digest::Digest;
use crate::store::StoreError;
use crate::store::index::{Page, links};

/// Repositories that an anonymous mount looks at: after so many the blob is rather pushed.
const MAX_SOURCES: usize = 1000;
/// Names that one list looks at. Beyond them it ends.
const MAX_LOOKED: usize = 1_000_000;

impl Registry {
    /// As [`Registry::mount`] from anywhere, but only from a repository that `may_pull` allows.
    pub fn mount_visible(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        may_pull: &dyn Fn(&RepositoryName) -> bool,
    ) -> Result<bool, StoreError> {
        let index = self.store().index();
        let sources = index.read(|rows| links::holding(rows, digest, MAX_SOURCES))?;
        // Names were parsed before they became rows.
        let mut sources = sources.iter().filter_map(|name| name.parse().ok());
        match sources.find(may_pull) {
            Some(from) => self.mount(repository, digest, Some(&from)),
            None => Ok(false),
        }
    }

    /// Repositories that show a blob, by name, `limit` at most.
    pub fn holders(&self, digest: &Digest, limit: usize) -> Result<Vec<String>, StoreError> {
        Ok(self
            .store()
            .index()
            .read(|rows| links::holding(rows, digest, limit))?)
    }

    /// As [`Registry::repositories`], but only those that `shows` allows: as many as were asked
    /// for, however many others stand between them.
    pub fn visible_repositories(
        &self,
        listing: Listing<'_>,
        shows: &dyn Fn(&RepositoryName) -> bool,
    ) -> Result<Page<String>, StoreError> {
        let limit = listing.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let mut page = Page {
            items: Vec::new(),
            more: false,
        };
        let mut last = listing.last.map(str::to_owned);
        for _ in 0..MAX_LOOKED / MAX_PAGE {
            // Each page is a read of its own, so that a long walk keeps no old rows alive.
            let all = Listing {
                limit: None,
                last: last.as_deref(),
            };
            let all = self.repositories(all)?;
            last = all.items.last().cloned();
            let names = all.items.into_iter();
            for name in names.filter(|name| name.parse().is_ok_and(|name| shows(&name))) {
                if page.items.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.items.push(name);
            }
            if !all.more {
                return Ok(page);
            }
        }
        tracing::warn!("a list of repositories ends after {MAX_LOOKED} names that were looked at");
        Ok(page)
    }
}
