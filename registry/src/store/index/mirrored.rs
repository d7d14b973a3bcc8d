//! Which manifests and tags came through the mirror. What has no row here was put by hand: it is
//! never asked for again and never evicted.
//!
//! ```text
//! mirrored       repository, digest -> MirroredManifest
//! mirrored_tags  repository, tag    -> MirroredTag
//! ```
//!
//! The rows are written before what they tell about and may outlive it; then they mean nothing. An
//! older program passes the tables over.

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rows::{decode, digest as parse, encode};
use super::schema::{HOLDERS, TAGGED};
use super::untagged::row_of;

const MANIFESTS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("mirrored");
const TAGS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("mirrored_tags");

/// When a manifest came; seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirroredManifest {
    pub fetched: u64,
    /// When somebody last pulled it.
    pub used: u64,
}

/// A tag that follows the other registry's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirroredTag {
    /// What the mirror pointed it at; two while it moves. A tag that points elsewhere was moved by
    /// hand.
    pub digests: Vec<Digest>,
    /// When the other registry last said so; seconds since 1970.
    pub checked: u64,
}

type Rows<'a> = TableDefinition<'a, (&'static str, &'static str), &'static [u8]>;

fn row<T: DeserializeOwned>(
    transaction: &ReadTransaction,
    table: Rows<'_>,
    key: (&str, &str),
) -> Result<Option<T>, redb::Error> {
    let table = match transaction.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match table.get(key)? {
        Some(row) => decode(row.value()).map(Some),
        None => Ok(None),
    }
}

/// The manifest's row, where it came through the mirror.
pub fn manifest(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Option<MirroredManifest>, redb::Error> {
    row(transaction, MANIFESTS, (repository, digest.as_ref()))
}

/// Whether the manifest came through the mirror.
pub(super) fn is_mirrored(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    Ok(table.get((repository, digest.as_ref()))?.is_some())
}

/// The tag's row, where it came through the mirror.
pub fn tag(
    transaction: &ReadTransaction,
    repository: &str,
    tag: &str,
) -> Result<Option<MirroredTag>, redb::Error> {
    row(transaction, TAGS, (repository, tag))
}

/// Records that a manifest comes, or came, through the mirror.
pub fn set_manifest(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    row: MirroredManifest,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MANIFESTS)?;
    table.insert((repository, digest.as_ref()), encode(&row)?.as_slice())?;
    Ok(())
}

/// Records where the mirror points a tag.
pub fn set_tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    row: &MirroredTag,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(TAGS)?;
    table.insert((repository, tag), encode(row)?.as_slice())?;
    Ok(())
}

/// Notes pulls of manifests that came through the mirror; others are passed over.
pub fn note_used(
    transaction: &WriteTransaction,
    pulls: &[(String, Digest, u64)],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MANIFESTS)?;
    for (repository, digest, used) in pulls {
        let key = (repository.as_str(), digest.as_ref());
        let known = table.get(key)?.map(|row| decode(row.value()));
        let known: Option<MirroredManifest> = known.transpose()?;
        if let Some(row) = known.filter(|row| row.used < *used) {
            let row = MirroredManifest { used: *used, ..row };
            table.insert(key, encode(&row)?.as_slice())?;
        }
    }
    Ok(())
}

/// Takes the manifest's row away if it was last used before `leased`; answers whether it was.
pub fn taken(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    leased: u64,
) -> Result<bool, redb::Error> {
    let mut table = transaction.open_table(MANIFESTS)?;
    let key = (repository, digest.as_ref());
    let row = table.get(key)?.map(|row| decode(row.value()));
    let row: Option<MirroredManifest> = row.transpose()?;
    let unused = row.is_some_and(|row| row.used < leased);
    if unused {
        table.remove(key)?;
    }
    Ok(unused)
}

/// From now on the manifest counts as put by hand, or is nothing any more.
pub fn forget_manifest(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<(), redb::Error> {
    transaction
        .open_table(MANIFESTS)?
        .remove((repository, digest.as_ref()))?;
    Ok(())
}

/// Takes the row of a manifest that is not here away, unless it came after `leased`: the row is written
/// first, and the manifest may be on its way.
pub fn forget_absent(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    leased: u64,
) -> Result<(), redb::Error> {
    if row_of(transaction, repository, digest.as_ref())?.is_some() {
        return Ok(());
    }
    let mut table = transaction.open_table(MANIFESTS)?;
    let key = (repository, digest.as_ref());
    let row = table.get(key)?.map(|row| decode(row.value()));
    let row: Option<MirroredManifest> = row.transpose()?;
    if row.is_some_and(|row| row.fetched < leased) {
        table.remove(key)?;
    }
    Ok(())
}

/// From now on the tag counts as put by hand.
pub fn forget_tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
) -> Result<(), redb::Error> {
    transaction.open_table(TAGS)?.remove((repository, tag))?;
    Ok(())
}

/// Every manifest that came through the mirror, in the order of repositories.
pub fn manifests(
    transaction: &ReadTransaction,
) -> Result<Vec<(String, Digest, MirroredManifest)>, redb::Error> {
    let table = match transaction.open_table(MANIFESTS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for row in table.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, digest) = key.value();
        found.push((
            repository.to_owned(),
            parse(digest)?,
            decode(value.value())?,
        ));
    }
    Ok(found)
}

/// Whether a tag that was put by hand points at the manifest.
pub fn is_tagged_by_hand(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    for row in transaction
        .open_table(TAGGED)?
        .range((repository, digest.as_ref(), "")..)?
    {
        let (key, _) = row?;
        let (of, to, name) = key.value();
        if (of, to) != (repository, digest.as_ref()) {
            break;
        }
        let ours = tag(transaction, repository, name)?;
        if !ours.is_some_and(|row| row.digests.contains(digest)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any other repository than `repositories` holds the blob.
pub fn is_held_elsewhere(
    transaction: &ReadTransaction,
    digest: &Digest,
    repositories: &std::collections::HashSet<String>,
) -> Result<bool, redb::Error> {
    let table = transaction.open_table(HOLDERS)?;
    for row in table.range((digest.as_ref(), "", 0)..)? {
        let (key, _) = row?;
        let (held, repository, _) = key.value();
        if held != digest.as_ref() {
            break;
        }
        if !repositories.contains(repository) {
            return Ok(true);
        }
    }
    Ok(false)
}
