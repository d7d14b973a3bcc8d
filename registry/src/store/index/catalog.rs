//! Tags across repositories, a page at a time.

use std::collections::HashSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, WriteTransaction};

use super::rows::{below, digest};
use super::schema::{LINKS, MANIFESTS, NEEDS, TAGGED, TAGS};
use super::untagged::row_of;
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

/// What a step of a repository's removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    pub manifests: usize,
    pub blobs: usize,
    /// Something is left.
    pub more: bool,
}

/// Removes about `limit` rows of a repository: tags first, then manifests, an index before its parts,
/// then links. So whoever looks between two steps sees no name without its image and no image
/// without its parts.
pub fn remove_some(
    transaction: &WriteTransaction,
    repository: &str,
    limit: usize,
    now: u64,
) -> Result<Removed, redb::Error> {
    let tags = first_of(transaction, TAGS, repository, limit)?;
    for tag in &tags {
        manifests::untag(transaction, repository, tag, now)?;
    }
    let mut left = limit - tags.len();
    let mut removed = Removed::default();
    while left > 0 {
        let Some(image) = first_manifest(transaction, repository)? else {
            break;
        };
        let row = row_of(transaction, repository, image.as_ref())?;
        let rows = 1 + row.map_or(0, |row| row.references.len());
        manifests::remove(transaction, repository, &image, now)?;
        left = left.saturating_sub(rows);
        removed.manifests += 1;
    }
    let blobs = first_of(transaction, LINKS, repository, left)?;
    for blob in &blobs {
        links::unlink(transaction, repository, &digest(blob)?)?;
    }
    removed.blobs = blobs.len();
    removed.more = blobs.len() == left;
    Ok(removed)
}

/// A manifest that no other one of the repository names.
fn first_manifest(
    transaction: &WriteTransaction,
    repository: &str,
) -> Result<Option<Digest>, redb::Error> {
    let mut next = first_of(transaction, MANIFESTS, repository, 1)?.pop();
    let needs = transaction.open_table(NEEDS)?;
    let mut seen = HashSet::new();
    let mut top = None;
    while let Some(it) = next.filter(|it| seen.insert(it.clone())) {
        next = below(&needs, repository, &it, "", 1)?.pop();
        top = Some(it);
    }
    top.map(|text| digest(&text)).transpose()
}

/// The second parts of the first keys of the repository.
fn first_of<V: redb::Value>(
    transaction: &WriteTransaction,
    table: redb::TableDefinition<'_, (&'static str, &'static str), V>,
    repository: &str,
    limit: usize,
) -> Result<Vec<String>, redb::Error> {
    use redb::ReadableTable;
    let table = transaction.open_table(table)?;
    let mut found = Vec::new();
    for row in table.range((repository, "")..)?.take(limit) {
        let (key, _) = row?;
        let (of, text) = key.value();
        if of != repository {
            break;
        }
        found.push(text.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::manifests::NewManifest;
    use super::super::{Index, ManifestRow};
    use super::*;
    use crate::digest::{Algorithm, digest_of};
    use crate::events::journal::Notes;
    use crate::store::step::Steps;

    fn digest(number: u64) -> Digest {
        digest_of(Algorithm::Sha256, &number.to_le_bytes())
    }

    fn manifest(number: u64, tags: &[&str], references: &[u64]) -> NewManifest {
        NewManifest {
            repository: "a".to_owned(),
            digest: digest(number),
            row: ManifestRow {
                media_type: String::new(),
                size: 1,
                subject: None,
                artifact_type: None,
                references: references.iter().copied().map(digest).collect(),
                pushed: 1,
                by_digest: tags.is_empty(),
            },
            tags: tags.iter().map(ToString::to_string).collect(),
            descriptor: None,
            required: Vec::new(),
            notes: Notes::default(),
        }
    }

    #[test]
    fn a_repository_goes_without_a_visible_half() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(&folder.path().join("i.redb"), Steps::default()).unwrap();
        let parents = 100..110;
        let pushed = index.write(move |rows| {
            for layer in 200..210 {
                links::link(rows, "a", &digest(layer), 1, 1)?;
            }
            for number in 0..20 {
                manifests::put(rows, &manifest(number, &[], &[200 + number % 10]))?;
            }
            for parent in parents {
                let tag = parent.to_string();
                let children = [parent - 100, parent - 90];
                manifests::put(rows, &manifest(parent, &[&tag, "latest"], &children))?;
            }
            links::link(rows, "b", &digest(200), 1, 1)
        });
        pushed.unwrap();
        let (mut found, mut steps) = ((0, 0), 0);
        loop {
            let removed = index.write(|rows| remove_some(rows, "a", 4, 2)).unwrap();
            found = (found.0 + removed.manifests, found.1 + removed.blobs);
            steps += 1;
            check_whole(&index);
            if !removed.more {
                break;
            }
        }
        assert_eq!(found, (30, 10));
        assert!(steps > 10, "{steps}");
        let left = index.read(|rows| super::super::repositories(rows, None, 10));
        assert_eq!(left.unwrap().items, ["b"]);
    }

    fn check_whole(index: &Index) {
        index
            .read(|rows| {
                for named in tags(rows, None, None, 100)?.items {
                    assert!(manifests::get(rows, "a", &named.digest)?.is_some());
                }
                for (parent, row) in manifests::list(rows, "a")? {
                    for needed in &row.references {
                        let is_here = manifests::get(rows, "a", needed)?.is_some()
                            || links::size(rows, "a", needed)?.is_some();
                        assert!(is_here, "{parent} has lost a part");
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}
