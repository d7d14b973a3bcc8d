//! Builds: the builder's contracts with whoever has images and keeps them, kept here.

pub(super) mod caches;
mod layouts;
mod publish;
mod repositories;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use builder::attest::provenance::Mode;
use builder::cache::source::Source as CacheSource;
use builder::error::{BuildError, Foreign, Part, Record, StepError};
use builder::images::BaseImage;
use builder::request::{BuildRequest, Built, DockerfileSource, Env};
use builder::sink::Sink;
use builder::source::Source;
use builder::{excerpt, solve};
use config::name::{Reference, Target};
use oci_spec::image::MediaType;
use unpacker::container::cgroup;
use unpacker::container::resources::Resources;
use unpacker::digest::Digest;
use unpacker::image::read::Platform;
use unpacker::layer::Ownership;
use unpacker::layer::compress::Compression;
use unpacker::progress::{Cancel, Event, Progress};

use crate::api::types::{BuildRequest as Wanted, BuildResult};
use crate::error::{Failure, Kind, Outcome};
use crate::images::attest;
use crate::images::build_inputs;
use crate::images::platform::{Wanted as WantedPlatform, platform};
use crate::images::service::Images;
use crate::progress::Reporter;
use crate::sandbox::local::Runnable;
use publish::{Bases, Early, Keeper};

/// Where an image that got no name is kept, by its digest.
const NAMELESS: &str = "built";

/// What one build has to itself.
struct Given<'a> {
    bases: &'a dyn builder::images::Images,
    sink: &'a dyn Sink,
    caches: &'a [&'a dyn CacheSource],
}

impl Images {
    /// Builds an image, keeps it under its names, and pushes it where that was asked for.
    pub fn build(
        &self,
        wanted: &Wanted,
        progress: Reporter,
        cancel: &Cancel,
    ) -> Outcome<BuildResult> {
        // What is brought and made for this build is kept until it has ended.
        let _pass = self.gate.pass_unless(cancel).ok_or_else(stopped)?;
        let mut request = self.request(wanted)?;
        // The builder keeps to the timeout by itself; what comes before and after it has the rest.
        let end = request.timeout.and_then(|t| Instant::now().checked_add(t));
        let bounded = match end {
            Some(end) => cancel.until(end),
            None => cancel.part(),
        };
        let timeout = request.timeout;
        let in_time = |what: &'static str| {
            let bounded = &bounded;
            move |failure: Failure| match failure.kind {
                Kind::Cancelled if bounded.is_late() => late(what, timeout),
                _ => failure,
            }
        };
        let inputs = &wanted.inputs;
        let layouts = self.bring_layouts(&mut request, inputs, &bounded);
        layouts.map_err(in_time("reading a layout"))?;
        let folders = self.bring_repositories(&mut request, inputs, progress.as_ref(), &bounded);
        let _folders = folders.map_err(in_time("fetching a repository"))?;
        let source = read(&request)?;
        let bases = Bases {
            images: self,
            fetch: wanted.pull,
            used: Mutex::default(),
        };
        let names: Vec<String> = request
            .names
            .iter()
            .map(|name| self.shown(name))
            .collect::<Outcome<_>>()?;
        let keeper = Keeper {
            images: self,
            attest: attestations(wanted)?,
            request: &request,
            source: &source,
            names: &names,
            bases: &bases,
            started: SystemTime::now(),
            progress: progress.as_ref(),
            cancel,
            index: Mutex::default(),
        };
        let caches = self.caches(&wanted.inputs.cache_from, &request.platform);
        let caches: Vec<&dyn CacheSource> = caches
            .iter()
            .map(|cache| cache as &dyn CacheSource)
            .collect();
        let given = Given {
            bases: &bases,
            sink: &keeper,
            caches: &caches,
        };
        let built = self.solve(&request, &source, &given, progress.as_ref(), cancel)?;
        if wanted.push {
            let pushed = self.push_all(&request, &names, &progress, &bounded);
            pushed.map_err(in_time("the push")).map_err(not_pushed)?;
        }
        let written =
            self.write_caches(&inputs.cache_to, &built.caches, progress.as_ref(), &bounded);
        written.map_err(in_time("writing the caches"))?;
        for name in &names {
            say(
                progress.as_ref(),
                format!("[Builder] Build complete: {name}"),
            );
        }
        let index = keeper.index();
        self.result(&request, names, built, index)
    }

    /// Sends the image to the registries that its names say.
    fn push_all(
        &self,
        request: &BuildRequest,
        names: &[String],
        progress: &Reporter,
        cancel: &Cancel,
    ) -> Outcome<()> {
        for (name, shown) in request.names.iter().zip(names) {
            if self.is_pushed(name) {
                say(
                    progress.as_ref(),
                    format!("[Builder] Pushing to {shown}..."),
                );
                self.push(&name.to_string(), Arc::clone(progress), cancel)
                    .map_err(not_pushed)?;
            }
        }
        Ok(())
    }

    /// What is answered of a build; `index` is that of its attestations.
    fn result(
        &self,
        request: &BuildRequest,
        names: Vec<String>,
        built: Built,
        index: Option<(Digest, u64)>,
    ) -> Outcome<BuildResult> {
        let manifest_digest = built.digest.to_string();
        let (digest, size, media_type) = match index {
            Some((digest, size)) => (digest, size, MediaType::ImageIndex.to_string()),
            None => (built.digest, built.size, built.media_type),
        };
        let repository = match request.names.first() {
            Some(name) => self.here.destination(name)?,
            None => NAMELESS.parse()?,
        };
        let target = Target::Digest(digest.clone());
        Ok(BuildResult {
            digest: digest.to_string(),
            manifest_digest,
            config_digest: built.config_digest.to_string(),
            media_type,
            size,
            kept: self.here.name(&repository, &target),
            names,
            steps: built.steps,
            cached: built.cached,
        })
    }

    /// A build in the builder's own terms. `ready` is given the image as soon as sandboxes can be made
    /// of it, which is before its layers are packed.
    pub(crate) fn run_build(
        &self,
        request: &BuildRequest,
        progress: &dyn Progress,
        cancel: &Cancel,
        ready: &(dyn Fn(Runnable) + Sync),
    ) -> Outcome<Built> {
        let pass = self.gate.pass_unless(cancel).ok_or_else(stopped)?;
        let source = read(request)?;
        let sink = Early {
            images: self,
            name: request.names.first().map(ToString::to_string),
            ready,
            pass,
        };
        let given = Given {
            bases: self,
            sink: &sink,
            caches: &[],
        };
        self.solve(request, &source, &given, progress, cancel)
    }

    fn solve(
        &self,
        request: &BuildRequest,
        source: &Source,
        given: &Given<'_>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Built> {
        let _pass = self.gate.pass_unless(cancel).ok_or_else(stopped)?;
        for text in cgroup::shortfalls(&request.resources) {
            progress.event(Event::Warning { text });
        }
        let env = Env {
            snapshots: &self.snapshots,
            content: self.content.as_ref(),
            images: given.bases,
            fetch: self,
            sink: given.sink,
            caches: given.caches,
            launcher: &self.launcher,
            wiring: &self.wiring,
            cache: &self.folder.cache(),
            progress,
            cancel,
            ownership: Ownership::detect(),
            now: SystemTime::now(),
        };
        let built = solve::build(&env, request, source);
        // A power cut before that takes results of steps, which are then made again, and no image.
        self.snapshots.sync_behind();
        built.map_err(|error| failed(source, &error))
    }

    pub(super) fn request(&self, wanted: &Wanted) -> Outcome<BuildRequest> {
        let mut request = BuildRequest::new(&wanted.context);
        if let Some(text) = &wanted.dockerfile_text {
            request.dockerfile = DockerfileSource::Text {
                name: "Dockerfile".to_owned(),
                text: text.clone().into_bytes(),
            };
        } else if let Some(file) = &wanted.dockerfile {
            request.dockerfile = DockerfileSource::Path(file.clone());
        }
        request.names = self.names(wanted)?;
        request.build_args = wanted.build_args.clone();
        request.labels = wanted.labels.clone();
        request.annotations = wanted.annotations.clone();
        request.target = wanted.target.clone();
        request.platform = platform(wanted.platform.as_deref())?;
        request.base_image = wanted.base_image.as_deref().map(str::parse).transpose()?;
        request.no_cache = wanted.no_cache;
        request.no_cache_filter.clone_from(&wanted.no_cache_filter);
        if let Some(text) = &wanted.compression {
            request.compression = compression(text)?;
        }
        request.compression_level = wanted.compression_level;
        if let Some(level) = wanted.compression_level {
            check_level(request.compression, level)?;
        }
        request.network = crate::sandbox::plan::build_network(wanted.network.as_deref())?;
        request.source_date_epoch = epoch(wanted)?;
        build_inputs::add(&mut request, &wanted.inputs)?;
        request.parallel = self.build_parallel.unwrap_or(request.parallel);
        request.timeout = wanted.timeout.map(Duration::from_secs);
        request.surroundings = wanted.surroundings.clone();
        request.resources = Resources {
            cpus: wanted.resources.cpus.or(self.build_limits.cpus),
            memory: wanted.resources.memory.or(self.build_limits.memory),
            ..wanted.resources.clone()
        };
        Ok(request)
    }

    /// The names of a build's result, refused before anything is built.
    fn names(&self, wanted: &Wanted) -> Outcome<Vec<Reference>> {
        let names: Vec<Reference> = wanted
            .tags
            .iter()
            .map(|text| text.parse::<Reference>().map_err(Failure::from))
            .collect::<Outcome<_>>()?;
        for name in &names {
            self.here.destination(name)?;
        }
        // What is of the embedded registry is there when it is built.
        let placed = names.iter().any(Reference::host_given);
        if wanted.push && !placed {
            return Err(Failure::invalid("--push needs a name with a registry host")
                .hint("For example `devpod build --push -t host:5000/team/app:1 .`."));
        }
        Ok(names)
    }

    /// Whether `build --push` sends an image of this name anywhere.
    fn is_pushed(&self, name: &Reference) -> bool {
        self.here.is_remote(name) && name.host_given()
    }

    /// The complete name under which an image of ours is found.
    pub(crate) fn shown(&self, reference: &Reference) -> Outcome<String> {
        let repository = self.here.destination(reference)?;
        Ok(self.here.name(&repository, &reference.target()))
    }
}

/// `SOURCE_DATE_EPOCH`, refused where it is none.
fn epoch(wanted: &Wanted) -> Outcome<Option<i64>> {
    let epoch = wanted.epoch();
    match wanted.build_args.get("SOURCE_DATE_EPOCH") {
        Some(text) if epoch.is_none() => Err(Failure::invalid(format!(
            "SOURCE_DATE_EPOCH {text:?} is not a number of seconds"
        ))),
        _ => Ok(epoch),
    }
}

fn check_level(compression: Compression, level: i32) -> Outcome<()> {
    match compression.levels() {
        Some(levels) if levels.contains(&level) => Ok(()),
        Some(levels) => Err(Failure::invalid(format!(
            "compression level {level} is none of {} to {}",
            levels.start(),
            levels.end()
        ))),
        None => Err(Failure::invalid("what is not compressed has no level")),
    }
}

fn compression(text: &str) -> Outcome<Compression> {
    match text {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "none" => Ok(Compression::None),
        other => Err(
            Failure::invalid(format!("compression {other:?} is not known"))
                .hint("Choose gzip, zstd or none."),
        ),
    }
}

fn stopped() -> Failure {
    Failure::new(Kind::Cancelled, "the build was stopped")
}

fn say(progress: &dyn Progress, text: String) {
    progress.event(Event::Line { text });
}

/// What was built is here: only sending it failed.
fn not_pushed(mut failure: Failure) -> Failure {
    failure.build = Some(Box::new(Record {
        stage: Part::Push,
        error: failure.to_string(),
        logs: Vec::new(),
        recoverable: failure.kind == Kind::Unavailable,
        suggestion: Some("push again; everything that was built is here".to_owned()),
    }));
    failure
}

/// The Dockerfile of a build.
pub(super) fn read(request: &BuildRequest) -> Outcome<Source> {
    Source::read(request).map_err(|error| {
        let record = error.record();
        let mut failure = told(&error, &record);
        failure.build = Some(Box::new(record));
        failure
    })
}

/// What the build's timeout ended, before or after the builder's own work.
fn late(what: &str, timeout: Option<Duration>) -> Failure {
    let seconds = timeout.unwrap_or_default().as_secs();
    let message = format!("{what} did not end within the build's timeout of {seconds} s");
    Failure::new(Kind::Internal, message).hint("Give a longer --timeout, or do it again.")
}

/// The last lines of the failing command stand last, where the eye is, with its place in the
/// Dockerfile.
pub(super) fn failed(source: &Source, error: &BuildError) -> Failure {
    let record = error.record();
    let mut failure = told(error, &record);
    if let Some(text) = excerpt::excerpt(source, error) {
        failure.causes.push(text);
    }
    failure.build = Some(Box::new(record));
    failure
}

fn told(error: &BuildError, record: &Record) -> Failure {
    let kind = match (error, record.stage) {
        (BuildError::Cancelled(_), _) => Kind::Cancelled,
        (_, Part::Parse) => Kind::Invalid,
        (BuildError::Image { .. }, _) => Kind::NotFound,
        _ if error.met_full_disk() => Kind::Exhausted,
        (BuildError::Step { source, .. }, _) => step_kind(source),
        _ => Kind::Internal,
    };
    let mut failure = Failure::because(kind, "the build failed", error);
    if let BuildError::Image { source, .. } = error
        && let Some(cause) = source.downcast_ref::<Failure>()
    {
        // What to do about an image that cannot be had is known best where it was looked for.
        failure.kind = cause.kind;
        failure.hints.clone_from(&cause.hints);
        return failure;
    }
    if !record.logs.is_empty() {
        failure
            .causes
            .push(format!("its last output was:\n{}", record.logs.join("\n")));
    }
    match &record.suggestion {
        Some(text) => failure.hint(sentence(text)),
        None => failure,
    }
}

fn step_kind(error: &StepError) -> Kind {
    match error {
        StepError::Repository { source, .. } => repositories::kind(source),
        _ => Kind::Internal,
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|c| c.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

impl builder::images::Images for Images {
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<BaseImage, Foreign> {
        let wanted = WantedPlatform {
            platform: platform.clone(),
            explicit: true,
        };
        let behind = self.unpack_behind(progress, cancel);
        let image = self.have(reference, &wanted, Some(&behind), progress, cancel)?;
        let stack = self.unpacked(&image, progress, cancel)?;
        Ok(BaseImage { image, stack })
    }
}

/// What is to be attested.
fn attestations(wanted: &Wanted) -> Outcome<attest::Wanted> {
    let provenance = match wanted.provenance.as_deref() {
        None => None,
        Some("min") => Some(Mode::Min),
        Some("max") => Some(Mode::Max),
        Some(other) => {
            return Err(
                Failure::invalid(format!("there is no provenance {other:?}"))
                    .hint("Choose mode=min or mode=max."),
            );
        }
    };
    Ok(attest::Wanted {
        provenance,
        sbom: wanted.sbom,
    })
}
