//! Rows that an immutable tag keeps as they are: decided inside the write transaction, so that no
//! push in between can get around it.

use std::collections::HashSet;

use oci_spec::image::Digest;
use redb::{ReadableTable, WriteTransaction};

use super::rows::below;
use super::schema::{NEEDS, TAGGED, TAGS};

/// The first of these tags that is there and points at something else than `digest`.
pub fn moved<'a>(
    transaction: &WriteTransaction,
    repository: &str,
    tags: impl IntoIterator<Item = &'a String>,
    digest: &Digest,
) -> Result<Option<String>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    for tag in tags {
        let at = table.get((repository, tag.as_str()))?;
        if at.is_some_and(|at| at.value() != digest.as_ref()) {
            return Ok(Some(tag.clone()));
        }
    }
    Ok(None)
}

/// The first tag of the repository that `holds` says is immutable.
pub fn first(
    transaction: &WriteTransaction,
    repository: &str,
    holds: &dyn Fn(&str) -> bool,
) -> Result<Option<String>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    for row in table.range((repository, "")..)? {
        let (key, _) = row?;
        let (of, tag) = key.value();
        if of != repository {
            break;
        }
        if holds(tag) {
            return Ok(Some(tag.to_owned()));
        }
    }
    Ok(None)
}

/// A tag that `holds` says is immutable and whose image needs the manifest or blob, by however many
/// indexes in between.
pub fn needing(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    holds: &dyn Fn(&str) -> bool,
) -> Result<Option<String>, redb::Error> {
    let needs = transaction.open_table(NEEDS)?;
    let tagged = transaction.open_table(TAGGED)?;
    let mut seen = HashSet::new();
    let mut next = vec![digest.to_string()];
    while let Some(digest) = next.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        let tags = below(&tagged, repository, &digest, "", usize::MAX)?;
        if let Some(tag) = tags.into_iter().find(|tag| holds(tag)) {
            return Ok(Some(tag));
        }
        next.extend(below(&needs, repository, &digest, "", usize::MAX)?);
    }
    Ok(None)
}
