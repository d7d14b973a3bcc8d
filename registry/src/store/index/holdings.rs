//! Who keeps which bytes: sums over rows, and what of an image nobody else needs.
//!
//! Everything streams: memory is bounded by the image that is asked about, never by the store.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::Digest;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTableMetadata};

use super::rows::decode;
use super::schema::{HOLDERS, LINKS, MANIFESTS, ManifestRow, REPOSITORIES, SIZES, TAGGED, TAGS};
use super::{needs, usage};

/// An image's parts are fewer; a document that names more is counted so far.
const MAX_PARTS: usize = 100_000;

/// How many rows the tables have that count things; each table knows its own.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub repositories: u64,
    pub manifests: u64,
    pub tags: u64,
    /// Blobs and manifests that any repository holds, each once, and their bytes.
    pub held: u64,
    pub held_bytes: u64,
}

/// Counts without a walk.
pub fn counts(rows: &ReadTransaction) -> Result<Counts, redb::Error> {
    Ok(Counts {
        repositories: rows.open_table(REPOSITORIES)?.len()?,
        manifests: rows.open_table(MANIFESTS)?.len()?,
        tags: rows.open_table(TAGS)?.len()?,
        held: rows.open_table(SIZES)?.len()?,
        held_bytes: usage::total(rows)?,
    })
}

type Manifests = ReadOnlyTable<(&'static str, &'static str), &'static [u8]>;

fn manifest(manifests: &Manifests, key: (&str, &str)) -> Result<Option<ManifestRow>, redb::Error> {
    let row = manifests.get(key)?;
    row.map(|row| decode(row.value())).transpose()
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepositorySums {
    pub tags: u64,
    pub manifests: u64,
    /// Blobs beside the manifests.
    pub blobs: u64,
    /// Of blobs and manifests; what other repositories hold too is counted in each.
    pub bytes: u64,
    /// The newest push of a manifest, seconds since 1970.
    pub pushed: u64,
}

/// Sums over the rows of one repository.
pub fn of_repository(
    transaction: &ReadTransaction,
    repository: &str,
) -> Result<RepositorySums, redb::Error> {
    let mut sums = RepositorySums {
        bytes: usage::of(transaction, repository)?,
        ..RepositorySums::default()
    };
    for row in transaction.open_table(TAGS)?.range((repository, "")..)? {
        if row?.0.value().0 != repository {
            break;
        }
        sums.tags += 1;
    }
    for row in transaction
        .open_table(MANIFESTS)?
        .range((repository, "")..)?
    {
        let (key, value) = row?;
        if key.value().0 != repository {
            break;
        }
        let manifest: ManifestRow = decode(value.value())?;
        sums.manifests += 1;
        sums.pushed = sums.pushed.max(manifest.pushed);
    }
    for row in transaction.open_table(LINKS)?.range((repository, "")..)? {
        let (key, _) = row?;
        if key.value().0 != repository {
            break;
        }
        sums.blobs += 1;
    }
    Ok(sums)
}

/// The blobs and manifests of an image that its repository has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// The image's own manifest first, then those of its platforms.
    pub manifests: BTreeMap<String, ManifestRow>,
    /// Sizes of configurations and layers.
    pub blobs: BTreeMap<String, u64>,
}

impl Parts {
    /// Bytes on disk, each part once.
    pub fn bytes(&self) -> u64 {
        let manifests = self.manifests.values().map(|row| row.size);
        manifests.chain(self.blobs.values().copied()).sum()
    }

    /// The size of one part.
    pub fn size(&self, digest: &str) -> Option<u64> {
        let manifest = self.manifests.get(digest).map(|row| row.size);
        manifest.or_else(|| self.blobs.get(digest).copied())
    }

    fn len(&self) -> usize {
        self.manifests.len() + self.blobs.len()
    }
}

/// What an image consists of, as far as its repository has it.
pub fn parts(
    transaction: &ReadTransaction,
    repository: &str,
    image: &Digest,
) -> Result<Parts, redb::Error> {
    let manifests = transaction.open_table(MANIFESTS)?;
    let links = transaction.open_table(LINKS)?;
    let mut parts = Parts::default();
    let mut next = vec![image.to_string()];
    while let Some(digest) = next.pop() {
        if parts.len() >= MAX_PARTS {
            break;
        }
        let key = (repository, digest.as_str());
        if parts.size(&digest).is_some() {
            continue;
        }
        if let Some(row) = manifest(&manifests, key)? {
            next.extend(row.references.iter().map(Digest::to_string));
            parts.manifests.insert(digest, row);
        } else if let Some(row) = links.get(key)? {
            parts.blobs.insert(digest, row.value().0);
        }
    }
    Ok(parts)
}

/// Which parts of an image would stay if it were removed: other repositories hold them, or other
/// manifests of its own repository need them.
pub fn shared(
    transaction: &ReadTransaction,
    repository: &str,
    image: &Digest,
    parts: &Parts,
) -> Result<BTreeSet<String>, redb::Error> {
    let mut shared = needed_beside(transaction, repository, image, parts)?;
    let holders = transaction.open_table(HOLDERS)?;
    for digest in parts.manifests.keys().chain(parts.blobs.keys()) {
        if shared.contains(digest) {
            continue;
        }
        for row in holders.range((digest.as_str(), "", 0)..)? {
            let (key, _) = row?;
            let (held, by, _) = key.value();
            if held != digest {
                break;
            }
            if by != repository {
                shared.insert(digest.clone());
                break;
            }
        }
    }
    Ok(shared)
}

/// The parts that manifests of the same repository need that do not go with the image: those
/// outside it, and those of its own that have a tag, or were put by their digest, themselves.
fn needed_beside(
    transaction: &ReadTransaction,
    repository: &str,
    image: &Digest,
    parts: &Parts,
) -> Result<BTreeSet<String>, redb::Error> {
    let mut needed = BTreeSet::new();
    let mut next = Vec::new();
    let ours = |manifest: &str| parts.manifests.contains_key(manifest);
    let tagged = transaction.open_table(TAGGED)?;
    for digest in parts.manifests.keys().chain(parts.blobs.keys()) {
        let own = parts.manifests.get(digest);
        let own = own.filter(|_| digest != image.as_ref());
        let wanted = match own {
            Some(row) => row.by_digest || is_tagged(&tagged, repository, digest)?,
            None => false,
        };
        if wanted || needs::is_needed_beside(transaction, repository, digest, &ours)? {
            next.push(digest.clone());
        }
    }
    while let Some(digest) = next.pop() {
        if parts.size(&digest).is_none() || !needed.insert(digest.clone()) {
            continue;
        }
        let references = parts.manifests.get(&digest).map(|row| &row.references);
        next.extend(references.into_iter().flatten().map(Digest::to_string));
    }
    Ok(needed)
}

fn is_tagged(
    tagged: &ReadOnlyTable<(&'static str, &'static str, &'static str), ()>,
    repository: &str,
    digest: &str,
) -> Result<bool, redb::Error> {
    match tagged.range((repository, digest, "")..)?.next() {
        Some(row) => {
            let (key, _) = row?;
            let (of, to, _) = key.value();
            Ok((of, to) == (repository, digest))
        }
        None => Ok(false),
    }
}
