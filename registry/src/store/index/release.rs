//! Letting go of an image: its manifest and what only it needed in its repository.
//!
//! Rows only. A manifest stays while a tag points at it, an index of its repository names it, its
//! subject is there, or it was put by its digest; a blob's link stays while any manifest of its
//! repository names it. Signatures and the like that were pushed without a tag go with the manifest
//! that they refer to, also when they were put by their digest: nobody can find them any more.
//!
//! First it is planned which manifests go, over rows that do not change; then they are removed. So
//! the same plan, over a snapshot, tells what a removal would do.

use std::collections::HashSet;

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::{Rows, below, digest as parse};
use super::schema::{MANIFESTS, ManifestRow, REFERRERS, TAGS};
use super::untagged::{Candidate, LONG_AGO, has_referrers, mark, row_of, stays};
use super::{links, manifests, needs, untagged};

/// Manifests that one transaction removes at most, so that nobody waits long for it. An image has
/// far fewer; the rest is left to the next collection.
const MAX_PARTS: usize = 256;

/// Why a manifest is looked at, and so what can still keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody removed its name: a subject alone does not keep it.
    Unnamed,
    /// What named it has gone, or a tag has moved away.
    Freed,
    /// Its subject has gone: having been put by its digest does not keep it.
    Subject,
}

/// Removes a tag and, where nothing else of the repository needs it, what the tag pointed at.
/// Answers whether there was such a tag.
pub fn untag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    now: u64,
) -> Result<bool, redb::Error> {
    let target = {
        let tags = transaction.open_table(TAGS)?;
        let row = tags.get((repository, tag))?;
        row.map(|row| parse(row.value())).transpose()?
    };
    let Some(target) = target else {
        return Ok(false);
    };
    manifests::untag(transaction, repository, tag, now)?;
    release(transaction, repository, vec![(target, Why::Unnamed)], now)?;
    Ok(true)
}

/// Removes a manifest, its tags, and what only it needed. Answers whether there was one.
pub fn remove(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    now: u64,
) -> Result<bool, redb::Error> {
    let Some(row) = row_of(transaction, repository, digest.as_ref())? else {
        return Ok(false);
    };
    let freed = freed_by(transaction, repository, digest, &row, MAX_PARTS)?;
    manifests::remove(transaction, repository, digest, now)?;
    release(transaction, repository, freed, now)?;
    unlink_freed(transaction, repository, std::iter::once(digest))?;
    unlink_freed(transaction, repository, &row.references)?;
    Ok(true)
}

/// Removes a manifest and what only it needed, unless a tag or an index needs it.
pub fn unneeded(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    now: u64,
) -> Result<(), redb::Error> {
    let freed = vec![(digest.clone(), Why::Freed)];
    release(transaction, repository, freed, now)
}

/// Removes those that nothing needs, what only they needed, and the links to blobs that are so set
/// free.
fn release(
    transaction: &WriteTransaction,
    repository: &str,
    freed: Vec<(Digest, Why)>,
    now: u64,
) -> Result<(), redb::Error> {
    let mut plan = Plan::new(MAX_PARTS);
    plan.follow(transaction, repository, freed)?;
    remove_planned(transaction, repository, &plan, now)?;
    for (digest, row) in &plan.parts {
        unlink_freed(transaction, repository, std::iter::once(digest))?;
        unlink_freed(transaction, repository, &row.references)?;
    }
    Ok(())
}

fn remove_planned(
    transaction: &WriteTransaction,
    repository: &str,
    plan: &Plan<'_>,
    now: u64,
) -> Result<(), redb::Error> {
    for (digest, _) in &plan.parts {
        manifests::remove(transaction, repository, digest, now)?;
    }
    for (digest, _) in &plan.parts {
        if !has_referrers(transaction, repository, digest.as_ref())? {
            untagged::clear(transaction, repository, digest.as_ref())?;
        }
    }
    for (digest, _) in &plan.left {
        mark(transaction, repository, digest.as_ref(), LONG_AGO)?;
    }
    Ok(())
}

fn unlink_freed<'a>(
    transaction: &WriteTransaction,
    repository: &str,
    digests: impl IntoIterator<Item = &'a Digest>,
) -> Result<(), redb::Error> {
    for digest in digests {
        if !needs::is_needed(transaction, repository, digest.as_ref())? {
            links::unlink(transaction, repository, digest)?;
        }
    }
    Ok(())
}

/// What a look at one candidate did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// Manifests removed.
    pub manifests: u64,
    /// There is more of the same to do: referrers after this one of a subject that has gone.
    pub next: Option<String>,
    /// Parts that were too many for one transaction and wait for the next collection.
    pub left: bool,
}

/// Looks at a candidate whose time has come and removes what has no reason to be there; the blobs
/// that this frees are left to the collection of links. `after` goes on behind a referrer.
pub fn collect(
    transaction: &WriteTransaction,
    candidate: &Candidate,
    after: &str,
    now: u64,
) -> Result<Collected, redb::Error> {
    let repository = candidate.repository.as_str();
    let digest = candidate.digest.as_ref();
    if !untagged::stands(transaction, candidate)? {
        return Ok(Collected::default());
    }
    let was_here = row_of(transaction, repository, digest)?.is_some();
    let mut plan = Plan::new(MAX_PARTS);
    let mut next = plan.candidate(transaction, candidate, after)?;
    let mut left = !plan.left.is_empty();
    if left && !was_here {
        // The same referrers again: there are fewer by then.
        next = Some(after.to_owned());
    }
    if next.is_none() {
        untagged::clear(transaction, repository, digest)?;
    }
    remove_planned(transaction, repository, &plan, now)?;
    let gone = was_here && row_of(transaction, repository, digest)?.is_none();
    if gone && has_referrers(transaction, repository, digest)? {
        mark(transaction, repository, digest, LONG_AGO)?;
        left = true;
    }
    Ok(Collected {
        manifests: plan.parts.len() as u64,
        next,
        left,
    })
}

/// The manifests that [`collect`] would remove for a candidate after those of earlier ones.
pub fn collectable(
    transaction: &ReadTransaction,
    candidate: &Candidate,
    doomed: &mut HashSet<(String, String)>,
) -> Result<(), redb::Error> {
    let repository = candidate.repository.as_str();
    let mut plan = Plan::new(usize::MAX);
    plan.earlier = Some(doomed);
    let mut after = Some(String::new());
    while let Some(from) = after {
        after = plan.candidate(transaction, candidate, &from)?;
    }
    let parts = plan.parts;
    doomed.extend(
        parts
            .iter()
            .map(|(digest, _)| (repository.to_owned(), digest.to_string())),
    );
    Ok(())
}

/// Which manifests of one repository go.
struct Plan<'a> {
    parts: Vec<(Digest, ManifestRow)>,
    doomed: HashSet<String>,
    /// Went before, in a plan over rows that still show them.
    earlier: Option<&'a HashSet<(String, String)>>,
    /// Not looked at, because there were too many.
    left: Vec<(Digest, Why)>,
    most: usize,
}

impl Plan<'_> {
    fn new(most: usize) -> Self {
        Self {
            parts: Vec::new(),
            doomed: HashSet::new(),
            earlier: None,
            left: Vec::new(),
            most,
        }
    }

    fn is_doomed(&self, repository: &str, digest: &str) -> bool {
        self.doomed.contains(digest)
            || self
                .earlier
                .is_some_and(|known| known.contains(&(repository.to_owned(), digest.to_owned())))
    }

    /// Plans for a candidate; answers the referrer to go on behind, if not all were looked at.
    fn candidate(
        &mut self,
        rows: &impl Rows,
        candidate: &Candidate,
        after: &str,
    ) -> Result<Option<String>, redb::Error> {
        let (repository, digest) = (candidate.repository.as_str(), &candidate.digest);
        if row_of(rows, repository, digest.as_ref())?.is_some()
            && !self.is_doomed(repository, digest.as_ref())
        {
            self.follow(rows, repository, vec![(digest.clone(), Why::Freed)])?;
            return Ok(None);
        }
        // A subject that is gone: those who refer to it follow.
        let page = MAX_PARTS / 4;
        let names = below(
            &rows.table(REFERRERS)?,
            repository,
            digest.as_ref(),
            after,
            page,
        )?;
        let next = names.last().filter(|_| names.len() == page).cloned();
        let freed = names
            .iter()
            .map(|name| Ok((parse(name)?, Why::Subject)))
            .collect::<Result<_, redb::Error>>()?;
        self.follow(rows, repository, freed)?;
        Ok(next)
    }

    /// Adds those that nothing keeps, and then what only they kept.
    fn follow(
        &mut self,
        rows: &impl Rows,
        repository: &str,
        mut freed: Vec<(Digest, Why)>,
    ) -> Result<(), redb::Error> {
        while let Some((digest, why)) = freed.pop() {
            if self.is_doomed(repository, digest.as_ref()) {
                continue;
            }
            let Some(row) = row_of(rows, repository, digest.as_ref())? else {
                continue;
            };
            if self.keeps(rows, repository, &digest, &row, why)? {
                continue;
            }
            if self.parts.len() >= self.most {
                self.left.push((digest, why));
                self.left.append(&mut freed);
                return Ok(());
            }
            freed.extend(freed_by(rows, repository, &digest, &row, self.most)?);
            self.doomed.insert(digest.to_string());
            self.parts.push((digest, row));
        }
        Ok(())
    }

    fn keeps(
        &self,
        rows: &impl Rows,
        repository: &str,
        digest: &Digest,
        row: &ManifestRow,
        why: Why,
    ) -> Result<bool, redb::Error> {
        let doomed = |text: &str| self.is_doomed(repository, text);
        let mut row = row.clone();
        match why {
            Why::Unnamed => row.subject = None,
            Why::Freed => {}
            Why::Subject => row.by_digest = false,
        }
        stays(rows, repository, digest.as_ref(), &row, &doomed)
    }
}

/// What a manifest's removal may set free: what it names, and of what refers to it the first `most`.
fn freed_by(
    rows: &impl Rows,
    repository: &str,
    digest: &Digest,
    row: &ManifestRow,
    most: usize,
) -> Result<Vec<(Digest, Why)>, redb::Error> {
    let mut freed = Vec::new();
    for child in &row.references {
        let is_manifest = {
            let table = rows.table(MANIFESTS)?;
            table.get((repository, child.as_ref()))?.is_some()
        };
        if is_manifest {
            freed.push((child.clone(), Why::Freed));
        }
    }
    let referrers = below(
        &rows.table(REFERRERS)?,
        repository,
        digest.as_ref(),
        "",
        most,
    )?;
    for referrer in referrers {
        freed.push((parse(&referrer)?, Why::Subject));
    }
    Ok(freed)
}
