//! Which blobs a repository shows, and who holds a blob at all.

use std::collections::HashSet;
use std::ops::Bound::{Excluded, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::needs;
use super::rows::{add_repository, digest, drop_empty_repository};
use super::schema::{AS_LINK, HOLDERS, LINKS, SIZES};
use super::usage::{hold, release};

/// The size of a blob that the repository shows.
pub fn size(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Option<u64>, redb::Error> {
    let table = transaction.open_table(LINKS)?;
    let row = table.get((repository, digest.as_ref()))?;
    Ok(row.map(|row| row.value().0))
}

/// Whether `from`, or with `None` any repository, shows the blob.
pub fn is_linked(
    transaction: &ReadTransaction,
    from: Option<&str>,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    if let Some(from) = from {
        return Ok(size(transaction, from, digest)?.is_some());
    }
    let table = transaction.open_table(HOLDERS)?;
    for row in table.range((digest.as_ref(), "", 0)..)? {
        let (key, ()) = row.map(|(key, _)| (key, ()))?;
        let (held, _, kind) = key.value();
        if held != digest.as_ref() {
            break;
        }
        if kind == AS_LINK {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first `limit` repositories that show the blob.
pub fn holding(
    transaction: &ReadTransaction,
    digest: &Digest,
    limit: usize,
) -> Result<Vec<String>, redb::Error> {
    let table = transaction.open_table(HOLDERS)?;
    let mut found = Vec::new();
    for row in table.range((digest.as_ref(), "", 0)..)? {
        let (key, _) = row?;
        let (held, repository, kind) = key.value();
        if held != digest.as_ref() || found.len() == limit {
            break;
        }
        if kind == AS_LINK {
            found.push(repository.to_owned());
        }
    }
    Ok(found)
}

/// Whether any repository holds the blob, as a blob or as a manifest.
pub fn is_held(transaction: &ReadTransaction, digest: &Digest) -> Result<bool, redb::Error> {
    let table = transaction.open_table(HOLDERS)?;
    let mut rows = table.range((digest.as_ref(), "", 0)..)?;
    match rows.next() {
        Some(row) => Ok(row?.0.value().0 == digest.as_ref()),
        None => Ok(false),
    }
}

/// Rows of repositories that a collection would remove: links and manifests.
#[derive(Debug, Default)]
pub struct Doomed {
    pub links: HashSet<(String, String)>,
    pub manifests: HashSet<(String, String)>,
}

/// Whether anything holds the blob that is not `doomed`.
pub fn is_held_beside(
    transaction: &ReadTransaction,
    digest: &Digest,
    doomed: &Doomed,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(HOLDERS)?;
    for row in table.range((digest.as_ref(), "", 0)..)? {
        let (key, _) = row?;
        let (held, repository, kind) = key.value();
        if held != digest.as_ref() {
            break;
        }
        let pair = (repository.to_owned(), held.to_owned());
        let goes = match kind {
            AS_LINK => doomed.links.contains(&pair),
            _ => doomed.manifests.contains(&pair),
        };
        if !goes {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every digest that any row names.
pub fn held(transaction: &ReadTransaction) -> Result<Vec<Digest>, redb::Error> {
    let table = transaction.open_table(SIZES)?;
    let rows = table.range::<&str>(..)?;
    rows.map(|row| digest(row?.0.value())).collect()
}

/// Shows a blob in a repository. The file must be durable by now.
pub fn link(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    size: u64,
    now: u64,
) -> Result<(), redb::Error> {
    add_repository(transaction, repository, now)?;
    hold(transaction, digest.as_ref(), repository, AS_LINK, size)?;
    transaction
        .open_table(LINKS)?
        .insert((repository, digest.as_ref()), (size, now))?;
    Ok(())
}

/// Hides a blob from a repository; answers whether it was there.
pub fn unlink(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let was = transaction
        .open_table(LINKS)?
        .remove((repository, digest.as_ref()))?
        .is_some();
    if was {
        release(transaction, digest.as_ref(), repository, AS_LINK)?;
        drop_empty_repository(transaction, repository)?;
    }
    Ok(was)
}

/// Where a walk over links stands: repository and digest of the last one.
pub type Place = (String, String);

/// Repositories and blobs, and where to go on, if there are more.
pub type Unneeded = (Vec<(String, Digest)>, Option<Place>);

/// Of the next `limit` links after `last`, those that were made at a time which `made` picks and that
/// no manifest of their repository needs. Changes nothing.
pub fn unneeded(
    transaction: &ReadTransaction,
    made: &dyn Fn(u64) -> bool,
    last: Option<&Place>,
    limit: usize,
) -> Result<Unneeded, redb::Error> {
    let table = transaction.open_table(LINKS)?;
    let from = last.map_or(Unbounded, |(repository, digest)| {
        Excluded((repository.as_str(), digest.as_str()))
    });
    let mut found = Vec::new();
    let mut rows = table.range::<(&str, &str)>((from, Unbounded))?;
    let mut place = None;
    for row in rows.by_ref().take(limit) {
        let (key, value) = row?;
        let ((repository, text), (_, linked)) = (key.value(), value.value());
        if made(linked) && !needs::is_needed(transaction, repository, text)? {
            match digest(text) {
                Ok(digest) => found.push((repository.to_owned(), digest)),
                // It hides no other one.
                Err(error) => tracing::warn!(repository, text, ?error, "link is of no digest"),
            }
        }
        place = Some((repository.to_owned(), text.to_owned()));
    }
    let more = rows.next().is_some();
    Ok((found, place.filter(|_| more)))
}

/// Hides the blob if its link is still as old as [`unneeded`] saw it and still nobody needs it.
pub fn unlink_unneeded(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    before: u64,
) -> Result<bool, redb::Error> {
    let linked = {
        let table = transaction.open_table(LINKS)?;
        let row = table.get((repository, digest.as_ref()))?;
        row.map(|row| row.value().1)
    };
    let old = linked.is_some_and(|linked| linked < before);
    if !old || needs::is_needed(transaction, repository, digest.as_ref())? {
        return Ok(false);
    }
    unlink(transaction, repository, digest)
}

/// A link that no manifest needs any more counts as made now: whoever has just been told that the
/// blob is here has the whole grace to name it. Answers whether there is a link.
pub fn rest(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    now: u64,
) -> Result<bool, redb::Error> {
    let mut table = transaction.open_table(LINKS)?;
    let size = table
        .get((repository, digest.as_ref()))?
        .map(|row| row.value().0);
    if let Some(size) = size
        && !needs::is_needed(transaction, repository, digest.as_ref())?
    {
        table.insert((repository, digest.as_ref()), (size, now))?;
    }
    Ok(size.is_some())
}

/// Whether only the age of its link keeps a blob, and that is from before `before`.
pub fn is_fading(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
    before: u64,
) -> Result<bool, redb::Error> {
    let linked = {
        let table = transaction.open_table(LINKS)?;
        let row = table.get((repository, digest.as_ref()))?;
        row.map(|row| row.value().1)
    };
    match linked {
        Some(linked) if linked < before => {
            Ok(!needs::is_needed(transaction, repository, digest.as_ref())?)
        }
        _ => Ok(false),
    }
}
