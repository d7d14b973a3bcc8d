//! The tables of `registry.redb`, as constants, and the shape of their values.
//!
//! ```text
//! meta          name                      -> number            "schema_version"
//! repositories  repository                -> created           seconds since 1970
//! links         repository, digest        -> size, linked      which blobs a repository shows
//! manifests     repository, digest        -> ManifestRow       bytes are a blob file
//! tags          repository, tag           -> digest
//! tagged        repository, digest, tag   -> ()                tags, from the other side
//! referrers     repository, subject, digest -> descriptor JSON as the referrers API answers it
//! holders       digest, repository, kind  -> ()                who keeps a blob file alive
//! needs         repository, needed, manifest -> ()             references, from the other side
//! sizes         digest                    -> bytes             of everything that is held
//! usage         repository                -> bytes             what it holds, each digest once
//! tag_times     repository, tag           -> pushed            when the tag was last pushed
//! untagged      repository, digest        -> since             what the collection looks at, see `untagged`
//! pulled        repository, tag or digest -> last, count       see `pulled`
//! ```
//!
//! `meta` also counts `held_bytes`: the bytes of all distinct digests that any repository holds.
//! Version 1 ended with `holders`; `migrate` makes the rest out of it, once.
//!
//! Visibility is per repository: a blob that another repository holds is unknown in this one until
//! it is mounted or pushed. Keys sort by bytes, which is the "ASCIIbetical" order that listings
//! want. Upload sessions have no rows: see `store::sessions`.

use oci_spec::image::Digest;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

/// Raised with every change that an older program could misread.
pub(super) const SCHEMA_VERSION: u64 = 2;

/// Whether a file of this version needs a migration.
pub(super) fn is_earlier(version: u64) -> bool {
    version < SCHEMA_VERSION
}

pub(super) const SCHEMA_KEY: &str = "schema_version";
/// Bytes of all distinct digests that any repository holds.
pub(super) const HELD_BYTES_KEY: &str = "held_bytes";

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const REPOSITORIES: TableDefinition<'_, &str, u64> =
    TableDefinition::new("repositories");
pub(super) const LINKS: TableDefinition<'_, (&str, &str), (u64, u64)> =
    TableDefinition::new("links");
pub(super) const MANIFESTS: TableDefinition<'_, (&str, &str), &[u8]> =
    TableDefinition::new("manifests");
pub(super) const TAGS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("tags");
pub(super) const TAGGED: TableDefinition<'_, (&str, &str, &str), ()> =
    TableDefinition::new("tagged");
pub(super) const REFERRERS: TableDefinition<'_, (&str, &str, &str), &[u8]> =
    TableDefinition::new("referrers");
pub(super) const HOLDERS: TableDefinition<'_, (&str, &str, u8), ()> =
    TableDefinition::new("holders");
pub(super) const NEEDS: TableDefinition<'_, (&str, &str, &str), ()> = TableDefinition::new("needs");
pub(super) const SIZES: TableDefinition<'_, &str, u64> = TableDefinition::new("sizes");
pub(super) const USAGE: TableDefinition<'_, &str, u64> = TableDefinition::new("usage");
pub(super) const TAG_TIMES: TableDefinition<'_, (&str, &str), u64> =
    TableDefinition::new("tag_times");
pub(super) const UNTAGGED: TableDefinition<'_, (&str, &str), u64> =
    TableDefinition::new("untagged");
pub(super) const PULLED: TableDefinition<'_, (&str, &str), (u64, u64)> =
    TableDefinition::new("pulled");

/// Kinds of holders.
pub(super) const AS_LINK: u8 = 0;
pub(super) const AS_MANIFEST: u8 = 1;

/// What is kept of a manifest beside its bytes. Fields are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRow {
    /// The Content-Type that it was pushed with; it is answered with the same.
    pub media_type: String,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Everything that the manifest needs: configuration, layers, children.
    #[serde(default)]
    pub references: Vec<Digest>,
    /// Seconds since 1970.
    #[serde(default)]
    pub pushed: u64,
    /// It was put by its digest and so is wanted without any tag; an index that names it takes over,
    /// unless it was pulled by its digest on this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_digest: bool,
}
