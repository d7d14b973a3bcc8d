//! Images as people look at them: what they are for, how large, what they share.

use std::io::Read;

use config::name::{RepositoryName, Tag, Target};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Deleted, Listing, Registry};
use crate::access::immutable::Immutable;
use crate::digest::Digest;
use crate::events::envelope::rfc3339;
use crate::manifest::MAX_MANIFEST;
use crate::store::StoreError;
use crate::store::index::holdings::{self, Parts};
use crate::store::index::{ManifestRow, Page, catalog, manifests, pulled};

/// A configuration is some kilobytes; of a larger one nothing is read.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;
/// Each image of a page costs a look into two small files.
pub(super) const MAX_IMAGES: usize = 1000;
pub(super) const USUAL_PAGE: usize = 100;

/// An operating system and architecture (image-spec, image-index.md, "platform").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// An image in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    pub repository: String,
    /// Absent for an image that was asked for by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub digest: String,
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Several for an index.
    pub platforms: Vec<Platform>,
    /// Bytes on disk of everything that it consists of, each part once.
    pub size: u64,
    /// When it was made, as its configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it came here, RFC 3339.
    pub pushed: String,
    /// When it was last pulled, by its tag where it is called by one, RFC 3339; absent where that
    /// never was. Those of the last half minute may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<String>,
}

/// A layer, or another blob, of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    pub digest: String,
    pub media_type: String,
    /// On disk; absent for one that is not kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether anything else here needs it too.
    pub shared: bool,
}

/// A manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Whether it is kept here.
    pub present: bool,
}

/// An image in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetail {
    #[serde(flatten)]
    pub image: Image,
    /// All tags that point at it; the first ten thousand.
    pub tags: Vec<String>,
    /// Bytes that would stay if it were removed, because something else needs them.
    pub shared_bytes: u64,
    /// Bytes that would be free.
    pub unique_bytes: u64,
    /// Of a single image, lowest first.
    pub layers: Vec<Layer>,
    /// Of an index.
    pub manifests: Vec<Child>,
    /// What it refers to: the image that it signs, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// What a manifest says, as far as it is shown.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Shown {
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    media_type: String,
    platform: Option<Value>,
}

/// What is read of a configuration.
#[derive(Default)]
struct Configured {
    created: Option<String>,
    platform: Option<Platform>,
}

/// Only text, and of a length that fits a table.
fn platform(value: &Value) -> Option<Platform> {
    let text = |key: &str| {
        let text = value.get(key)?.as_str()?;
        (!text.is_empty() && text.len() <= 64).then(|| text.to_owned())
    };
    Some(Platform {
        os: text("os")?,
        architecture: text("architecture")?,
        variant: text("variant"),
    })
}

impl Registry {
    /// Tagged images in order of repository and tag, of one repository or of all. `last` is the
    /// name after which the list goes on, `repository:tag`.
    pub fn image_page(
        &self,
        repository: Option<&RepositoryName>,
        listing: Listing<'_>,
    ) -> Result<Page<Image>, StoreError> {
        let limit = listing.limit.unwrap_or(USUAL_PAGE).min(MAX_IMAGES);
        let of = repository.map(RepositoryName::as_str);
        let last = listing.last.and_then(|last| last.rsplit_once(':'));
        let index = self.store().index();
        let page = index.read(|rows| catalog::tags(rows, of, last, limit))?;
        let mut items = Vec::with_capacity(page.items.len());
        for named in page.items {
            let (repository, tag) = (named.repository, named.tag);
            if let Some((image, ..)) = self.image_of(&repository, Some(&tag), &named.digest)? {
                items.push(image);
            }
        }
        Ok(Page {
            items,
            more: page.more,
        })
    }

    /// One image with everything that is known of it; `None` where there is none.
    pub fn image_detail(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<Option<ImageDetail>, StoreError> {
        let Some((digest, row)) = self.stat_manifest(repository, target)? else {
            return Ok(None);
        };
        let tag = match target {
            Target::Tag(tag) => Some(tag.as_str()),
            Target::Digest(_) => None,
        };
        let Some((image, parts, shown)) = self.image_of(repository.as_str(), tag, &digest)? else {
            return Ok(None);
        };
        let (shared, tags) = self.store().index().read(|rows| {
            let shared = holdings::shared(rows, repository.as_str(), &digest, &parts)?;
            Ok((
                shared,
                catalog::tags_of(rows, repository.as_str(), &digest)?,
            ))
        })?;
        let shared_bytes = shared.iter().filter_map(|part| parts.size(part)).sum();
        let layer = |blob: Descriptor| Layer {
            size: parts.size(&blob.digest),
            shared: shared.contains(&blob.digest),
            digest: blob.digest,
            media_type: blob.media_type,
        };
        let child = |child: Descriptor| Child {
            platform: child.platform.as_ref().and_then(platform),
            present: parts.manifests.contains_key(&child.digest),
            digest: child.digest,
        };
        Ok(Some(ImageDetail {
            tags,
            shared_bytes,
            unique_bytes: image.size.saturating_sub(shared_bytes),
            layers: shown
                .layers
                .into_iter()
                .chain(shown.blobs)
                .map(layer)
                .collect(),
            manifests: shown.manifests.into_iter().map(child).collect(),
            subject: row.subject.map(|subject| subject.to_string()),
            image,
        }))
    }

    /// The image in short, what it consists of, and what its manifest says.
    fn image_of(
        &self,
        repository: &str,
        tag: Option<&str>,
        digest: &Digest,
    ) -> Result<Option<(Image, Parts, Shown)>, StoreError> {
        let index = self.store().index();
        let found = index.read(|rows| {
            let row = manifests::get(rows, repository, digest)?;
            let Some(row) = row else { return Ok(None) };
            let pulls = match tag {
                Some(tag) => pulled::of_tag(rows, repository, tag)?,
                None => pulled::of_manifest(rows, repository, digest)?,
            };
            let parts = holdings::parts(rows, repository, digest)?;
            Ok(Some((row, pulls, parts)))
        })?;
        // Removed since the page was read.
        let Some((row, pulls, parts)) = found else {
            return Ok(None);
        };
        let shown: Shown = self.json(digest, MAX_MANIFEST as u64)?.unwrap_or_default();
        let configured = self.configured(&shown, &parts)?;
        let mut image = image(repository, tag, digest, row, &parts, &shown, configured);
        image.pulled = pulls.map(|pulls| rfc3339(pulls.last.saturating_mul(1000)));
        Ok(Some((image, parts, shown)))
    }

    fn configured(&self, shown: &Shown, parts: &Parts) -> Result<Configured, StoreError> {
        // Only what the repository has: a manifest may name any digest.
        let Some(config) = &shown.config else {
            return Ok(Configured::default());
        };
        let digest = config.digest.parse::<Digest>().ok();
        let Some(digest) = digest.filter(|_| parts.blobs.contains_key(&config.digest)) else {
            return Ok(Configured::default());
        };
        let value: Value = self.json(&digest, MAX_CONFIG)?.unwrap_or_default();
        let created = value["created"].as_str().filter(|text| text.len() <= 64);
        Ok(Configured {
            created: created.map(str::to_owned),
            platform: platform(&value),
        })
    }

    /// A small blob as JSON; `None` where it is not here, larger, or something else.
    fn json<T: serde::de::DeserializeOwned>(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<T>, StoreError> {
        let Some((file, size)) = self.store().blobs().get(digest)? else {
            return Ok(None);
        };
        if size > limit {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Removes an image as its name says: a tag alone, or a manifest with all its tags; but nothing
    /// that an immutable tag of `keep` needs. What only it needed goes with the next collection.
    pub fn delete_target(
        &self,
        repository: &RepositoryName,
        target: &Target,
        keep: &Immutable,
    ) -> Result<Deleted, StoreError> {
        match target {
            Target::Tag(tag) => self.delete_tag_keeping(repository, tag, keep),
            Target::Digest(digest) => self.delete_manifest_keeping(repository, digest, keep),
        }
    }

    /// Tags of a repository with what they point at; `None` where there is no such repository.
    pub fn tag_page(
        &self,
        repository: &RepositoryName,
        listing: Listing<'_>,
    ) -> Result<Option<Page<(Tag, Digest)>>, StoreError> {
        let limit = listing
            .limit
            .unwrap_or(USUAL_PAGE)
            .min(super::listing::MAX_PAGE);
        let name = repository.as_str();
        let page = self.store().index().read(|rows| {
            if !crate::store::index::has_repository(rows, name)? {
                return Ok(None);
            }
            let last = listing.last.map(|tag| (name, tag));
            catalog::tags(rows, Some(name), last, limit).map(Some)
        })?;
        Ok(page.map(|page| Page {
            more: page.more,
            items: page
                .items
                .into_iter()
                // Names were parsed before they became rows.
                .filter_map(|named| Some((named.tag.parse().ok()?, named.digest)))
                .collect(),
        }))
    }
}

fn image(
    repository: &str,
    tag: Option<&str>,
    digest: &Digest,
    row: ManifestRow,
    parts: &Parts,
    shown: &Shown,
    configured: Configured,
) -> Image {
    let children = shown
        .manifests
        .iter()
        .filter_map(|child| child.platform.as_ref());
    Image {
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.to_string(),
        media_type: row.media_type,
        artifact_type: row.artifact_type,
        platforms: children
            .filter_map(platform)
            .chain(configured.platform)
            .collect(),
        size: parts.bytes(),
        created: configured.created,
        pushed: rfc3339(row.pushed.saturating_mul(1000)),
        pulled: None,
    }
}
