//! Tags across repositories, a page at a time.

use std::ops::Bound::{Excluded, Included, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, WriteTransaction};

use super::rows::digest;
use super::schema::{LINKS, MANIFESTS, TAGGED, TAGS};
use super::{Page, links, manifests};

/// A tag and what it points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub repository: String,
    pub tag: String,
    pub digest: Digest,
}

/// Tags of one repository, or with `None` of all, after the repository and tag `last`.
pub fn tags(
    transaction: &ReadTransaction,
    repository: Option<&str>,
    last: Option<(&str, &str)>,
    limit: usize,
) -> Result<Page<Named>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    let first = Included((repository.unwrap_or_default(), ""));
    let from = last.map_or(first, Excluded);
    let rows = table.range::<(&str, &str)>((from, Unbounded))?;
    let named = rows.map_while(|row| {
        let (key, value) = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error.into())),
        };
        let (of, tag) = key.value();
        if repository.is_some_and(|repository| repository != of) {
            return None;
        }
        Some(digest(value.value()).map(|digest| Named {
            repository: of.to_owned(),
            tag: tag.to_owned(),
            digest,
        }))
    });
    Page::take(named, limit)
}

/// So many tags of one manifest are told; more serve nobody.
const MAX_TAGS: usize = 10_000;

/// Tags that point at a manifest.
pub fn tags_of(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Vec<String>, redb::Error> {
    let table = transaction.open_table(TAGGED)?;
    let mut found = Vec::new();
    for row in table
        .range((repository, digest.as_ref(), "")..)?
        .take(MAX_TAGS)
    {
        let (key, _) = row?;
        let (of, to, tag) = key.value();
        if (of, to) != (repository, digest.as_ref()) {
            break;
        }
        found.push(tag.to_owned());
    }
    Ok(found)
}

/// Removes at most `limit` manifests, with their tags, and links of a repository. Answers how many
/// of both there were; fewer than `limit` means that nothing is left.
pub fn remove_some(
    transaction: &WriteTransaction,
    repository: &str,
    limit: usize,
    now: u64,
) -> Result<(usize, usize), redb::Error> {
    let images = first_of(transaction, MANIFESTS, repository, limit)?;
    for image in &images {
        manifests::remove(transaction, repository, image, now)?;
    }
    let left = limit - images.len();
    let blobs = first_of(transaction, LINKS, repository, left)?;
    for blob in &blobs {
        links::unlink(transaction, repository, blob)?;
    }
    Ok((images.len(), blobs.len()))
}

fn first_of<V: redb::Value>(
    transaction: &WriteTransaction,
    table: redb::TableDefinition<'_, (&'static str, &'static str), V>,
    repository: &str,
    limit: usize,
) -> Result<Vec<Digest>, redb::Error> {
    use redb::ReadableTable;
    let table = transaction.open_table(table)?;
    let mut found = Vec::new();
    for row in table.range((repository, "")..)?.take(limit) {
        let (key, _) = row?;
        let (of, text) = key.value();
        if of != repository {
            break;
        }
        found.push(digest(text)?);
    }
    Ok(found)
}
