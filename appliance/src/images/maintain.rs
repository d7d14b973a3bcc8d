//! What the daemon does for its registry now and then: tags whose time is over go, then garbage.
//!
//! Unlike `prune` it never holds up other work: rows are collected while images are pulled, built and
//! pushed, and files are unlinked a few at a time, each time alone with the gate for some
//! milliseconds. While work goes on that may rely on a file which no row names yet, it waits, and
//! in the end leaves the files to the next time. Snapshots and the build cache are `prune`'s; only
//! what a killed daemon left of them is deleted here, once.

use std::sync::Arc;
use std::time::Duration;

use registry::metrics::Metrics;
use registry::service::Expired;
use registry::store::{StoreError, Swept, Turn};
use tokio_util::sync::CancellationToken;

use crate::error::Outcome;
use crate::images::service::{Images, store};

/// After the start, so that what woke the daemon has its way first.
const FIRST: Duration = Duration::from_secs(5 * 60);
/// A gap in the work on images is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one round did.
#[derive(Debug, Default)]
pub(crate) struct Maintained {
    pub(crate) expired: Vec<Expired>,
    pub(crate) swept: Swept,
}

impl Images {
    /// One round. A collection that runs already, because somebody prunes, is left to it. Garbage is
    /// collected also where tags could not be looked at: the disk would fill meanwhile.
    pub(crate) fn maintain(&self) -> Outcome<Maintained> {
        let expired = self.registry.expire_tags(&self.retention, false);
        let swept = match self.registry.collect() {
            Err(StoreError::Collecting) => Ok(Swept::default()),
            outcome => outcome,
        };
        Ok(Maintained {
            expired: expired.map_err(store)?,
            swept: swept.map_err(store)?,
        })
    }

    /// From now on every collection of the registry leaves files alone while work on images goes on,
    /// and ends when `stop` comes.
    fn share_files(&self, patience: Duration, stop: CancellationToken) {
        let gate = self.gate.clone();
        self.registry.files_wait_for(move || {
            if stop.is_cancelled() {
                return None;
            }
            let alone = gate.alone(patience)?;
            let turn: Turn = Box::new(alone);
            Some(turn)
        });
    }
}

/// Rounds until `stop`, the first a few minutes from now; with `every` absent there is none but on
/// demand.
pub(crate) async fn run(
    images: Arc<Images>,
    metrics: Arc<Metrics>,
    every: Option<Duration>,
    stop: CancellationToken,
) {
    images.share_files(PATIENCE, stop.clone());
    tokio::spawn(purge(Arc::clone(&images), stop.clone()));
    let Some(every) = every else {
        return;
    };
    let mut wait = FIRST.min(every);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        wait = every;
        let images = Arc::clone(&images);
        match tokio::task::spawn_blocking(move || images.maintain()).await {
            Ok(Ok(done)) => {
                let Swept {
                    links,
                    blobs,
                    bytes,
                    ..
                } = done.swept;
                metrics.collected(links, blobs, bytes);
                tell(&done);
            }
            Ok(Err(failure)) => {
                tracing::warn!(failure = ?failure.to_string(), "the registry could not be tidied");
            }
            Err(error) => tracing::error!(?error, "tidying the registry ended early"),
        }
    }
}

/// Deletes what an earlier daemon was deleting, or making, when it was killed. Once, and not at the
/// start: whoever creates files meanwhile would be slowed down.
async fn purge(images: Arc<Images>, stop: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(FIRST) => {}
        () = stop.cancelled() => return,
    }
    match tokio::task::spawn_blocking(move || images.purge()).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::warn!(failure = ?failure.to_string(), "not purged"),
        Err(error) => tracing::error!(?error, "purging ended early"),
    }
}

fn tell(done: &Maintained) {
    for tag in &done.expired {
        tracing::info!(
            repository = tag.repository.as_str(),
            tag = tag.tag.as_str(),
            digest = %tag.digest,
            rule = tag.rule,
            "a tag's time is over"
        );
    }
    let Swept {
        manifests,
        links,
        blobs,
        bytes,
        ..
    } = done.swept;
    tracing::info!(manifests, links, blobs, bytes, "garbage is collected");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::time::SystemTime;

    use config::name::{RepositoryName, Tag, Target};
    use registry::digest::{Algorithm, Digest, digest_of};
    use registry::service::{ManifestPut, References};

    use super::*;

    const RULES: &str =
        "[[registry.retention]]\nrepositories = \"app\"\ntags = \"*\"\nkeep_last = 1\n";

    fn images(data: &Path, clock: fn() -> SystemTime) -> Images {
        let store = registry::store::Options {
            untagged_keep: Some(Duration::ZERO),
            clock,
            ..registry::store::Options::below(data)
        };
        crate::images::scene::images(data, RULES, store)
    }

    fn push(images: &Images, tag: &str) -> Digest {
        let repository: RepositoryName = "app".parse().unwrap();
        let content = format!("{{\"tag\":\"{tag}\"}}");
        let digest = digest_of(Algorithm::Sha256, content.as_bytes());
        let mut writer = images.registry.blob_writer(Algorithm::Sha256).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
        images
            .registry
            .commit_blob(&repository, writer, &digest)
            .unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":1}},
            "layers":[]}}"#
        );
        let put = ManifestPut {
            target: &Target::Tag(tag.parse::<Tag>().unwrap()),
            tags: &[],
            media_type: None,
            bytes: manifest.as_bytes(),
            references: References::Required,
        };
        images
            .registry
            .put_manifest(&repository, &put)
            .unwrap()
            .digest
    }

    #[tokio::test]
    async fn a_round_leaves_files_alone_while_work_goes_on() {
        let data = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let first = images(data.path(), SystemTime::now);
        let gone = push(&first, "one");
        let kept = push(&first, "two");
        drop(first);
        let later = images(data.path(), || {
            SystemTime::now() + Duration::from_secs(2 * 3600)
        });
        later.share_files(Duration::ZERO, stop.clone());
        let pass = later.gate.pass();
        let done = later.maintain().unwrap();
        assert_eq!(done.expired.len(), 1);
        assert_eq!(done.expired[0].digest, gone);
        assert_eq!((done.swept.manifests, done.swept.blobs), (1, 0));
        let blobs = later.registry.store().blobs();
        assert!(blobs.get(&gone).unwrap().is_some(), "work may rely on it");
        drop(pass);
        let done = later.maintain().unwrap();
        assert_eq!(done.swept.blobs, 1, "its configuration rests for a day");
        assert!(blobs.get(&gone).unwrap().is_none());
        assert!(blobs.get(&kept).unwrap().is_some());
        stop.cancel();
        let done = later.maintain().unwrap();
        assert_eq!(done.swept, Swept::default());
    }
}
