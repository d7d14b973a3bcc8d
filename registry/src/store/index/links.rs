//! Which blobs a repository shows, and who holds a blob at all.

use std::collections::HashSet;

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::{add_repository, decode, digest, drop_empty_repository, hold, release};
use super::schema::{AS_LINK, HOLDERS, LINKS, MANIFESTS, ManifestRow};

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

/// Whether anything holds the blob that is not among `doomed` links.
pub fn is_held_beside(
    transaction: &ReadTransaction,
    digest: &Digest,
    doomed: &HashSet<(String, Digest)>,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(HOLDERS)?;
    for row in table.range((digest.as_ref(), "", 0)..)? {
        let (key, _) = row?;
        let (held, repository, kind) = key.value();
        if held != digest.as_ref() {
            break;
        }
        let pair = (repository.to_owned(), digest.clone());
        if kind != AS_LINK || !doomed.contains(&pair) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every digest that any row names.
pub fn held(transaction: &ReadTransaction) -> Result<Vec<Digest>, redb::Error> {
    let mut found: Vec<Digest> = Vec::new();
    for row in transaction
        .open_table(HOLDERS)?
        .range::<(&str, &str, u8)>(..)?
    {
        let (key, _) = row?;
        let (text, _, _) = key.value();
        if found.last().is_none_or(|last| last.as_ref() != text) {
            found.push(digest(text)?);
        }
    }
    Ok(found)
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
    hold(transaction, digest.as_ref(), repository, AS_LINK)?;
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

/// Links made before `before` that no manifest of their repository needs. Pure mark: changes
/// nothing.
pub fn unneeded(
    transaction: &ReadTransaction,
    before: u64,
) -> Result<Vec<(String, Digest)>, redb::Error> {
    let mut needed: HashSet<(String, String)> = HashSet::new();
    for row in transaction
        .open_table(MANIFESTS)?
        .range::<(&str, &str)>(..)?
    {
        let (key, value) = row?;
        let (repository, _) = key.value();
        let manifest: ManifestRow = decode(value.value())?;
        let references = manifest.references.iter().map(Digest::to_string);
        needed.extend(references.map(|reference| (repository.to_owned(), reference)));
    }
    let mut found = Vec::new();
    for row in transaction.open_table(LINKS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let ((repository, text), (_, linked)) = (key.value(), value.value());
        let pair = (repository.to_owned(), text.to_owned());
        if linked < before && !needed.contains(&pair) {
            found.push((pair.0, digest(text)?));
        }
    }
    Ok(found)
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
    if !old || is_referenced(transaction, repository, digest)? {
        return Ok(false);
    }
    unlink(transaction, repository, digest)
}

fn is_referenced(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    for row in table.range((repository, "")..)? {
        let (key, value) = row?;
        if key.value().0 != repository {
            break;
        }
        let manifest: ManifestRow = decode(value.value())?;
        if manifest.references.contains(digest) {
            return Ok(true);
        }
    }
    Ok(false)
}
