//! Manifests that nothing may name any more, and since when.
//!
//! A row is made whenever a manifest loses a tag, the index that named it, or its subject: it says
//! that the collection must look at it once it has rested for `untagged_keep`. It does not say that
//! the manifest goes; [`stays`] decides that, when its time has come. A row of a manifest that is
//! itself gone stands for its referrers, which follow it (see `release`). So a collection looks at
//! these rows only, never at all manifests.

use std::ops::Bound::{Excluded, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::needs;
use super::rows::{Rows, any_below, decode, digest as parse};
use super::schema::{MANIFESTS, ManifestRow, REFERRERS, TAGGED, UNTAGGED};

/// From before these rows were kept: the first collection that sees it begins to count.
pub(super) const UNKNOWN: u64 = 0;
/// What a bounded removal left for the collection.
pub(super) const LONG_AGO: u64 = 1;

/// Something that the collection must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub repository: String,
    pub digest: Digest,
    /// Seconds since 1970.
    pub since: u64,
}

impl Candidate {
    /// Whether nobody knows since when.
    pub fn is_unknown(&self) -> bool {
        self.since == UNKNOWN
    }
}

/// Candidates after `last`, in order, out of the next `limit` rows, and where those end.
pub fn page(
    transaction: &ReadTransaction,
    last: Option<&(String, String)>,
    limit: usize,
) -> Result<Vec<Candidate>, redb::Error> {
    let table = transaction.open_table(UNTAGGED)?;
    let from = last.map_or(Unbounded, |(repository, digest)| {
        Excluded((repository.as_str(), digest.as_str()))
    });
    let mut found = Vec::new();
    for row in table.range::<(&str, &str)>((from, Unbounded))?.take(limit) {
        let (key, value) = row?;
        let (repository, digest) = key.value();
        match parse(digest) {
            Ok(digest) => found.push(Candidate {
                repository: repository.to_owned(),
                digest,
                since: value.value(),
            }),
            // It hides no other one.
            Err(error) => tracing::warn!(repository, digest, ?error, "candidate is of no digest"),
        }
    }
    Ok(found)
}

/// Something that named the manifest has gone. A row that is there keeps its time, unless it is of
/// an unknown one.
pub(super) fn mark(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
    since: u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(UNTAGGED)?;
    let known = table.get((repository, digest))?.map(|row| row.value());
    if known.is_none_or(|known| known == UNKNOWN || since == LONG_AGO) {
        table.insert((repository, digest), since)?;
    }
    Ok(())
}

/// A row that is there counts as made at `since`, if it is older.
pub(super) fn renew(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
    since: u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(UNTAGGED)?;
    let known = table.get((repository, digest))?.map(|row| row.value());
    if known.is_some_and(|known| known != UNKNOWN && known < since) {
        table.insert((repository, digest), since)?;
    }
    Ok(())
}

/// As [`renew`], for a manifest that somebody is told of; false where it is not here any more.
pub fn renew_told(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    since: u64,
) -> Result<bool, redb::Error> {
    renew(transaction, repository, digest.as_ref(), since)?;
    Ok(row_of(transaction, repository, digest.as_ref())?.is_some())
}

/// Whether there is a row from before `before`.
pub fn is_before(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
    before: u64,
) -> Result<bool, redb::Error> {
    let row = transaction
        .open_table(UNTAGGED)?
        .get((repository, digest.as_ref()))?;
    Ok(row.is_some_and(|row| row.value() != UNKNOWN && row.value() < before))
}

/// The manifest is named again, or the matter is closed.
pub(super) fn clear(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
) -> Result<(), redb::Error> {
    transaction
        .open_table(UNTAGGED)?
        .remove((repository, digest))?;
    Ok(())
}

/// A row whose time nobody knows, or that is of a time which has not come, begins to count now.
pub fn begin(
    transaction: &WriteTransaction,
    candidate: &Candidate,
    now: u64,
) -> Result<(), redb::Error> {
    if still_is(transaction, candidate)? {
        let key = (candidate.repository.as_str(), candidate.digest.as_ref());
        transaction.open_table(UNTAGGED)?.insert(key, now)?;
    }
    Ok(())
}

/// Whether the candidate's row is there and has rested for as long as it was seen to, or longer.
pub(super) fn still_is(
    transaction: &WriteTransaction,
    candidate: &Candidate,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(UNTAGGED)?;
    let row = table.get((candidate.repository.as_str(), candidate.digest.as_ref()))?;
    Ok(row.is_some_and(|row| row.value() <= candidate.since))
}

/// Whether a tag points at it.
pub(super) fn is_tagged(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
) -> Result<bool, redb::Error> {
    any_below(&rows.table(TAGGED)?, repository, digest)
}

/// Whether anything refers to it.
pub(super) fn has_referrers(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
) -> Result<bool, redb::Error> {
    any_below(&rows.table(REFERRERS)?, repository, digest)
}

/// The manifest's row.
pub(super) fn row_of(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
) -> Result<Option<ManifestRow>, redb::Error> {
    let table = rows.table(MANIFESTS)?;
    match table.get((repository, digest))? {
        Some(row) => decode(row.value()).map(Some),
        None => Ok(None),
    }
}

/// Whether a manifest has a reason to be there without the ones that are `doomed`: a tag, an index
/// that names it, its own digest that it was put by, or its subject.
pub(super) fn stays(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
    row: &ManifestRow,
    doomed: &dyn Fn(&str) -> bool,
) -> Result<bool, redb::Error> {
    if row.by_digest || is_tagged(rows, repository, digest)? {
        return Ok(true);
    }
    if let Some(subject) = &row.subject
        && !doomed(subject.as_ref())
        && row_of(rows, repository, subject.as_ref())?.is_some()
    {
        return Ok(true);
    }
    needs::is_needed_beside(rows, repository, digest, doomed)
}
