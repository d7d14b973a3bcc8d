//! Manifests of another registry's repositories, and how old a tag may be.
//!
//! What a tag points at is asked for again when it was last checked longer than `tags_ttl` ago:
//! first by HEAD, which moves nothing and is not counted by those who count pulls, and by GET when
//! it has moved. A registry that cannot be asked is no reason not to serve what is here. A tag that
//! the mirror did not make, and a manifest by its digest, are never asked for when they are here.

use config::name::{Tag, Target};

use super::keep;
use super::memory::{Key, Trouble as Remembered};
use super::upstream::{RemoteManifest, Trouble, UpstreamError};
use super::{Kept, Mirror, MirrorError};
use crate::digest::{Algorithm, Digest, digest_of};
use crate::store::StoreError;
use crate::store::index::mirrored::{self, MirroredTag};

/// The longest time that a registry may ask to be left alone for.
const MAX_REST: u64 = 300;

/// What the answer must say about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// As the other registry has it, or as it was put by hand.
    Fresh,
    /// The other registry could not be asked; the text tells people why.
    Stale { warning: String },
}

/// A tag as it is here.
#[derive(Debug)]
struct Known {
    digest: Digest,
    /// The manifest's bytes are here.
    whole: bool,
    /// When it was last checked, where the mirror made it.
    checked: Option<u64>,
}

impl Mirror {
    /// Sees to it that the manifest is here, as young as it must be. `used` is whether the caller
    /// pulls it: that keeps it from being evicted.
    pub async fn manifest(
        &self,
        kept: &Kept,
        target: &Target,
        used: bool,
    ) -> Result<Freshness, MirrorError> {
        let (digest, freshness) = match target {
            Target::Digest(digest) => {
                self.by_digest(kept, digest).await?;
                (digest.clone(), Freshness::Fresh)
            }
            Target::Tag(tag) => self.by_tag(kept, tag).await?,
        };
        if used {
            self.note_used(&kept.here, &digest);
        }
        Ok(freshness)
    }

    async fn by_digest(&self, kept: &Kept, digest: &Digest) -> Result<(), MirrorError> {
        if self.is_whole(kept, digest).await? {
            return Ok(());
        }
        let key = key(kept, digest);
        let begun = self.now();
        let _turn = self.turns.wait(key.clone()).await;
        if self.is_whole(kept, digest).await? {
            return Ok(());
        }
        self.refuse_known(kept, &key, begun)?;
        let target = Target::Digest(digest.clone());
        let fetched = self.fetch(kept, &target, &key).await?;
        self.store(kept, None, fetched).await?;
        Ok(())
    }

    async fn by_tag(&self, kept: &Kept, tag: &Tag) -> Result<(Digest, Freshness), MirrorError> {
        if let Some(digest) = self.young(kept, tag).await? {
            return Ok((digest, Freshness::Fresh));
        }
        let key = key(kept, tag);
        let begun = self.now();
        let _turn = self.turns.wait(key.clone()).await;
        // Whoever had the turn before may have asked for all.
        let known = self.look(kept, tag).await?;
        if let Some(digest) = self.is_young(kept, known.as_ref()) {
            return Ok((digest, Freshness::Fresh));
        }
        let Some(known) = known.filter(|known| known.whole) else {
            self.refuse_known(kept, &key, begun)?;
            let fetched = self.fetch(kept, &Target::Tag(tag.clone()), &key).await?;
            let digest = self.store(kept, Some(tag), fetched).await?;
            return Ok((digest, Freshness::Fresh));
        };
        self.refuse_missing(kept, &key)?;
        match self.refresh(kept, tag, &known, &key).await {
            Ok(digest) => Ok((digest, Freshness::Fresh)),
            Err(MirrorError::Upstream(error)) => {
                Ok((known.digest.clone(), self.stale(&known, &error)))
            }
            Err(error) => Err(error),
        }
    }

    /// What the tag points at, if that need not be asked for.
    async fn young(&self, kept: &Kept, tag: &Tag) -> Result<Option<Digest>, MirrorError> {
        let known = self.look(kept, tag).await?;
        if let Some(known) = &known
            && !known.whole
            && known.checked.is_none()
        {
            // Put by hand and damaged since: the same bytes will do, and no others.
            self.by_digest(kept, &known.digest).await?;
            return Ok(Some(known.digest.clone()));
        }
        Ok(self.is_young(kept, known.as_ref()))
    }

    fn is_young(&self, kept: &Kept, known: Option<&Known>) -> Option<Digest> {
        let known = known.filter(|known| known.whole)?;
        let ttl = kept.source.tags_ttl.as_secs();
        let young = known
            .checked
            .is_none_or(|checked| self.now().saturating_sub(checked) < ttl);
        young.then(|| known.digest.clone())
    }

    /// Asks what the tag points at now.
    async fn refresh(
        &self,
        kept: &Kept,
        tag: &Tag,
        known: &Known,
        key: &Key,
    ) -> Result<Digest, MirrorError> {
        if let Some(trouble) = self.troubles.of(kept.host(), self.now()) {
            return Err(trouble.error.into());
        }
        let asked = kept.source.upstream.digest(&kept.there, tag).await;
        let found = asked.map_err(|error| self.failed(kept, key, error))?;
        self.troubles.over(kept.host());
        if found.as_ref() == Some(&known.digest) {
            self.checked(kept, tag, &known.digest).await?;
            return Ok(known.digest.clone());
        }
        let fetched = self.fetch(kept, &Target::Tag(tag.clone()), key).await?;
        self.store(kept, Some(tag), fetched).await
    }

    async fn fetch(
        &self,
        kept: &Kept,
        target: &Target,
        key: &Key,
    ) -> Result<RemoteManifest, MirrorError> {
        let asked = kept.source.upstream.manifest(&kept.there, target).await;
        let fetched = asked.map_err(|error| self.failed(kept, key, error))?;
        self.troubles.over(kept.host());
        Ok(fetched)
    }

    /// Remembers a failure, so that the next client does not wait for it again.
    fn failed(&self, kept: &Kept, key: &Key, error: UpstreamError) -> MirrorError {
        let now = self.now();
        if error.trouble == Trouble::NotFound {
            let until = now + self.options.negative_ttl.as_secs();
            self.misses.add(key.clone(), now, until);
            return kept.unknown(&key.1);
        }
        if error.may_pass() {
            self.troubled(kept, &error);
        }
        error.into()
    }

    /// Remembers that the registry failed a moment ago.
    pub(super) fn troubled(&self, kept: &Kept, error: &UpstreamError) {
        let now = self.now();
        let asked = error.retry_after.map_or(0, |asked| asked.as_secs());
        let rest = self.options.rest.as_secs().max(asked).min(MAX_REST);
        let trouble = Remembered {
            since: now,
            until: now + rest,
            error: error.clone(),
        };
        tracing::warn!(host = kept.host(), %error, "upstream failed");
        self.troubles.add(kept.host(), trouble);
    }

    /// What the other registry does not have, or could not be asked for since `begun`, while this
    /// caller waited for its turn.
    fn refuse_known(&self, kept: &Kept, key: &Key, begun: u64) -> Result<(), MirrorError> {
        self.refuse_missing(kept, key)?;
        let trouble = self.troubles.of(kept.host(), self.now());
        match trouble.filter(|trouble| trouble.since > begun) {
            Some(trouble) => Err(trouble.error.into()),
            None => Ok(()),
        }
    }

    fn stale(&self, known: &Known, error: &UpstreamError) -> Freshness {
        let age = self.now().saturating_sub(known.checked.unwrap_or_default());
        let text = format!("{error}; this is what it was {age} seconds ago");
        tracing::info!(digest = %known.digest, %error, age, "a copy is served");
        // The warning is a quoted string of a header (RFC 9110, section 5.6.4).
        let plain = |c: char| if c == '"' || c == '\\' { '\'' } else { c };
        let text = text.chars().filter(|c| c.is_ascii() && !c.is_control());
        Freshness::Stale {
            warning: text.map(plain).take(400).collect(),
        }
    }

    async fn is_whole(&self, kept: &Kept, digest: &Digest) -> Result<bool, MirrorError> {
        let (here, digest) = (kept.here.clone(), digest.clone());
        self.blocking(move |registry| -> Result<bool, StoreError> {
            // Reading it is what finds a damaged one; it is small.
            Ok(registry.manifest(&here, &Target::Digest(digest))?.is_some())
        })
        .await
    }

    async fn look(&self, kept: &Kept, tag: &Tag) -> Result<Option<Known>, MirrorError> {
        let (here, tag) = (kept.here.clone(), tag.clone());
        self.blocking(move |registry| -> Result<Option<Known>, StoreError> {
            let Some(digest) = registry.resolve(&here, &tag)? else {
                return Ok(None);
            };
            let index = registry.store().index();
            let row = index.read(|rows| mirrored::tag(rows, here.as_str(), tag.as_str()))?;
            let row = row.filter(|row| row.digests.contains(&digest));
            Ok(Some(Known {
                whole: registry
                    .manifest(&here, &Target::Digest(digest.clone()))?
                    .is_some(),
                checked: row.map(|row| row.checked),
                digest,
            }))
        })
        .await
    }

    /// The tag still points where it did.
    async fn checked(&self, kept: &Kept, tag: &Tag, digest: &Digest) -> Result<(), MirrorError> {
        let row = MirroredTag {
            digests: vec![digest.clone()],
            checked: self.now(),
        };
        let (here, tag) = (kept.here.to_string(), tag.to_string());
        self.blocking(move |registry| -> Result<(), StoreError> {
            let index = registry.store().index();
            Ok(index.write(move |rows| mirrored::set_tag(rows, &here, &tag, &row))?)
        })
        .await
    }

    /// Verifies and keeps a manifest, and points the tag at it.
    async fn store(
        &self,
        kept: &Kept,
        tag: Option<&Tag>,
        fetched: RemoteManifest,
    ) -> Result<Digest, MirrorError> {
        let algorithm = Algorithm::of(&fetched.digest).unwrap_or_default();
        let actual = digest_of(algorithm, &fetched.bytes);
        if actual != fetched.digest {
            return Err(wrong(
                kept,
                &format!("digest {actual}, not {}", fetched.digest),
            ));
        }
        let (digest, now) = (fetched.digest.clone(), self.now());
        let (owned, tag) = (kept.clone(), tag.cloned());
        self.blocking(move |registry| keep::keep(registry, &owned, tag, &fetched, now))
            .await?;
        Ok(digest)
    }
}

pub(super) fn wrong(kept: &Kept, what: &str) -> MirrorError {
    let text = format!(
        "{} sent a bad manifest of {}: {what}",
        kept.host(),
        kept.there
    );
    UpstreamError::new(Trouble::Wrong, text).into()
}

fn key(kept: &Kept, target: &dyn std::fmt::Display) -> Key {
    (kept.here.clone(), target.to_string())
}
