//! Manifests, their tags and their referrers.

use std::ops::Bound::{Excluded, Included, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::{add_repository, below, decode, digest, drop_empty_repository, encode};
use super::schema::{
    AS_MANIFEST, LINKS, MANIFESTS, ManifestRow, REFERRERS, TAG_TIMES, TAGGED, TAGS,
};
use super::untagged::row_of;
use super::usage::{hold, release};
use super::{Page, events, links, needs, pulled, untagged};
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

/// What became of a manifest that was to be recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recorded {
    /// What the repository lacks; with anything here, nothing was recorded.
    pub missing: Vec<Digest>,
    /// Tags that pointed at another manifest before, and at which.
    pub replaced: Vec<(String, Digest)>,
    /// A tag that is immutable and points at something else; then nothing was recorded.
    pub held: Option<String>,
}

impl Recorded {
    /// Whether anything was recorded.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && self.held.is_none()
    }
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
pub fn put(transaction: &WriteTransaction, new: &NewManifest) -> Result<Recorded, redb::Error> {
    let mut recorded = Recorded {
        missing: missing(transaction, &new.repository, &new.required)?,
        ..Recorded::default()
    };
    if !recorded.missing.is_empty() {
        return Ok(recorded);
    }
    let (repository, digest) = (new.repository.as_str(), new.digest.as_ref());
    add_repository(transaction, repository, new.row.pushed)?;
    hold(transaction, digest, repository, AS_MANIFEST, new.row.size)?;
    untagged::clear(transaction, repository, digest)?;
    put_row(transaction, repository, digest, &new.row)?;
    if let (Some(subject), Some(descriptor)) = (&new.row.subject, &new.descriptor) {
        transaction.open_table(REFERRERS)?.insert(
            (repository, subject.as_ref(), digest),
            descriptor.as_slice(),
        )?;
        // Referrers follow a subject that went when it has rested; this one rests from now on.
        if row_of(transaction, repository, subject.as_ref())?.is_none() {
            untagged::renew(transaction, repository, subject.as_ref(), new.row.pushed)?;
        }
    }
    for tag in &new.tags {
        let before = set_tag(transaction, repository, tag, &new.digest, new.row.pushed)?;
        recorded
            .replaced
            .extend(before.map(|before| (tag.clone(), before)));
    }
    events::append(transaction, new.notes.rows())?;
    Ok(recorded)
}

/// Writes the row. What was wanted by its digest before still is; what an index names is wanted for
/// the index's sake, whichever of the two came first, and goes with it.
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
    // Put again, or for the first time after an index that was put without it.
    row.by_digest &= !needs::is_needed(transaction, repository, digest)?;
    if let Some(old) = known(&table, digest)? {
        row.by_digest |= old.by_digest;
        // The same bytes with another media type may be read in another way.
        needs::remove(transaction, repository, digest, &old.references)?;
    }
    needs::add(transaction, repository, digest, &row.references)?;
    for child in &row.references {
        if let Some(mut part) = known(&table, child.as_ref())?.filter(|part| part.by_digest) {
            part.by_digest = false;
            table.insert((repository, child.as_ref()), encode(&part)?.as_slice())?;
        }
    }
    table.insert((repository, digest), encode(&row)?.as_slice())?;
    Ok(())
}

/// The manifest is wanted by its digest from now on, whatever names it; one that is not here is not.
pub fn want(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
) -> Result<(), redb::Error> {
    let row = row_of(transaction, repository, digest.as_ref())?;
    let Some(mut row) = row.filter(|row| !row.by_digest) else {
        return Ok(());
    };
    row.by_digest = true;
    transaction
        .open_table(MANIFESTS)?
        .insert((repository, digest.as_ref()), encode(&row)?.as_slice())?;
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

/// Points a tag at a manifest and answers what it pointed at before, if that was another one. What
/// has lost its last tag so is left to the collection.
fn set_tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    to: &Digest,
    now: u64,
) -> Result<Option<Digest>, redb::Error> {
    let before = {
        let mut tags = transaction.open_table(TAGS)?;
        let mut tagged = transaction.open_table(TAGGED)?;
        let before = tags.insert((repository, tag), to.as_ref())?;
        let before = before.map(|row| digest(row.value())).transpose()?;
        if let Some(before) = &before {
            tagged.remove((repository, before.as_ref(), tag))?;
        }
        tagged.insert((repository, to.as_ref(), tag), ())?;
        before.filter(|before| before != to)
    };
    transaction
        .open_table(TAG_TIMES)?
        .insert((repository, tag), now)?;
    untagged::clear(transaction, repository, to.as_ref())?;
    if let Some(before) = &before {
        mark_untagged(transaction, repository, before.as_ref(), now)?;
    }
    Ok(before)
}

/// A tag has left the manifest.
fn mark_untagged(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
    now: u64,
) -> Result<(), redb::Error> {
    match untagged::is_tagged(transaction, repository, digest)? {
        true => Ok(()),
        false => untagged::mark(transaction, repository, digest, now),
    }
}

/// Moves or makes a tag; answers false where the repository has no such manifest.
pub fn tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    digest: &Digest,
    now: u64,
) -> Result<bool, redb::Error> {
    let key = (repository, digest.as_ref());
    if transaction.open_table(MANIFESTS)?.get(key)?.is_none() {
        return Ok(false);
    }
    set_tag(transaction, repository, tag, digest, now)?;
    Ok(true)
}

/// Removes one tag and nothing else; answers whether it was there. What has lost its last tag so is
/// left to the collection.
pub fn untag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
    now: u64,
) -> Result<bool, redb::Error> {
    let before = {
        let mut tags = transaction.open_table(TAGS)?;
        let Some(row) = tags.remove((repository, tag))? else {
            return Ok(false);
        };
        row.value().to_owned()
    };
    transaction
        .open_table(TAGGED)?
        .remove((repository, before.as_str(), tag))?;
    forget_tag(transaction, repository, tag)?;
    mark_untagged(transaction, repository, &before, now)?;
    Ok(true)
}

/// What is kept of a tag beside its target.
fn forget_tag(
    transaction: &WriteTransaction,
    repository: &str,
    tag: &str,
) -> Result<(), redb::Error> {
    transaction
        .open_table(TAG_TIMES)?
        .remove((repository, tag))?;
    pulled::forget(transaction, repository, tag)
}

/// Tags that one transaction removes at most.
const MAX_TAGS: usize = 1000;

/// Of a manifest with more tags than one transaction should remove, removes that many, and answers
/// true. To be called, each time in a transaction of its own, before the manifest itself goes.
pub fn trim_tags(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    now: u64,
) -> Result<bool, redb::Error> {
    let tags = below(
        &transaction.open_table(TAGGED)?,
        repository,
        digest.as_ref(),
        "",
        MAX_TAGS + 1,
    )?;
    if tags.len() <= MAX_TAGS {
        return Ok(false);
    }
    for tag in tags.iter().take(MAX_TAGS) {
        untag(transaction, repository, tag, now)?;
    }
    Ok(true)
}

/// Removes a manifest, every tag that points at it and its entry among the referrers; answers
/// whether it was there. What only it named is left to the collection: children and referrers when
/// they have rested, blobs as if they had been linked now, so that a push which has just found them
/// here can still name them.
pub fn remove(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    now: u64,
) -> Result<bool, redb::Error> {
    let row: ManifestRow = {
        let mut manifests = transaction.open_table(MANIFESTS)?;
        match manifests.remove((repository, digest.as_ref()))? {
            Some(row) => decode(row.value())?,
            None => return Ok(false),
        }
    };
    let text = digest.as_ref();
    remove_tags_of(transaction, repository, text)?;
    if let Some(subject) = &row.subject {
        transaction
            .open_table(REFERRERS)?
            .remove((repository, subject.as_ref(), text))?;
    }
    pulled::forget(transaction, repository, text)?;
    needs::remove(transaction, repository, text, &row.references)?;
    for freed in &row.references {
        let is_manifest = transaction
            .open_table(MANIFESTS)?
            .get((repository, freed.as_ref()))?
            .is_some();
        if is_manifest {
            untagged::mark(transaction, repository, freed.as_ref(), now)?;
        }
        links::rest(transaction, repository, freed, now)?;
    }
    match untagged::has_referrers(transaction, repository, text)? {
        true => untagged::mark(transaction, repository, text, now)?,
        false => untagged::clear(transaction, repository, text)?,
    }
    release(transaction, text, repository, AS_MANIFEST)?;
    drop_empty_repository(transaction, repository)?;
    Ok(true)
}

fn remove_tags_of(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &str,
) -> Result<(), redb::Error> {
    let names = below(
        &transaction.open_table(TAGGED)?,
        repository,
        digest,
        "",
        usize::MAX,
    )?;
    for tag in names {
        let tag = tag.as_str();
        transaction
            .open_table(TAGGED)?
            .remove((repository, digest, tag))?;
        transaction.open_table(TAGS)?.remove((repository, tag))?;
        forget_tag(transaction, repository, tag)?;
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

/// A tag of a repository, and the manifest that it points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    pub repository: String,
    pub tag: String,
    pub digest: Digest,
    pub manifest: ManifestRow,
}

/// Shows every tag of every repository, in order, to `visit`.
pub fn each_tag(
    transaction: &ReadTransaction,
    visit: &mut dyn FnMut(TagRow),
) -> Result<(), redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    for row in transaction.open_table(TAGS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let ((repository, tag), target) = (key.value(), value.value());
        if let Some(manifest) = manifests.get((repository, target))? {
            visit(TagRow {
                repository: repository.to_owned(),
                tag: tag.to_owned(),
                digest: digest(target)?,
                manifest: decode(manifest.value())?,
            });
        }
    }
    Ok(())
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
