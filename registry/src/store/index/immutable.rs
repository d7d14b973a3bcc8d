//! Rows that an immutable tag keeps as they are: decided inside the write transaction, so that no
//! push in between can get around it.

use std::collections::{HashMap, HashSet};

use oci_spec::image::Digest;
use redb::{ReadableTable, WriteTransaction};

use super::rows::decode;
use super::schema::{MANIFESTS, ManifestRow, TAGGED, TAGS};

/// The first of these tags that is there and points at something else than `digest`.
pub fn moved<'a>(
    transaction: &WriteTransaction,
    repository: &str,
    tags: impl IntoIterator<Item = &'a String>,
    digest: &Digest,
) -> Result<Option<String>, redb::Error> {
    let table = transaction.open_table(TAGS)?;
    for tag in tags {
        let at = table.get((repository, tag.as_str()))?;
        if at.is_some_and(|at| at.value() != digest.as_ref()) {
            return Ok(Some(tag.clone()));
        }
    }
    Ok(None)
}

/// A tag that `holds` says is immutable and whose image needs the manifest or blob, by however many
/// indexes in between.
pub fn needing(
    transaction: &WriteTransaction,
    repository: &str,
    digest: &Digest,
    holds: &dyn Fn(&str) -> bool,
) -> Result<Option<String>, redb::Error> {
    let parents = parents(transaction, repository)?;
    let tagged = transaction.open_table(TAGGED)?;
    let mut seen = HashSet::new();
    let mut next = vec![digest.to_string()];
    while let Some(digest) = next.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        for row in tagged.range((repository, digest.as_str(), "")..)? {
            let (key, _) = row?;
            let (of, to, tag) = key.value();
            if (of, to) != (repository, digest.as_str()) {
                break;
            }
            if holds(tag) {
                return Ok(Some(tag.to_owned()));
            }
        }
        next.extend(parents.get(&digest).cloned().unwrap_or_default());
    }
    Ok(None)
}

/// Which manifests of the repository name a digest. Reads all of them; only deletions in
/// repositories with immutable tags ask.
fn parents(
    transaction: &WriteTransaction,
    repository: &str,
) -> Result<HashMap<String, Vec<String>>, redb::Error> {
    let mut parents: HashMap<String, Vec<String>> = HashMap::new();
    let table = transaction.open_table(MANIFESTS)?;
    for row in table.range((repository, "")..)? {
        let (key, value) = row?;
        let (of, parent) = key.value();
        if of != repository {
            break;
        }
        let manifest: ManifestRow = decode(value.value())?;
        for child in manifest.references {
            let named = parents.entry(child.to_string()).or_default();
            named.push(parent.to_owned());
        }
    }
    Ok(parents)
}
