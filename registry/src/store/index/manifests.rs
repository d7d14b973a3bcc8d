//! Manifests, their tags and their referrers.

use std::ops::Bound::{Excluded, Included, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::{add_repository, decode, digest, drop_empty_repository, encode, hold, release};
use super::schema::{AS_MANIFEST, LINKS, MANIFESTS, ManifestRow, REFERRERS, TAGGED, TAGS};
use super::{Page, events};
use crate::events::journal::Notes;

/// A manifest to be recorded.
#[derive(Debug, Clone)]
pub struct NewManifest {
    pub repository: String,
    pub digest: Digest,
    pub row: ManifestRow,
    pub tags: Vec<String>,
    /// What the referrers API answers for it, where it has a subject.
    pub descriptor: Option<Vec<u8>>,
    /// Blobs and manifests that the repository must have; empty skips the check.
    pub required: Vec<Digest>,
    /// What is told of it.
    pub notes: Notes,
}

/// The manifest's row.
pub fn get(
    transaction: &ReadTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<Option<ManifestRow>, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    match table.get((repository, digest.as_ref()))? {
        Some(row) => decode(row.value()).map(Some),
        None => Ok(None),
    }
}

/// What a tag points at.
pub fn resolve(
    transaction: &ReadTransaction,
    repository: &str,
    tag: &str,
) -> Result<Option<Digest>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    match table.get((repository, tag))? {
        Some(row) => digest(row.value()).map(Some),
        None => Ok(None),
    }
}

/// Records a manifest with its tags and as a referrer. With anything required missing nothing is
/// written and the missing are answered. Its file must be durable by now.
pub fn put(transaction: &WriteTransaction, new: &NewManifest) -> Result<Vec<Digest>, redb::Error> {
    let missing = missing(transaction, &new.repository, &new.required)?;
    if !missing.is_empty() {
        return Ok(missing);
    }
    let (repository, digest) = (new.repository.as_str(), new.digest.as_ref());
    add_repository(transaction, repository, new.row.pushed)?;
    hold(transaction, digest, repository, AS_MANIFEST)?;
    put_row(transaction, repository, digest, &new.row)?;
    if let (Some(subject), Some(descriptor)) = (&new.row.subject, &new.descriptor) {
        transaction.open_table(REFERRERS)?.insert(
            (repository, subject.as_ref(), digest),
            descriptor.as_slice(),
        )?;
    }
    for tag in &new.tags {
        set_tag(transaction, repository, tag, digest)?;
    }
    events::append(transaction, new.notes.rows())?;
    Ok(Vec::new())
}

/// Writes the row. What was wanted by its digest before still is; what an index names is wanted for
/// the index's sake from now on, and goes with it.
fn put_row(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
    row: &ManifestRow,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(MANIFESTS)?;
    let known = |table: &redb::Table<'_, _, _>, digest: &str| -> Result<_, redb::Error> {
        let row = table.get((repository, digest))?;
        row.map(|row| decode::<ManifestRow>(row.value()))
            .transpose()
    };
    let mut row = row.clone();
    row.by_digest |= known(&table, digest)?.is_some_and(|old| old.by_digest);
    for child in &row.references {
        if let Some(mut part) = known(&table, child.as_ref())?.filter(|part| part.by_digest) {
            part.by_digest = false;
            table.insert((repository, child.as_ref()), encode(&part)?.as_slice())?;
        }
    }
    table.insert((repository, digest), encode(&row)?.as_slice())?;
    Ok(())
}

fn missing(
    transaction: &WriteTransaction,
    repository: &str,
    required: &[Digest],
) -> Result<Vec<Digest>, redb::Error> {
    let links = transaction.open_table(LINKS)?;
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut missing = Vec::new();
    for digest in required {
        let key = (repository, digest.as_ref());
        if links.get(key)?.is_none() && manifests.get(key)?.is_none() {
            missing.push(digest.clone());
        }
    }
    Ok(missing)
}

fn set_tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    digest: &str,
) -> Result<(), redb::Error> {
    let mut tags = transaction.open_table(TAGS)?;
    let mut tagged = transaction.open_table(TAGGED)?;
    let before = tags.insert((repository, tag), digest)?;
    if let Some(before) = before {
        tagged.remove((repository, before.value(), tag))?;
    }
    tagged.insert((repository, digest, tag), ())?;
    Ok(())
}

/// Moves or makes a tag; answers false where the repository has no such manifest.
pub fn tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let key = (repository, digest.as_ref());
    if transaction.open_table(MANIFESTS)?.get(key)?.is_none() {
        return Ok(false);
    }
    set_tag(transaction, repository, tag, digest.as_ref())?;
    Ok(true)
}

/// Removes one tag and nothing else; answers whether it was there.
pub fn untag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
) -> Result<bool, redb::Error> {
    let mut tags = transaction.open_table(TAGS)?;
    let Some(digest) = tags.remove((repository, tag))? else {
        return Ok(false);
    };
    transaction
        .open_table(TAGGED)?
        .remove((repository, digest.value(), tag))?;
    Ok(true)
}

/// Removes a manifest, every tag that points at it and its entry among the referrers; answers
/// whether it was there.
pub fn remove(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<bool, redb::Error> {
    let row: ManifestRow = {
        let mut manifests = transaction.open_table(MANIFESTS)?;
        match manifests.remove((repository, digest.as_ref()))? {
            Some(row) => decode(row.value())?,
            None => return Ok(false),
        }
    };
    remove_tags_of(transaction, repository, digest.as_ref())?;
    if let Some(subject) = &row.subject {
        transaction.open_table(REFERRERS)?.remove((
            repository,
            subject.as_ref(),
            digest.as_ref(),
        ))?;
    }
    release(transaction, digest.as_ref(), repository, AS_MANIFEST)?;
    drop_empty_repository(transaction, repository)?;
    Ok(true)
}

fn remove_tags_of(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
) -> Result<(), redb::Error> {
    let mut tagged = transaction.open_table(TAGGED)?;
    let mut tags = transaction.open_table(TAGS)?;
    let mut names = Vec::new();
    for row in tagged.range((repository, digest, "")..)? {
        let (key, _) = row?;
        let (of, to, tag) = key.value();
        if (of, to) != (repository, digest) {
            break;
        }
        names.push(tag.to_owned());
    }
    for tag in names {
        tagged.remove((repository, digest, tag.as_str()))?;
        tags.remove((repository, tag.as_str()))?;
    }
    Ok(())
}

/// Tags of one repository after `last`, in order.
pub fn tags(
    transaction: &ReadTransaction,
    repository: &str,
    last: Option<&str>,
    limit: usize,
) -> Result<Page<String>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    let from = last.map_or(Included((repository, "")), |last| {
        Excluded((repository, last))
    });
    let rows = table.range::<(&str, &str)>((from, Unbounded))?;
    let names = rows.map_while(|row| match row {
        Ok((key, _)) => {
            let (of, tag) = key.value();
            (of == repository).then(|| Ok(tag.to_owned()))
        }
        Err(error) => Some(Err(error.into())),
    });
    Page::take(names, limit)
}

/// Every tag of every repository with the manifest that it points at.
pub fn all_tags(
    transaction: &ReadTransaction,
) -> Result<Vec<(String, String, Digest, ManifestRow)>, redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let mut found = Vec::new();
    for row in transaction.open_table(TAGS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let ((repository, tag), target) = (key.value(), value.value());
        if let Some(manifest) = manifests.get((repository, target))? {
            let manifest = decode(manifest.value())?;
            found.push((
                repository.to_owned(),
                tag.to_owned(),
                digest(target)?,
                manifest,
            ));
        }
    }
    Ok(found)
}

/// Every manifest of one repository.
pub fn list(
    transaction: &ReadTransaction,
    repository: &str,
) -> Result<Vec<(Digest, ManifestRow)>, redb::Error> {
    let table = transaction.open_table(MANIFESTS)?;
    let mut found = Vec::new();
    for row in table.range((repository, "")..)? {
        let (key, value) = row?;
        let (of, text) = key.value();
        if of != repository {
            break;
        }
        found.push((digest(text)?, decode(value.value())?));
    }
    Ok(found)
}

/// Descriptors of what refers to `subject`, after `last`, until they have `budget` bytes together.
pub fn referrers(
    transaction: &ReadTransaction,
    repository: &str,
    subject: &Digest,
    last: Option<&Digest>,
    budget: usize,
) -> Result<Page<(Digest, Vec<u8>)>, redb::Error> {
    let table = transaction.open_table(REFERRERS)?;
    let subject = subject.as_ref();
    let last = last.map_or("", Digest::as_ref);
    let from = Excluded((repository, subject, last));
    let mut page = Page {
        items: Vec::new(),
        more: false,
    };
    let mut spent = 0;
    for row in table.range::<(&str, &str, &str)>((from, Unbounded))? {
        let (key, value) = row?;
        let (of, to, referrer) = key.value();
        if (of, to) != (repository, subject) {
            break;
        }
        spent += value.value().len();
        if spent > budget && !page.items.is_empty() {
            page.more = true;
            break;
        }
        page.items.push((digest(referrer)?, value.value().to_vec()));
    }
    Ok(page)
}
