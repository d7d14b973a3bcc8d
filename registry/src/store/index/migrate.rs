//! From version 1 of the index to version 2: rows that version 1 did not keep, made out of those
//! that it did. Runs once, inside the transaction that raises the version.

use redb::{ReadableTable, WriteTransaction};

use super::rows::decode;
use super::schema::{
    AS_MANIFEST, HELD_BYTES_KEY, HOLDERS, LINKS, MANIFESTS, META, ManifestRow, NEEDS, SIZES,
    TAG_TIMES, TAGGED, TAGS, UNTAGGED, USAGE,
};
use super::untagged::UNKNOWN;

/// The tables of version 2 are there and empty.
pub(super) fn from_1(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    needs(transaction)?;
    sizes(transaction)?;
    tag_times(transaction)?;
    untagged(transaction)
}

fn needs(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut needs = transaction.open_table(NEEDS)?;
    for row in manifests.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, manifest) = key.value();
        let row: ManifestRow = decode(value.value())?;
        for needed in &row.references {
            needs.insert((repository, needed.as_ref(), manifest), ())?;
        }
    }
    Ok(())
}

/// Holders are sorted by digest and then by repository, so each of both is met in one run.
fn sizes(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let holders = transaction.open_table(HOLDERS)?;
    let links = transaction.open_table(LINKS)?;
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut sizes = transaction.open_table(SIZES)?;
    let mut usage = transaction.open_table(USAGE)?;
    let mut total = 0_u64;
    let mut last: Option<(String, String)> = None;
    for row in holders.range::<(&str, &str, u8)>(..)? {
        let (key, _) = row?;
        let (digest, repository, kind) = key.value();
        let known = last.as_ref().filter(|(known, _)| known == digest);
        if known.is_some_and(|(_, of)| of == repository) {
            continue;
        }
        let known_size = match known {
            Some(_) => sizes.get(digest)?.map(|row| row.value()),
            None => None,
        };
        let size = match known_size {
            Some(size) => size,
            None => {
                let size = match kind {
                    AS_MANIFEST => match manifests.get((repository, digest))? {
                        Some(row) => decode::<ManifestRow>(row.value())?.size,
                        None => 0,
                    },
                    _ => links
                        .get((repository, digest))?
                        .map_or(0, |row| row.value().0),
                };
                sizes.insert(digest, size)?;
                total = total.saturating_add(size);
                size
            }
        };
        let used = usage.get(repository)?.map_or(0, |row| row.value());
        usage.insert(repository, used.saturating_add(size))?;
        last = Some((digest.to_owned(), repository.to_owned()));
    }
    transaction
        .open_table(META)?
        .insert(HELD_BYTES_KEY, total)?;
    Ok(())
}

/// A tag was pushed when its manifest was, as far as version 1 knows.
fn tag_times(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut times = transaction.open_table(TAG_TIMES)?;
    for row in transaction.open_table(TAGS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, tag) = key.value();
        let pushed = match manifests.get((repository, value.value()))? {
            Some(row) => decode::<ManifestRow>(row.value())?.pushed,
            None => 0,
        };
        times.insert((repository, tag), pushed)?;
    }
    Ok(())
}

/// Whatever lost its tag under version 1 is looked at by the collection; since when is not known.
fn untagged(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let tagged = transaction.open_table(TAGGED)?;
    let mut untagged = transaction.open_table(UNTAGGED)?;
    for row in manifests.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (repository, digest) = key.value();
        let row: ManifestRow = decode(value.value())?;
        if !row.by_digest && !super::rows::any_below(&tagged, repository, digest)? {
            untagged.insert((repository, digest), UNKNOWN)?;
        }
    }
    Ok(())
}
