//! Results that other hosts made: found by the keys of steps, and fetched when something stands on them.
//!
//! Until then a result is one name in a stage's stack, in the place of the whole file system. A cache
//! that turns out to be of no use ends the attempt, and the build begins again without it: what it was
//! believed to have may be below any other step by then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use oci_spec::image::Descriptor;
use unpacker::digest::{ChainId, DiffId, Digest, sha256};
use unpacker::image::config::ImageConfig;
use unpacker::image::unpack::{self, UnpackError};
use unpacker::image::{Image, Layer};
use unpacker::layer::apply::ApplyOptions;
use unpacker::progress::Event;
use unpacker::snapshot::id::SnapshotId;

use crate::assemble::Finished;
use crate::cache::description::{Known, KnownStep};
use crate::cache::key::KeyWriter;
use crate::cache::layers::Layers;
use crate::cache::source::Source;
use crate::cache::steps::{Outcome, Standing, Steps};
use crate::copy::CopyError;
use crate::error::{CacheError, Foreign, StepError};
use crate::request::Env;

/// More layers than overlayfs stacks are no file system.
const MAX_STACK: usize = 500;

/// The caches of one build.
pub(super) struct Imports<'a> {
    sources: Vec<Import<'a>>,
    taken: Mutex<Taken>,
}

struct Import<'a> {
    source: &'a dyn Source,
    known: OnceLock<Known>,
    /// It was found out not to have what it says.
    useless: AtomicBool,
}

#[derive(Default)]
struct Taken {
    /// By what stands for them in a stack.
    systems: BTreeMap<SnapshotId, Arc<System>>,
    /// What was asked for, and what it came to.
    hits: Vec<(Digest, Outcome)>,
}

/// A file system that another host made.
struct System {
    source: usize,
    /// Of the base image, then of the steps.
    layers: Vec<Layer>,
    /// How each of the steps' layers was packed.
    forms: Vec<String>,
    /// Its snapshots, once they are here.
    here: Mutex<Option<Vec<SnapshotId>>>,
}

impl System {
    /// Layers of the steps.
    fn own(&self) -> &[Layer] {
        &self.layers[self.layers.len() - self.forms.len()..]
    }
}

impl<'a> Imports<'a> {
    pub(super) fn new(sources: &[&'a dyn Source]) -> Self {
        let import = |source: &&'a dyn Source| Import {
            source: *source,
            known: OnceLock::new(),
            useless: AtomicBool::new(false),
        };
        Self {
            sources: sources.iter().map(import).collect(),
            taken: Mutex::default(),
        }
    }

    /// Forgets what an earlier attempt took.
    pub(super) fn begin(&self) {
        *self.taken() = Taken::default();
    }

    /// The result of a key on top of a stage, where a cache has one that fits.
    pub(super) fn find(&self, env: &Env<'_>, key: &Digest, below: &Finished) -> Option<Outcome> {
        let useful = |import: &&Import<'_>| !import.useless.load(Ordering::Relaxed);
        let sources = self.sources.iter().enumerate();
        for (number, import) in sources.filter(|(_, import)| useful(import)) {
            let known = match import.known.get() {
                Some(known) => known,
                None => {
                    let read = read(env, import.source);
                    // What was stopped has told nothing of the cache.
                    env.cancel.check().ok()?;
                    import.known.get_or_init(|| read)
                }
            };
            if let Some(step) = known.find(key).filter(|step| fits(step, below)) {
                let outcome = self.take(number, step, below);
                self.taken().hits.push((key.clone(), outcome.clone()));
                return Some(outcome);
            }
        }
        None
    }

    fn take(&self, source: usize, step: &KnownStep, below: &Finished) -> Outcome {
        let created = step.created.clone();
        let made_by = step.made_by.clone();
        let own = step.chain.iter().map(|(_, layer)| &layer.packed);
        let own: Vec<_> = own.collect();
        let diffs = below.base.iter().map(|layer| &layer.diff_id);
        let diffs: Vec<&DiffId> = diffs
            .chain(own.iter().map(|layer| &layer.diff_id))
            .collect();
        let chains = ChainId::of_layers(diffs);
        let rows = own.iter().zip(chains.iter().skip(below.base.len()));
        let rows = rows.map(|(packed, chain_id)| Layer {
            blob: packed.blob.clone(),
            diff_id: packed.diff_id.clone(),
            chain_id: chain_id.clone(),
        });
        let rows: Vec<Layer> = rows.collect();
        let ids = rows
            .iter()
            .map(|layer| SnapshotId::of_chain(&layer.chain_id));
        let ids: Vec<SnapshotId> = ids.collect();
        let Some(top) = ids.last() else {
            // Nothing was changed since the base.
            return Outcome {
                snapshot: None,
                name: None,
                created,
                made_by,
                standing: Standing::On(Vec::new()),
            };
        };
        let stands_for = stands_for(source, top);
        let forms = step.chain.iter().map(|(_, layer)| layer.form.clone());
        let system = || {
            Arc::new(System {
                source,
                forms: forms.collect(),
                layers: below.base.iter().cloned().chain(rows).collect(),
                here: Mutex::default(),
            })
        };
        let mut taken = self.taken();
        taken
            .systems
            .entry(stands_for.clone())
            .or_insert_with(system);
        Outcome {
            snapshot: step.changed.then(|| top.clone()),
            name: step
                .chain
                .last()
                .filter(|_| step.changed)
                .map(|(name, _)| name.clone()),
            created,
            made_by,
            standing: Standing::Whole {
                stack: vec![stands_for],
                layers: ids,
            },
        }
    }

    /// A stack as snapshots that are here: what stands for something elsewhere is fetched.
    pub(super) fn expand(
        &self,
        env: &Env<'_>,
        stack: &[SnapshotId],
    ) -> Result<Vec<SnapshotId>, StepError> {
        let mut expanded = Vec::new();
        for id in stack {
            let system = self.taken().systems.get(id).cloned();
            match system {
                Some(system) => expanded.extend(self.bring(env, &system)?),
                None => expanded.push(id.clone()),
            }
        }
        Ok(expanded)
    }

    fn bring(&self, env: &Env<'_>, system: &System) -> Result<Vec<SnapshotId>, StepError> {
        let mut here = system.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stack) = &*here {
            return Ok(stack.clone());
        }
        let import = &self.sources[system.source];
        let brought = brought(env, import.source, system);
        env.cancel.check().map_err(CopyError::Cancelled)?;
        let stack = brought.map_err(|source| {
            import.useless.store(true, Ordering::Relaxed);
            let name = import.source.name();
            StepError::Cache(CacheError { name, source })
        })?;
        *here = Some(stack.clone());
        Ok(stack)
    }

    /// Remembers what was taken and is here, under the keys that were asked for and no others: what
    /// a cache says of other steps is believed only by a build that is told to use it.
    pub(super) fn remember(&self, env: &Env<'_>, steps: &Steps) -> std::io::Result<()> {
        let (systems, hits) = {
            let taken = self.taken();
            (taken.systems.clone(), taken.hits.clone())
        };
        for (key, mut outcome) in hits {
            if let Standing::Whole { stack: placed, .. } = &mut outcome.standing {
                let system = placed.first().and_then(|id| systems.get(id));
                let Some(system) = system.filter(|system| is_here(env, system)) else {
                    continue;
                };
                // All of it is here, so nothing is fetched for it.
                let Ok(stack) = self.bring(env, system) else {
                    continue;
                };
                *placed = stack;
            }
            steps.put(&key, &outcome)?;
        }
        Ok(())
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // A poisoned lock means that another thread died; what it put in is whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(env: &Env<'_>, source: &dyn Source) -> Known {
    source
        .read(env.progress, env.cancel)
        .unwrap_or_else(|error| {
            let text = format!(
                "cannot use the cache {}: {}",
                source.name(),
                crate::error::chain(error.as_ref())
            );
            env.progress.event(Event::Warning { text });
            Known::default()
        })
}

/// Whether a result stands on what this stage is so far: the same steps by the same names.
fn fits(step: &KnownStep, below: &Finished) -> bool {
    let mut names = step.chain.iter().map(|(name, _)| name);
    let same = below.names.iter().all(|name| names.next() == Some(name));
    let left = usize::from(step.changed);
    let made = below.made.iter().filter(|made| made.snapshot.is_some());
    same && names.count() == left
        && made.count() == below.names.len()
        && below.base.len() + step.chain.len() <= MAX_STACK
}

/// What is in a stack until the file system of this uppermost layer is here.
fn stands_for(source: usize, top: &SnapshotId) -> SnapshotId {
    let mut key = KeyWriter::new("elsewhere");
    key.field("source", source.to_string());
    key.field("top", top.as_str());
    SnapshotId::of_step(&key.finish())
}

fn brought(
    env: &Env<'_>,
    source: &dyn Source,
    system: &System,
) -> Result<Vec<SnapshotId>, Foreign> {
    let mut missing: Vec<Descriptor> = Vec::new();
    for layer in system.own() {
        if env.content.open(layer.blob.digest())?.is_none() {
            missing.push(layer.blob.clone());
        }
    }
    if !missing.is_empty() {
        source.bring(&missing, env.progress, env.cancel)?;
    }
    // What is unpacked now is verified; of what was here before nothing says that this blob is the same.
    let mut verified = Vec::new();
    for layer in system.own() {
        let alone = env.snapshots.get(&SnapshotId::of_diff(&layer.diff_id))?;
        let chained = env.snapshots.get(&SnapshotId::of_chain(&layer.chain_id))?;
        verified.push(alone.is_none() && chained.is_none());
    }
    let stack = unpacked(env, system)?;
    for ((layer, form), verified) in system.own().iter().zip(&system.forms).zip(verified) {
        let id = SnapshotId::of_chain(&layer.chain_id);
        if env.snapshots.get(&id)?.is_none() {
            let alone = SnapshotId::of_diff(&layer.diff_id);
            env.snapshots.alias(&id, &alone)?;
        }
        let packed = crate::cache::layers::PackedLayer {
            blob: layer.blob.clone(),
            diff_id: layer.diff_id.clone(),
        };
        if verified {
            Layers::of_form(env.cache, form).put(&id, &packed)?;
        }
    }
    Ok(stack)
}

fn unpacked(env: &Env<'_>, system: &System) -> Result<Vec<SnapshotId>, UnpackError> {
    // It has layers and nothing else; nobody reads the rest.
    let image = Image {
        digest: sha256(b""),
        config_digest: sha256(b""),
        config: ImageConfig::default(),
        layers: system.layers.clone(),
    };
    let options = ApplyOptions {
        ownership: env.ownership,
        ..ApplyOptions::default()
    };
    let (content, snapshots) = (env.content, env.snapshots);
    unpack::unsynced(
        &image,
        content,
        snapshots,
        &options,
        env.progress,
        env.cancel,
    )
}

fn is_here(env: &Env<'_>, system: &System) -> bool {
    let has = |id: &SnapshotId| matches!(env.snapshots.get(id), Ok(Some(_)));
    let layer = |layer: &Layer| has(&SnapshotId::of_chain(&layer.chain_id));
    system.own().iter().all(layer)
}
