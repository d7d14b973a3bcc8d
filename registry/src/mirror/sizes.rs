//! The size of a blob by the manifests that name it, for registries that do not say it.

use config::name::{RepositoryName, Target};
use serde_json::Value;

use crate::digest::Digest;
use crate::service::Registry;
use crate::store::StoreError;

/// What a manifest of the repository says; `None` where none that is here names the blob. Blocking.
pub(super) fn stated(
    registry: &Registry,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<u64>, StoreError> {
    for (manifest, row) in registry.manifests(repository)? {
        if !row.references.contains(digest) {
            continue;
        }
        let target = Target::Digest(manifest);
        let Some(manifest) = registry.manifest(repository, &target)? else {
            continue;
        };
        // It was parsed when it came, so it is JSON; what is damaged since says nothing.
        let document: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        if let Some(size) = named(&document, digest) {
            return Ok(Some(size));
        }
    }
    Ok(None)
}

fn named(document: &Value, digest: &Digest) -> Option<u64> {
    let lists = ["layers", "blobs"].iter();
    let entries = lists.filter_map(|name| document[name].as_array()).flatten();
    entries
        .chain([&document["config"]])
        .find(|entry| entry["digest"].as_str() == Some(digest.as_ref()))
        .and_then(|entry| entry["size"].as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, digest_of};

    #[test]
    fn finds_the_descriptor() {
        let digest = |text: &str| digest_of(Algorithm::Sha256, text.as_bytes());
        let document = serde_json::json!({
            "config": {"digest": digest("c"), "size": 1},
            "layers": [{"digest": digest("a"), "size": 2}, {"digest": digest("b"), "size": "x"}],
        });
        for (text, size) in [("c", Some(1)), ("a", Some(2)), ("b", None), ("d", None)] {
            assert_eq!(named(&document, &digest(text)), size, "{text}");
        }
        assert_eq!(named(&Value::Null, &digest("a")), None);
    }
}
