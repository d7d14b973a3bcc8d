//! Small moves over rows that the tables' modules share: prefixes, JSON values, table creation.

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::{
    AS_LINK, AS_MANIFEST, HOLDERS, LINKS, MANIFESTS, META, REFERRERS, REPOSITORIES, SCHEMA_KEY,
    SCHEMA_VERSION, TAGGED, TAGS,
};

/// Makes absent tables, so that readers find them, and answers the file's schema version. A file
/// of a later program is left as it is.
pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let found = meta.get(SCHEMA_KEY)?.map(|row| row.value());
    match found {
        Some(found) if found > SCHEMA_VERSION => return Ok(found),
        Some(_) => {}
        None => {
            meta.insert(SCHEMA_KEY, SCHEMA_VERSION)?;
        }
    }
    transaction.open_table(REPOSITORIES)?.len()?;
    transaction.open_table(LINKS)?.len()?;
    transaction.open_table(MANIFESTS)?.len()?;
    transaction.open_table(TAGS)?.len()?;
    transaction.open_table(TAGGED)?.len()?;
    transaction.open_table(REFERRERS)?.len()?;
    transaction.open_table(HOLDERS)?.len()?;
    Ok(found.unwrap_or(SCHEMA_VERSION))
}

/// A value of ours from its JSON. What does not parse was damaged or written by no version of ours.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| redb::Error::Corrupted(format!("row does not parse: {error}")))
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value)
        .map_err(|error| redb::Error::Corrupted(format!("row cannot be written: {error}")))
}

/// A digest out of a key.
pub(super) fn digest(text: &str) -> Result<oci_spec::image::Digest, redb::Error> {
    config::name::parse_digest(text)
        .map_err(|error| redb::Error::Corrupted(format!("digest in a key: {error}")))
}

/// Whether any row of a table keyed (repository, …) belongs to `repository`.
macro_rules! any_row_of {
    ($transaction:expr, $table:expr, $repository:expr) => {{
        let table = $transaction.open_table($table)?;
        let mut rows = table.range(($repository, "")..)?;
        match rows.next() {
            Some(row) => row?.0.value().0 == $repository,
            None => false,
        }
    }};
}

/// Names the repository in the catalog.
pub(super) fn add_repository(
    transaction: &WriteTransaction,
    repository: &str,
    now: u64,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(REPOSITORIES)?;
    if table.get(repository)?.is_none() {
        table.insert(repository, now)?;
    }
    Ok(())
}

/// Takes a repository that holds nothing more out of the catalog.
pub(super) fn drop_empty_repository(
    transaction: &WriteTransaction,
    repository: &str,
) -> Result<(), redb::Error> {
    let holds = any_row_of!(transaction, LINKS, repository)
        || any_row_of!(transaction, MANIFESTS, repository);
    if !holds {
        transaction.open_table(REPOSITORIES)?.remove(repository)?;
    }
    Ok(())
}

pub(super) fn hold(
    transaction: &WriteTransaction,
    digest: &str,
    repository: &str,
    kind: u8,
) -> Result<(), redb::Error> {
    debug_assert!(matches!(kind, AS_LINK | AS_MANIFEST));
    transaction
        .open_table(HOLDERS)?
        .insert((digest, repository, kind), ())?;
    Ok(())
}

pub(super) fn release(
    transaction: &WriteTransaction,
    digest: &str,
    repository: &str,
    kind: u8,
) -> Result<(), redb::Error> {
    transaction
        .open_table(HOLDERS)?
        .remove((digest, repository, kind))?;
    Ok(())
}
