//! What the manifests of a repository need, asked from the needed side.
//!
//! A manifest needs its configuration, its layers and, as an index, its children. It does not need
//! its subject: that direction is the table `referrers`.

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::{Rows, any_below, below, digest as parse};
use super::schema::NEEDS;

/// A manifest needs all of `needed` from now on.
pub(super) fn add(
    transaction: &WriteTransaction,
    repository: &str,
    manifest: &str,
    needed: &[Digest],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(NEEDS)?;
    for digest in needed {
        table.insert((repository, digest.as_ref(), manifest), ())?;
    }
    Ok(())
}

/// A manifest is gone, and so is its need.
pub(super) fn remove(
    transaction: &WriteTransaction,
    repository: &str,
    manifest: &str,
    needed: &[Digest],
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(NEEDS)?;
    for digest in needed {
        table.remove((repository, digest.as_ref(), manifest))?;
    }
    Ok(())
}

/// Whether any manifest of the repository needs it.
pub(super) fn is_needed(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
) -> Result<bool, redb::Error> {
    any_below(&rows.table(NEEDS)?, repository, digest)
}

/// Whether any manifest of the repository needs it that is not among `doomed`.
pub(super) fn is_needed_beside(
    rows: &impl Rows,
    repository: &str,
    digest: &str,
    doomed: &dyn Fn(&str) -> bool,
) -> Result<bool, redb::Error> {
    let table = rows.table(NEEDS)?;
    for row in table.range((repository, digest, "")..)? {
        let (key, _) = row?;
        let (of, needed, manifest) = key.value();
        if (of, needed) != (repository, digest) {
            break;
        }
        if !doomed(manifest) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The manifests of the repository that need a digest, in order, at most `limit`.
pub fn needing(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
    limit: usize,
) -> Result<Vec<Digest>, redb::Error> {
    let table = transaction.open_table(NEEDS)?;
    let found = below(&table, repository, digest.as_ref(), "", limit)?;
    found.iter().map(|text| parse(text)).collect()
}
