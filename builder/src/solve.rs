//! Walks a plan: for each step its key, then the remembered result or the work.
//!
//! Everything that can be refused is refused before the first step runs. A step's result becomes
//! visible by one rename; a step that fails or is cancelled leaves nothing behind. Stages that do not
//! wait for each other are worked on side by side.

mod ahead;
mod board;
pub mod checks;
mod copy;
mod download;
mod exports;
mod furnish;
mod imports;
mod origin;
mod passwords;
mod repository;
mod run;
mod runs;
mod schedule;
mod stage;
mod step;
mod workdir;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use config::name::Reference;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;
use unpacker::progress::{Cancelled, Event};

use crate::assemble::{Finished, assemble};
use crate::cache::description::INLINE;
use crate::cache::steps::Steps;
use crate::context::Context;
use crate::dockerfile::{self, Dockerfile};
use crate::error::{self, BuildError, Place};
use crate::images::BaseImage;
use crate::plan::evaluate::plan;
use crate::plan::{Action, Origin, Plan, RunMount, RunMountKind, Stage, Step};
use crate::request::{BuildRequest, Built, Env, NamedContext};
use crate::source::Source;

use ahead::Ahead;
use board::Stages;
use exports::Results;
use imports::Imports;
use runs::Runs;
use schedule::Turn;

/// Builds the image that `source` describes, and publishes it. Nothing of it, waiting included, goes on
/// for longer than the request's timeout.
pub fn build(env: &Env<'_>, request: &BuildRequest, source: &Source) -> Result<Built, BuildError> {
    let end = request.timeout.and_then(|t| Instant::now().checked_add(t));
    // A failure cancels what runs beside it, and so does the end.
    let stop = match end {
        Some(end) => env.cancel.until(end),
        None => env.cancel.part(),
    };
    let bounded = Env {
        cancel: &stop,
        ..*env
    };
    let built = carry_out(&bounded, request, source);
    built.map_err(|error| match error.was_cancelled() {
        true if env.cancel.is_cancelled() => BuildError::Cancelled(Cancelled),
        true if stop.is_late() => BuildError::TimedOut {
            seconds: request.timeout.unwrap_or_default().as_secs(),
        },
        _ => error,
    })
}

fn carry_out(env: &Env<'_>, request: &BuildRequest, source: &Source) -> Result<Built, BuildError> {
    let parsed = dockerfile::parse(&source.text).map_err(|error| BuildError::Syntax {
        file: source.name.clone(),
        source: Box::new(error),
    })?;
    let options = checks::options(&parsed, request)?;
    warn(env, &source.name, &parsed);
    let again = run_again(&parsed, request)?;
    let mut images = BTreeMap::new();
    let plan = plan(
        &source.name,
        &parsed,
        request,
        |reference, platform, place| {
            let image = fetch(env, &mut images, reference, platform, place)?;
            Ok(image.image.config.clone())
        },
    )?;
    for (reference, platform, place) in image_origins(&plan) {
        fetch(env, &mut images, reference, platform, place)?;
    }
    let contexts = open_contexts(env, request, source.path())?;
    let ignore = &contexts.main.ignore;
    let found = checks::find(&parsed, request, &options, ignore, &plan.base_configs);
    checks::tell(env, &source.name, &options, &found)?;
    passwords::warn(env, request, &plan);
    let imports = Imports::new(env.caches);
    let mut own_runs = false;
    loop {
        imports.begin();
        // A failure cancels what runs beside it.
        let stop = env.cancel.part();
        let env = &Env {
            cancel: &stop,
            ..*env
        };
        let solver = Solver {
            env,
            request,
            again: &again,
            total: plan.steps,
            steps: Steps::new(env.cache),
            contexts: &contexts,
            images: &images,
            imports: &imports,
            runs: Runs::new(own_runs),
            results: Results::default(),
            ahead: Ahead::of(&plan, request),
            done: plan.stages.iter().map(not_done).collect(),
            cached: AtomicUsize::new(0),
        };
        match solver.solve(&plan) {
            // It is not asked again, so this comes to an end.
            Err(BuildError::Cache(error)) => {
                let text = format!("{}; building without it", error::chain(&error));
                env.progress.event(Event::Warning { text });
            }
            // With these it cannot happen again.
            Err(error @ BuildError::TwoRuns) => {
                own_runs = true;
                let text = format!("{error}; building with those of this host");
                env.progress.event(Event::Line { text });
            }
            solved => return solved,
        }
    }
}

fn not_done(stage: &Stage) -> (usize, OnceLock<Finished>) {
    (stage.index, OnceLock::new())
}

/// The stages that `--no-cache-filter` names, as places call them.
fn run_again(parsed: &Dockerfile, request: &BuildRequest) -> Result<BTreeSet<String>, BuildError> {
    let label = |index: usize| {
        let name = parsed.stages.get(index).and_then(|stage| stage.name());
        name.map_or_else(|| index.to_string(), str::to_owned)
    };
    let named = request.no_cache_filter.iter().map(|name| {
        let found = parsed.target(Some(name)).map(label);
        found.map_err(|_| BuildError::Target {
            target: name.clone(),
            known: (0..parsed.stages.len()).map(label).collect(),
        })
    });
    named.collect()
}

fn warn(env: &Env<'_>, file: &str, dockerfile: &Dockerfile) {
    for note in &dockerfile.notes {
        let text = format!("{file}:{}: {}", note.position, note.remark);
        env.progress.event(Event::Warning { text });
    }
}

type BaseImages = BTreeMap<String, BaseImage>;

/// An image by its full name and platform, asked for once.
fn fetch<'i>(
    env: &Env<'_>,
    images: &'i mut BaseImages,
    reference: &Reference,
    platform: &Platform,
    place: &Place,
) -> Result<&'i BaseImage, BuildError> {
    use std::collections::btree_map::Entry;
    match images.entry(image_key(reference, platform)) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(place_for) => {
            let found = env
                .images
                .resolve(reference, platform, env.progress, env.cancel);
            env.cancel.check()?;
            let found = found.map_err(|source| BuildError::Image {
                place: Box::new(place.clone()),
                reference: reference.to_string(),
                source,
            })?;
            Ok(place_for.insert(found))
        }
    }
}

fn image_key(reference: &Reference, platform: &Platform) -> String {
    // `demo` and `docker.io/library/demo` may be two images: the embedded registry knows the first.
    let given = reference.host_given();
    format!("{reference} {given} {platform}")
}

/// Images that COPY and mounts read from.
fn image_origins(plan: &Plan) -> Vec<(&Reference, &Platform, &Place)> {
    let mut found = Vec::new();
    for step in plan.stages.iter().flat_map(|stage| &stage.steps) {
        for origin in origins(step) {
            if let Origin::Image(reference, platform) = origin {
                found.push((reference, platform, &step.place));
            }
        }
    }
    found
}

/// What a step reads beside the stage that it is in.
fn origins(step: &Step) -> Vec<&Origin> {
    match &step.action {
        Action::Copy(copy) => vec![&copy.origin],
        Action::Run(run) => run.mounts.iter().filter_map(bind_origin).collect(),
        Action::Configure | Action::From | Action::Workdir(_) => Vec::new(),
    }
}

fn bind_origin(mount: &RunMount) -> Option<&Origin> {
    match &mount.kind {
        RunMountKind::Bind { origin, .. } => Some(origin),
        RunMountKind::Cache {
            seed: Some((origin, _)),
            ..
        } => Some(origin),
        _ => None,
    }
}

struct Contexts {
    main: Context,
    named: BTreeMap<String, Context>,
}

fn open_contexts(
    env: &Env<'_>,
    request: &BuildRequest,
    dockerfile: Option<&Path>,
) -> Result<Contexts, BuildError> {
    let main = Context::open(&request.context, dockerfile, env.cache)?;
    let folders = request.contexts.iter().filter_map(|(name, of)| match of {
        NamedContext::Folder(folder) => Some((name, folder)),
        NamedContext::Image(_) => None,
    });
    let named = folders.map(|(name, folder)| {
        let context = Context::open(folder, None, env.cache)?;
        Ok((name.clone(), context))
    });
    Ok(Contexts {
        main,
        named: named.collect::<Result<_, BuildError>>()?,
    })
}

/// One build, shared by its workers.
struct Solver<'a> {
    /// Its `cancel` is set by the first failure, too.
    env: &'a Env<'a>,
    request: &'a BuildRequest,
    /// Labels of stages whose steps run whatever is known of them.
    again: &'a BTreeSet<String>,
    total: usize,
    steps: Steps,
    contexts: &'a Contexts,
    images: &'a BaseImages,
    imports: &'a Imports<'a>,
    runs: Runs,
    results: Results,
    ahead: Ahead,
    done: Stages,
    cached: AtomicUsize,
}

impl Solver<'_> {
    fn solve(&self, plan: &Plan) -> Result<Built, BuildError> {
        let workers = self.request.parallel;
        let perform = |turn: Turn, finished: &mut Finished| self.turn(plan, turn, finished);
        let stop = self.env.cancel;
        let (finished, config) = self.packing_ahead(|| {
            let carried_out = board::carry_out(plan, &self.done, workers, stop, &perform);
            // What was read of the context is known, whatever became of the build.
            self.remember_contexts();
            carried_out?;
            let (finished, config) = self.target(plan)?;
            self.env.sink.ready(&config, &finished.stack);
            Ok::<_, BuildError>((finished, config))
        })?;
        self.finish(finished, config)
    }

    /// The target is the last stage of the plan.
    fn target(&self, plan: &Plan) -> Result<(Finished, ImageConfig), BuildError> {
        let stage = plan.stages.last().ok_or(BuildError::NoStage)?;
        let finished = self.done.get(&stage.index).and_then(OnceLock::get);
        let mut finished = finished.cloned().ok_or(BuildError::NoStage)?;
        if let Some(epoch) = self.epoch() {
            finished.created = Some(epoch);
        } else if finished.created.is_none() {
            finished.created = Some(self.now());
        }
        let here = self.imports.expand(self.env, &finished.stack);
        finished.stack = here.map_err(exports::unplaced)?;
        let mut config = stage.config.clone();
        // A base image's is of the base image's steps.
        config.other.remove(INLINE);
        Ok((finished, config))
    }

    fn finish(&self, finished: Finished, mut config: ImageConfig) -> Result<Built, BuildError> {
        if let Some(description) = self.inline(&finished)? {
            config.other.insert(INLINE.to_owned(), description);
        }
        let image = assemble(self.env, self.request, &finished, config)?;
        let caches = self.exports(&finished)?;
        let remembered = self.imports.remember(self.env, &self.steps);
        remembered.map_err(BuildError::store("remember a step"))?;
        Ok(Built {
            digest: image.digest,
            size: image.size,
            media_type: image.media_type,
            config_digest: image.config_digest,
            config: image.config,
            stack: finished.stack,
            steps: self.total,
            cached: self.cached.load(Ordering::Relaxed),
            caches,
        })
    }

    /// Losing this costs the next build some reading, so it stops nothing.
    fn remember_contexts(&self) {
        let named = self.contexts.named.values();
        for context in std::iter::once(&self.contexts.main).chain(named) {
            if let Err(error) = context.remember() {
                let text = format!("cannot keep the hashes of the build context: {error}");
                self.env.progress.event(Event::Warning { text });
            }
        }
    }

    fn epoch(&self) -> Option<String> {
        let seconds = self.request.source_date_epoch?;
        Some(text_of(OffsetDateTime::from_unix_timestamp(seconds).ok()?))
    }

    fn now(&self) -> String {
        text_of(OffsetDateTime::from(self.env.now))
    }
}

fn text_of(time: OffsetDateTime) -> String {
    // Years beyond 9999 have no RFC 3339 form.
    time.format(&Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}
