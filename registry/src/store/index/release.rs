//! Letting go of an image: its manifest and what only it needed in its repository.
//!
//! Rows only. A manifest stays while a tag points at it, an index of its repository names it, or it
//! was put by its digest; a
//! blob's link stays while any manifest of its repository names it. Signatures and the like that
//! were pushed without a tag go with the manifest that they refer to.

use std::collections::HashSet;

use oci_spec::image::Digest;
use redb::{ReadableTable, WriteTransaction};

use super::rows::{decode, digest as parse};
use super::schema::{MANIFESTS, ManifestRow, REFERRERS, TAGGED};
use super::{links, manifests};

/// What an image's removal may set free is looked at this often at most: an image's own parts are
/// fewer, and a document that names itself in circles is no image.
const MAX_PARTS: usize = 100_000;

/// Removes a tag and, where nothing else of the repository needs it, what the tag pointed at.
/// Answers whether there was such a tag.
pub fn untag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
) -> Result<bool, redb::Error> {
    let target = {
        let tags = transaction.open_table(super::schema::TAGS)?;
        let row = tags.get((repository, tag))?;
        row.map(|row| parse(row.value())).transpose()?
    };
    let Some(target) = target else {
        return Ok(false);
    };
    manifests::untag(transaction, repository, tag)?;
    release(transaction, repository, vec![target])?;
    Ok(true)
}

/// Removes a manifest, its tags, and what only it needed. Answers whether there was one.
pub fn remove(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let Some(row) = row_of(transaction, repository, digest)? else {
        return Ok(false);
    };
    let mut freed = row.references;
    freed.extend(referrers_of(transaction, repository, digest)?);
    manifests::remove(transaction, repository, digest)?;
    release(transaction, repository, freed)?;
    Ok(true)
}

/// Removes a manifest and what only it needed, unless a tag or an index needs it.
pub fn unneeded(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<(), redb::Error> {
    release(transaction, repository, vec![digest.clone()])
}

/// Removes those that nothing needs, and then what only they needed.
fn release(
    transaction: &WriteTransaction,
    repository: &str,
    mut freed: Vec<Digest>,
) -> Result<(), redb::Error> {
    let mut needed = None;
    for _ in 0..MAX_PARTS {
        let Some(digest) = freed.pop() else {
            break;
        };
        if needed.is_none() {
            needed = Some(needed_in(transaction, repository)?);
        }
        if needed
            .as_ref()
            .is_some_and(|needed| needed.contains(digest.as_ref()))
        {
            continue;
        }
        match row_of(transaction, repository, &digest)? {
            None => {
                links::unlink(transaction, repository, &digest)?;
            }
            // Wanted by its digest: only its removal by that digest ends it.
            Some(row) if row.by_digest => {}
            Some(_) if is_tagged(transaction, repository, &digest)? => {}
            Some(row) => {
                freed.extend(row.references);
                freed.extend(referrers_of(transaction, repository, &digest)?);
                manifests::remove(transaction, repository, &digest)?;
                links::unlink(transaction, repository, &digest)?;
                needed = None;
            }
        }
    }
    Ok(())
}

fn row_of(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Option<ManifestRow>, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    match table.get((repository, digest.as_ref()))? {
        Some(row) => decode(row.value()).map(Some),
        None => Ok(None),
    }
}

/// Everything that the manifests of a repository name.
fn needed_in(
    transaction: &WriteTransaction,
    repository: &str,
) -> Result<HashSet<String>, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    let mut needed = HashSet::new();
    for row in table.range((repository, "")..)? {
        let (key, value) = row?;
        if key.value().0 != repository {
            break;
        }
        let manifest: ManifestRow = decode(value.value())?;
        needed.extend(manifest.references.iter().map(Digest::to_string));
    }
    Ok(needed)
}

fn is_tagged(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(TAGGED)?;
    let mut rows = table.range((repository, digest.as_ref(), "")..)?;
    match rows.next() {
        Some(row) => {
            let (key, _) = row?;
            let (of, to, _) = key.value();
            Ok((of, to) == (repository, digest.as_ref()))
        }
        None => Ok(false),
    }
}

fn referrers_of(
    transaction: &WriteTransaction,
    repository: &str,
    subject: &Digest,
) -> Result<Vec<Digest>, redb::Error> {
    let table = transaction.open_table(REFERRERS)?;
    let mut found = Vec::new();
    for row in table.range((repository, subject.as_ref(), "")..)? {
        let (key, _) = row?;
        let (of, to, referrer) = key.value();
        if (of, to) != (repository, subject.as_ref()) {
            break;
        }
        found.push(parse(referrer)?);
    }
    Ok(found)
}
