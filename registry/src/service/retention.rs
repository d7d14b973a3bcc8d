//! The verb that lets tags go whose time is over.

use config::name::{RepositoryName, Tag};
use config::registry::retention::Rule;

use super::{Listing, Registry};
use crate::digest::Digest;
use crate::events::journal::Notes;
use crate::events::{EventKind, Subject};
use crate::retention::{TagFacts, Verdict, decide};
use crate::store::StoreError;
use crate::store::failures::Failures;
use crate::store::index::events;
use crate::store::index::tags::{self, TagRow};

/// Tags that one snapshot is asked for.
const PAGE: usize = 4096;
/// Tags of one transaction, so that nobody waits long for them.
const BATCH: usize = 64;

/// A tag that no condition of its rule keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    pub repository: RepositoryName,
    pub tag: Tag,
    pub digest: Digest,
    /// The number of the rule, counted from 0.
    pub rule: usize,
}

impl Registry {
    /// Removes the tags that `rules` keep no longer and answers them; with `dry_run` it only answers
    /// them. A tag that is pushed or pulled meanwhile stays. A repository that fails is passed over, and
    /// the first error answered at the end. See [`crate::retention`].
    pub fn expire_tags(&self, rules: &[Rule], dry_run: bool) -> Result<Vec<Expired>, StoreError> {
        let mut expired = Vec::new();
        if rules.is_empty() {
            return Ok(expired);
        }
        self.record_pulls()?;
        let mut failures = Failures::default();
        let mut last: Option<String> = None;
        loop {
            let listing = Listing {
                limit: None,
                last: last.as_deref(),
            };
            let page = self.repositories(listing)?;
            for name in &page.items {
                let ruled = |rule: &Rule| rule.repositories.matches(name);
                // Names were parsed before they became rows.
                if let (true, Ok(name)) = (rules.iter().any(ruled), name.parse()) {
                    let done = self.expire_in(&name, rules, dry_run, &mut expired);
                    failures.pass(&name, done);
                }
            }
            match page.items.last() {
                Some(name) if page.more && !failures.are_many() => last = Some(name.clone()),
                _ => return failures.end(expired),
            }
        }
    }

    fn expire_in(
        &self,
        repository: &RepositoryName,
        rules: &[Rule],
        dry_run: bool,
        expired: &mut Vec<Expired>,
    ) -> Result<(), StoreError> {
        let rows = self.tag_rows(repository)?;
        let facts: Vec<TagFacts> = rows
            .iter()
            .map(|row| TagFacts {
                tag: row.tag.clone(),
                pushed: row.pushed,
                pulled: row.pulled,
            })
            .collect();
        let now = self.store().now();
        let verdicts = decide(repository.as_str(), &facts, rules, now);
        let mut due = Vec::new();
        for (row, verdict) in rows.into_iter().zip(verdicts) {
            if let Verdict::Expired { rule } = verdict {
                due.push((row, rule));
            }
        }
        for batch in due.chunks(BATCH) {
            let done = match dry_run {
                true => vec![true; batch.len()],
                false => self.remove_tags(repository, batch)?,
            };
            for ((row, rule), _) in batch.iter().zip(done).filter(|(_, done)| *done) {
                if let Ok(tag) = row.tag.parse() {
                    expired.push(Expired {
                        repository: repository.clone(),
                        tag,
                        digest: row.digest.clone(),
                        rule: *rule,
                    });
                }
            }
        }
        Ok(())
    }

    fn remove_tags(
        &self,
        repository: &RepositoryName,
        batch: &[(TagRow, usize)],
    ) -> Result<Vec<bool>, StoreError> {
        // A pull that is noted by now keeps its tag; without it nothing may be removed.
        self.record_pulls()?;
        let (name, now) = (repository.to_string(), self.store().now());
        let rows: Vec<(TagRow, Notes)> = batch
            .iter()
            .map(|(row, _)| (row.clone(), self.note_expiry(repository, row)))
            .collect();
        let done = self.store().index().write(move |transaction| {
            let mut all = Vec::with_capacity(rows.len());
            for (row, notes) in &rows {
                let done = tags::expire(transaction, &name, row, now)?;
                if done {
                    events::append(transaction, notes.rows())?;
                }
                all.push(done);
            }
            Ok(all)
        })?;
        self.store().tags_changed();
        self.noted();
        Ok(done)
    }

    fn note_expiry(&self, repository: &RepositoryName, row: &TagRow) -> Notes {
        let tags: Vec<Tag> = row.tag.parse().into_iter().collect();
        self.note(&Subject {
            tags: &tags,
            ..Subject::new(EventKind::Delete, repository)
        })
    }

    /// Every tag of a repository with its times.
    pub fn tag_rows(&self, repository: &RepositoryName) -> Result<Vec<TagRow>, StoreError> {
        let mut rows: Vec<TagRow> = Vec::new();
        loop {
            let last = rows.last().map(|row| row.tag.as_str());
            let page = self
                .store()
                .index()
                .read(|index| tags::list(index, repository.as_str(), last, PAGE))?;
            rows.extend(page.items);
            if !page.more {
                return Ok(rows);
            }
        }
    }
}
