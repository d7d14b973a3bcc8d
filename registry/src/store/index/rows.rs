//! Small moves over rows that the tables' modules share: prefixes, JSON values, table creation.

use std::ops::Bound::{Excluded, Unbounded};

use redb::{
    Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, Value,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::migrate;
use super::schema::{
    HOLDERS, LINKS, MANIFESTS, META, NEEDS, PULLED, REFERRERS, REPOSITORIES, SCHEMA_KEY,
    SCHEMA_VERSION, SIZES, TAG_TIMES, TAGGED, TAGS, UNTAGGED, USAGE,
};

/// Tables of a transaction, for questions that readers and writers ask alike. A writer must let go
/// of a table before it opens it again.
pub(super) trait Rows {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<impl ReadableTable<K, V>, redb::Error>;
}

impl Rows for ReadTransaction {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<impl ReadableTable<K, V>, redb::Error> {
        Ok(self.open_table(definition)?)
    }
}

impl Rows for WriteTransaction {
    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<impl ReadableTable<K, V>, redb::Error> {
        Ok(self.open_table(definition)?)
    }
}

/// The version that the file says; `None` for a file without tables of ours.
pub(super) fn schema_version(transaction: &ReadTransaction) -> Result<Option<u64>, redb::Error> {
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get(SCHEMA_KEY)?.map(|row| row.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes absent tables, so that readers find them. A file of a later program is left as it is; one of
/// an earlier program gets the rows that it lacks.
pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let found = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(SCHEMA_KEY)?.map(|row| row.value());
        if found.is_some_and(|found| found > SCHEMA_VERSION) {
            return Ok(());
        }
        meta.insert(SCHEMA_KEY, SCHEMA_VERSION)?;
        found.unwrap_or(SCHEMA_VERSION)
    };
    transaction.open_table(REPOSITORIES)?.len()?;
    transaction.open_table(LINKS)?.len()?;
    transaction.open_table(MANIFESTS)?.len()?;
    transaction.open_table(TAGS)?.len()?;
    transaction.open_table(TAGGED)?.len()?;
    transaction.open_table(REFERRERS)?.len()?;
    transaction.open_table(HOLDERS)?.len()?;
    transaction.open_table(NEEDS)?.len()?;
    transaction.open_table(SIZES)?.len()?;
    transaction.open_table(USAGE)?.len()?;
    transaction.open_table(TAG_TIMES)?.len()?;
    transaction.open_table(UNTAGGED)?.len()?;
    transaction.open_table(PULLED)?.len()?;
    if found < SCHEMA_VERSION {
        migrate::from_1(transaction)?;
    }
    Ok(())
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

/// Whether any key of the table begins with these two parts.
pub(super) fn any_below<V: Value + 'static>(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), V>,
    first: &str,
    second: &str,
) -> Result<bool, redb::Error> {
    match table.range((first, second, "")..)?.next() {
        Some(row) => {
            let (key, _) = row?;
            let (a, b, _) = key.value();
            Ok((a, b) == (first, second))
        }
        None => Ok(false),
    }
}

/// The last parts of the keys that begin with these two, after `last`, at most `limit` of them.
pub(super) fn below<V: Value + 'static>(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), V>,
    first: &str,
    second: &str,
    last: &str,
    limit: usize,
) -> Result<Vec<String>, redb::Error> {
    let mut found = Vec::new();
    let from = Excluded((first, second, last));
    for row in table.range::<(&str, &str, &str)>((from, Unbounded))? {
        let (key, _) = row?;
        let (a, b, c) = key.value();
        if (a, b) != (first, second) || found.len() == limit {
            break;
        }
        found.push(c.to_owned());
    }
    Ok(found)
}
