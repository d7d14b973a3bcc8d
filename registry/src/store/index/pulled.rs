//! When a tag or a manifest was last pulled, and how often.
//!
//! Both stand in one table: a digest has a colon and a tag never does.

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::schema::{MANIFESTS, PULLED, TAGS};

/// Pulls of one tag or manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulls {
    /// Seconds since 1970.
    pub last: u64,
    pub count: u64,
}

/// Pulls that are not recorded yet: repository, tag or digest, and how many.
pub type Noted = (String, String, Pulls);

/// Adds to what is recorded. What has been removed since is passed over.
pub fn add(transaction: &WriteTransaction, noted: &[Noted]) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let tags = transaction.open_table(TAGS)?;
    let mut pulled = transaction.open_table(PULLED)?;
    for (repository, reference, pulls) in noted {
        let key = (repository.as_str(), reference.as_str());
        let is_here = match reference.contains(':') {
            true => manifests.get(key)?.is_some(),
            false => tags.get(key)?.is_some(),
        };
        if !is_here {
            continue;
        }
        let (last, count) = pulled.get(key)?.map_or((0, 0), |row| row.value());
        let sum = (last.max(pulls.last), count.saturating_add(pulls.count));
        pulled.insert(key, sum)?;
    }
    Ok(())
}

/// Pulls of a manifest by its digest or by any tag that pointed at it then.
pub fn of_manifest(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Option<Pulls>, redb::Error> {
    get(transaction, repository, digest.as_ref())
}

/// Pulls of a tag by its name, whatever it pointed at then.
pub fn of_tag(
    transaction: &ReadTransaction,
    repository: &str,
    tag: &str,
) -> Result<Option<Pulls>, redb::Error> {
    get(transaction, repository, tag)
}

fn get(
    transaction: &ReadTransaction,
    repository: &str,
    reference: &str,
) -> Result<Option<Pulls>, redb::Error> {
    let row = transaction
        .open_table(PULLED)?
        .get((repository, reference))?;
    Ok(row.map(|row| {
        let (last, count) = row.value();
        Pulls { last, count }
    }))
}

/// The tag or manifest is gone.
pub(super) fn forget(
    transaction: &WriteTransaction,
    repository: &str,
    reference: &str,
) -> Result<(), redb::Error> {
    transaction
        .open_table(PULLED)?
        .remove((repository, reference))?;
    Ok(())
}
