//! Walks a plan: for each step its key, then the remembered result or the work.
//!
//! Everything that can be refused is refused before the first step runs. A step's result becomes
//! visible by one rename; a step that fails or is cancelled leaves nothing behind.

mod copy;
mod furnish;
mod origin;
mod run;
mod step;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use config::name::Reference;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;
use unpacker::progress::{Event, StepState};

use crate::assemble::{Finished, Made, assemble};
use crate::cache::steps::{Outcome, Steps};
use crate::context::Context;
use crate::dockerfile::{self, Dockerfile};
use crate::error::{BuildError, Place};
use crate::images::BaseImage;
use crate::plan::evaluate::plan;
use crate::plan::{Action, Base, Origin, Plan, RunMount, RunMountKind, Stage, Step};
use crate::report::Teller;
use crate::request::{BuildRequest, Built, DockerfileSource, Env};

/// A Dockerfile is text that people write; the parser bounds it further.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// Builds and publishes an image.
pub fn build(env: &Env<'_>, request: &BuildRequest) -> Result<Built, BuildError> {
    let source = read_dockerfile(request)?;
    let parsed = dockerfile::parse(&source.text).map_err(|error| BuildError::Syntax {
        file: source.name.clone(),
        source: Box::new(error),
    })?;
    warn(env, &source.name, &parsed);
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
    let mut solver = Solver {
        env,
        request,
        total: plan.steps,
        steps: Steps::new(env.cache),
        contexts: open_contexts(env, request, source.path.as_deref())?,
        images,
        done: BTreeMap::new(),
        cached: 0,
        deadline: request.timeout.and_then(|t| Instant::now().checked_add(t)),
    };
    solver.solve(plan)
}

/// A Dockerfile's text, and what it is called.
pub(crate) struct Source {
    pub(crate) name: String,
    path: Option<PathBuf>,
    pub(crate) text: Vec<u8>,
}

pub(crate) fn read_dockerfile(request: &BuildRequest) -> Result<Source, BuildError> {
    use std::io::Read;
    let written = match &request.dockerfile {
        DockerfileSource::Text { name, text } => {
            return Ok(Source {
                name: name.clone(),
                path: None,
                text: text.clone(),
            });
        }
        DockerfileSource::Path(path) => path,
    };
    let path = request.context.join(written);
    let mut text = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_DOCKERFILE).read_to_end(&mut text))
        .map_err(|source| BuildError::Dockerfile {
            path: path.clone(),
            source,
        })?;
    Ok(Source {
        name: written.display().to_string(),
        path: Some(path),
        text,
    })
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
        let origins: Vec<&Origin> = match &step.action {
            Action::Copy(copy) => vec![&copy.origin],
            Action::Run(run) => run.mounts.iter().filter_map(bind_origin).collect(),
            _ => Vec::new(),
        };
        for origin in origins {
            if let Origin::Image(reference, platform) = origin {
                found.push((reference, platform, &step.place));
            }
        }
    }
    found
}

fn bind_origin(mount: &RunMount) -> Option<&Origin> {
    match &mount.kind {
        RunMountKind::Bind { origin, .. } => Some(origin),
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
    let named = request
        .contexts
        .iter()
        .map(|(name, folder)| Ok((name.clone(), Context::open(folder, None, env.cache)?)));
    Ok(Contexts {
        main,
        named: named.collect::<Result<_, BuildError>>()?,
    })
}

struct Solver<'a> {
    env: &'a Env<'a>,
    request: &'a BuildRequest,
    total: usize,
    steps: Steps,
    contexts: Contexts,
    images: BaseImages,
    done: BTreeMap<usize, Finished>,
    cached: usize,
    deadline: Option<Instant>,
}

impl Solver<'_> {
    fn solve(&mut self, plan: Plan) -> Result<Built, BuildError> {
        let mut target: Option<(usize, ImageConfig)> = None;
        for stage in plan.stages {
            let finished = self.stage(&stage)?;
            self.done.insert(stage.index, finished);
            target = Some((stage.index, stage.config));
        }
        self.remember_contexts();
        let (index, config) = target.ok_or(BuildError::NoStage)?;
        let mut finished = self.done.remove(&index).ok_or(BuildError::NoStage)?;
        if let Some(epoch) = self.epoch() {
            finished.created = Some(epoch);
        } else if finished.created.is_none() {
            finished.created = Some(self.now());
        }
        let image = assemble(self.env, self.request, &finished, config)?;
        Ok(Built {
            digest: image.digest,
            size: image.size,
            media_type: image.media_type,
            config_digest: image.config_digest,
            config: image.config,
            stack: finished.stack,
            steps: self.total,
            cached: self.cached,
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

    fn stage(&mut self, stage: &Stage) -> Result<Finished, BuildError> {
        let mut finished = self.start(stage)?;
        for step in &stage.steps {
            self.env.cancel.check()?;
            self.check_deadline()?;
            let began = Instant::now();
            let outcome = self.perform(step, &finished);
            self.teller().end(step, began, outcome.is_ok());
            self.record(step, outcome?, &mut finished);
        }
        Ok(finished)
    }

    fn start(&self, stage: &Stage) -> Result<Finished, BuildError> {
        let found = match &stage.base {
            Base::Scratch => Some(Finished::default()),
            Base::Stage(earlier) => self.done.get(earlier).cloned(),
            Base::Image(reference, platform) => {
                let base = self.images.get(&image_key(reference, platform));
                base.map(|base| Finished {
                    base: base.image.layers.clone(),
                    stack: base.stack.clone(),
                    made: Vec::new(),
                    created: base.image.config.created.clone(),
                })
            }
        };
        found.ok_or_else(|| {
            let source = std::io::ErrorKind::NotFound.into();
            BuildError::store("find the base of a stage")(source)
        })
    }

    fn record(&self, step: &Step, outcome: Option<Outcome>, finished: &mut Finished) {
        let mut snapshot = None;
        if let Some(outcome) = outcome {
            finished.created = Some(outcome.created);
            snapshot = outcome.snapshot;
            finished.stack.extend(snapshot.clone());
        }
        if let Some(created_by) = &step.created_by {
            finished.made.push(Made {
                created_by: created_by.clone(),
                created: self.epoch().or_else(|| finished.created.clone()),
                snapshot,
            });
        }
    }

    fn teller(&self) -> Teller<'_> {
        Teller {
            progress: self.env.progress,
            total: self.total,
        }
    }

    fn say(&self, step: &Step, state: StepState) {
        self.teller().tell(step, state);
    }

    fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn check_deadline(&self) -> Result<(), BuildError> {
        match self.remaining() {
            Some(left) if left.is_zero() => Err(BuildError::TimedOut {
                seconds: self.request.timeout.unwrap_or_default().as_secs(),
            }),
            _ => Ok(()),
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
