//! What is known of tags beside their targets: when they were pushed and pulled.

use std::ops::Bound::{Excluded, Included, Unbounded};

use oci_spec::image::Digest;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::digest as parse;
use super::schema::{PULLED, TAG_TIMES, TAGS};
use super::{Page, manifests};

/// A tag and its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    pub tag: String,
    pub digest: Digest,
    /// When the tag was last pushed, in seconds since 1970.
    pub pushed: u64,
    /// When the tag, or what it points at, was last pulled.
    pub pulled: Option<u64>,
}

/// Tags of a repository after `last`, in order.
pub fn list(
    transaction: &ReadTransaction,
    repository: &str,
    last: Option<&str>,
    limit: usize,
) -> Result<Page<TagRow>, redb::Error> {
    let tags = transaction.open_table(TAGS)?;
    let times = transaction.open_table(TAG_TIMES)?;
    let pulled = transaction.open_table(PULLED)?;
    let from = last.map_or(Included((repository, "")), |last| {
        Excluded((repository, last))
    });
    let mut page = Page {
        items: Vec::new(),
        more: false,
    };
    for row in tags.range::<(&str, &str)>((from, Unbounded))? {
        let (key, value) = row?;
        let (of, tag) = key.value();
        if of != repository {
            break;
        }
        if page.items.len() == limit {
            page.more = true;
            break;
        }
        let last_pull = last_pull(&pulled, repository, [tag, value.value()])?;
        page.items.push(TagRow {
            tag: tag.to_owned(),
            digest: parse(value.value())?,
            pushed: times.get(key.value())?.map_or(0, |row| row.value()),
            pulled: last_pull,
        });
    }
    Ok(page)
}

/// When the tag, or what it points at, was last pulled.
fn last_pull(
    pulled: &impl ReadableTable<(&'static str, &'static str), (u64, u64)>,
    repository: &str,
    references: [&str; 2],
) -> Result<Option<u64>, redb::Error> {
    let mut last = None;
    for reference in references {
        let row = pulled.get((repository, reference))?;
        last = last.max(row.map(|row| row.value().0));
    }
    Ok(last)
}

/// Removes a tag if nobody has pushed or pulled it since `seen` was read; answers whether it did.
pub fn expire(
    transaction: &WriteTransaction,
    repository: &str,
    seen: &TagRow,
    now: u64,
) -> Result<bool, redb::Error> {
    let tag = seen.tag.as_str();
    let unchanged = {
        let tags = transaction.open_table(TAGS)?;
        let times = transaction.open_table(TAG_TIMES)?;
        let pulls = transaction.open_table(PULLED)?;
        let target = tags.get((repository, tag))?;
        let pushed = times.get((repository, tag))?.map_or(0, |row| row.value());
        let pulled = last_pull(&pulls, repository, [tag, seen.digest.as_ref()])?;
        target.is_some_and(|row| row.value() == seen.digest.as_ref())
            && pushed == seen.pushed
            && pulled == seen.pulled
    };
    if !unchanged {
        return Ok(false);
    }
    manifests::untag(transaction, repository, tag, now)
}
