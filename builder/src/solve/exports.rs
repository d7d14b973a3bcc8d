//! Caches for other hosts: what the steps of a build came to, described for whoever builds the same.

use std::sync::{Mutex, PoisonError};

use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Value, json};
use unpacker::digest::sha256;
use unpacker::snapshot::id::SnapshotId;

use crate::assemble::{Finished, layer};
use crate::cache::description::{CONFIG_TYPE, Description, KnownLayer, KnownStep};
use crate::cache::layers::Layers;
use crate::cache::source::{Artifact, Extent};
use crate::error::{BuildError, StepError};
use crate::plan::Step;

use super::Solver;
use super::step::Performed;

/// What the steps of a build came to, so far.
#[derive(Debug, Default)]
pub(super) struct Results(Mutex<Vec<Performance>>);

/// One step of one build.
#[derive(Debug, Clone)]
struct Performance {
    number: usize,
    keys: Vec<String>,
    created: String,
    made_by: String,
    changed: bool,
    /// The stage after it.
    names: Vec<SnapshotId>,
    layers: Vec<SnapshotId>,
    stack: Vec<SnapshotId>,
}

impl Results {
    /// `finished` is the stage after the step.
    pub(super) fn note(&self, step: &Step, performed: &Performed, finished: &Finished) {
        let outcome = &performed.outcome;
        let performance = Performance {
            number: step.number,
            keys: performed.keys.clone(),
            created: outcome.created.clone(),
            made_by: outcome.made_by.clone(),
            changed: outcome.snapshot.is_some(),
            names: finished.names.clone(),
            layers: finished.layers(),
            stack: finished.stack.clone(),
        };
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(performance);
    }

    /// In the order of the file, whatever ended first.
    fn sorted(&self) -> Vec<Performance> {
        let mut noted = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        noted.sort_by_key(|performance| performance.number);
        noted
    }
}

impl Solver<'_> {
    /// The caches that the request asks for.
    pub(super) fn exports(
        &self,
        finished: &Finished,
    ) -> Result<Vec<(Extent, Artifact)>, BuildError> {
        let extents = self.request.cache_exports.iter();
        let artifact = |extent: &Extent| Ok((*extent, self.artifact(*extent, finished)?));
        extents.map(artifact).collect()
    }

    /// The description that goes into the image itself.
    pub(super) fn inline(&self, finished: &Finished) -> Result<Option<Value>, BuildError> {
        if !self.request.inline_cache {
            return Ok(None);
        }
        let steps = self.described(Extent::Min, finished)?;
        Ok(Some(serde_json::to_value(Description::of(&steps))?))
    }

    fn artifact(&self, extent: Extent, finished: &Finished) -> Result<Artifact, BuildError> {
        let steps = self.described(extent, finished)?;
        let description = serde_json::to_vec(&Description::of(&steps))?;
        let stored = self.env.content.put(&description);
        let (digest, size) = stored.map_err(BuildError::store("store a cache's description"))?;
        let config = Descriptor::new(MediaType::Other(CONFIG_TYPE.to_owned()), size, digest);
        let mut layers: Vec<Descriptor> = Vec::new();
        for (_, layer) in steps.iter().flat_map(|step| &step.chain) {
            if !layers.contains(&layer.packed.blob) {
                layers.push(layer.packed.blob.clone());
            }
        }
        let media_type = MediaType::ImageManifest.to_string();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config,
            "layers": layers,
        }))?;
        Ok(Artifact {
            digest: sha256(&manifest),
            manifest,
            media_type,
            config,
            layers,
        })
    }

    fn described(&self, extent: Extent, finished: &Finished) -> Result<Vec<KnownStep>, BuildError> {
        let packing = self.request.packing();
        let layers = Layers::new(self.env.cache, packing, self.request.source_date_epoch);
        let image = finished.layers();
        let mut steps = Vec::new();
        for performance in self.results.sorted() {
            if extent == Extent::Max || image.starts_with(&performance.layers) {
                steps.push(self.describe(performance, &layers)?);
            }
        }
        Ok(steps)
    }

    fn describe(&self, performance: Performance, layers: &Layers) -> Result<KnownStep, BuildError> {
        // What is still elsewhere has to be here to be packed.
        let here = self.imports.expand(self.env, &performance.stack);
        here.map_err(unplaced)?;
        let mut chain = Vec::new();
        for (name, id) in performance.names.into_iter().zip(&performance.layers) {
            let packed = layer(self.env, self.request, layers, id)?;
            let form = layers.form().to_owned();
            chain.push((name, KnownLayer { packed, form }));
        }
        Ok(KnownStep {
            keys: performance.keys,
            created: self.epoch().unwrap_or(performance.created),
            made_by: performance.made_by,
            changed: performance.changed,
            chain,
        })
    }
}

/// A failure of a cache that is of no step.
pub(super) fn unplaced(error: StepError) -> BuildError {
    match error {
        StepError::Cache(error) => BuildError::Cache(error),
        StepError::Copy(crate::copy::CopyError::Cancelled(cancelled)) => {
            BuildError::Cancelled(cancelled)
        }
        other => BuildError::store("find the snapshots of a stage")(std::io::Error::other(other)),
    }
}
