//! Which image somebody means: by a name, or by the beginning of an id.
//!
//! An image's id is the digest of its configuration, as docker's is, and that of its manifest, which
//! an index has too. Names come first: `cafe` is a repository where there is one.

use std::collections::HashMap;

use config::name::{Reference, RepositoryName, Tag, Target};
use registry::service::Listing;
use serde_json::Value;
use unpacker::digest::Digest;

use crate::error::{Failure, Outcome};
use crate::images::service::{Images, Kept, store};

/// Shorter beginnings of ids mean nothing: half the words of a language are hexadecimal.
const SHORTEST: usize = 4;

/// An image somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) repository: RepositoryName,
    pub(crate) digest: Digest,
    /// None where nothing but its digest names it.
    pub(crate) tags: Vec<Tag>,
}

impl Images {
    /// What a text means; the target is that of a name, and `None` for an id.
    pub(crate) fn look_up(&self, text: &str) -> Outcome<(Option<Target>, Kept)> {
        if let Some((target, kept)) = self.named(text)? {
            return Ok((Some(target), kept));
        }
        let places = self.with_id(text)?;
        let Some(place) = places.first() else {
            return Err(self.unknown(text));
        };
        let target = Target::Digest(place.digest.clone());
        let manifest = self.registry.manifest(&place.repository, &target);
        let manifest = manifest.map_err(store)?.ok_or_else(|| self.unknown(text))?;
        let kept = Kept {
            repository: place.repository.clone(),
            digest: manifest.digest,
            media_type: manifest.media_type,
            bytes: manifest.bytes,
        };
        Ok((None, kept))
    }

    /// The image of a name; `None` where there is none, or the text is no name but may be an id.
    pub(crate) fn named(&self, text: &str) -> Outcome<Option<(Target, Kept)>> {
        let reference: Reference = match text.parse() {
            Ok(reference) => reference,
            Err(_) if beginning(text).is_some() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = self.find(&reference)?;
        Ok(found.map(|kept| (reference.target(), kept)))
    }

    /// Everywhere that an image of this id is, all of them the same image.
    pub(crate) fn with_id(&self, text: &str) -> Outcome<Vec<Place>> {
        let Some(beginning) = beginning(text) else {
            return Ok(Vec::new());
        };
        let mut places: Vec<Place> = Vec::new();
        for place in self.all_places()? {
            if self.goes_by(&place, beginning)? {
                places.push(place);
            }
        }
        let first = places.first().map(|place| place.digest.clone());
        if places
            .iter()
            .any(|place| Some(&place.digest) != first.as_ref())
        {
            return Err(Failure::invalid(format!(
                "the ids of several images begin with {beginning:?}"
            ))
            .hint("Write more of it, or a name: see `devpod images --digests`."));
        }
        Ok(places)
    }

    fn goes_by(&self, place: &Place, beginning: &str) -> Outcome<bool> {
        if place.digest.digest().starts_with(beginning) {
            return Ok(true);
        }
        let id = self.config_digest(&place.repository, &place.digest)?;
        Ok(id.is_some_and(|id| hex(&id).starts_with(beginning)))
    }

    /// Of a manifest; `None` for an index.
    fn config_digest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Outcome<Option<String>> {
        let target = Target::Digest(digest.clone());
        let manifest = self.registry.manifest(repository, &target).map_err(store)?;
        let value = manifest.and_then(|m| serde_json::from_slice::<Value>(&m.bytes).ok());
        Ok(value.and_then(|value| value["config"]["digest"].as_str().map(str::to_owned)))
    }

    /// Every manifest of every repository.
    pub(crate) fn all_places(&self) -> Outcome<Vec<Place>> {
        let mut tags: HashMap<(String, String), Vec<Tag>> = HashMap::new();
        for image in self.registry.images().map_err(store)? {
            let key = (image.repository.to_string(), image.digest.to_string());
            tags.entry(key).or_default().push(image.tag);
        }
        let mut places = Vec::new();
        for repository in self.all_repositories()? {
            let manifests = self.registry.manifests(&repository).map_err(store)?;
            for (digest, _) in manifests {
                let key = (repository.to_string(), digest.to_string());
                places.push(Place {
                    repository: repository.clone(),
                    digest,
                    tags: tags.remove(&key).unwrap_or_default(),
                });
            }
        }
        Ok(places)
    }

    pub(crate) fn all_repositories(&self) -> Outcome<Vec<RepositoryName>> {
        let mut all = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let listing = Listing {
                limit: None,
                last: last.as_deref(),
            };
            let page = self.registry.repositories(listing).map_err(store)?;
            for name in &page.items {
                all.push(name.parse()?);
            }
            match page.items.last() {
                Some(name) if page.more => last = Some(name.clone()),
                _ => return Ok(all),
            }
        }
    }
}

/// The hexadecimal digits of what may be an id.
fn beginning(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let good = (SHORTEST..=64).contains(&digits.len())
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(digits)
}

fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_not_too_short() {
        for (text, expected) in [
            ("cafe", Some("cafe")),
            ("sha256:0123", Some("0123")),
            ("caf", None),
            ("Cafe", None),
            ("busybox", None),
            ("cafe:1", None),
            (&"a".repeat(65), None),
        ] {
            assert_eq!(beginning(text), expected, "{text}");
        }
    }
}
