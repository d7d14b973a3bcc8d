//! Builds: the builder's contracts with whoever has images and keeps them, kept here.

use std::sync::Arc;
use std::time::SystemTime;

use builder::error::{BuildError, Foreign, Part};
use builder::images::BaseImage;
use builder::request::{BuildRequest, DockerfileSource, Env};
use builder::sink::{Publication, Sink};
use builder::solve;
use config::name::{Reference, Target};
use unpacker::container::cgroup;
use unpacker::image::read::Platform;
use unpacker::layer::Ownership;
use unpacker::layer::compress::Compression;
use unpacker::progress::{Cancel, Event, Progress};

use crate::api::types::{BuildRequest as Wanted, BuildResult};
use crate::error::{Failure, Kind, Outcome};
use crate::images::build_inputs;
use crate::images::platform::{Wanted as WantedPlatform, platform};
use crate::images::service::Images;
use crate::progress::Reporter;

impl Images {
    /// Builds an image, keeps it under its names, and pushes it where that was asked for.
    pub fn build(
        &self,
        wanted: &Wanted,
        progress: Reporter,
        cancel: &Cancel,
    ) -> Outcome<BuildResult> {
        let request = self.request(wanted)?;
        let built = self.run_build(&request, progress.as_ref(), cancel)?;
        let names: Vec<String> = request
            .names
            .iter()
            .map(|name| self.shown(name))
            .collect::<Outcome<_>>()?;
        if wanted.push {
            for (name, shown) in request.names.iter().zip(&names) {
                if self.is_pushed(name) {
                    say(
                        progress.as_ref(),
                        format!("[Builder] Pushing to {shown}..."),
                    );
                    self.push(&name.to_string(), Arc::clone(&progress), cancel)?;
                }
            }
        }
        for name in &names {
            say(
                progress.as_ref(),
                format!("[Builder] Build complete: {name}"),
            );
        }
        Ok(BuildResult {
            digest: built.digest.to_string(),
            names,
            steps: built.steps,
            cached: built.cached,
        })
    }

    /// A build in the builder's own terms.
    pub(crate) fn run_build(
        &self,
        request: &BuildRequest,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<builder::request::Built> {
        let _pass = self.gate.pass();
        for text in cgroup::shortfalls(&request.resources) {
            progress.event(Event::Warning { text });
        }
        let env = Env {
            snapshots: &self.snapshots,
            content: self.content.as_ref(),
            images: self,
            fetch: self,
            sink: self,
            launcher: &self.launcher,
            wiring: &self.wiring,
            cache: &self.folder.cache(),
            progress,
            cancel,
            ownership: Ownership::detect(),
            now: SystemTime::now(),
        };
        solve::build(&env, request).map_err(failed)
    }

    pub(super) fn request(&self, wanted: &Wanted) -> Outcome<BuildRequest> {
        let mut request = BuildRequest::new(&wanted.context);
        if let Some(file) = &wanted.dockerfile {
            request.dockerfile = DockerfileSource::Path(file.clone());
        }
        request.names = self.names(wanted)?;
        request.build_args = wanted.build_args.clone();
        request.labels = wanted.labels.clone();
        request.target = wanted.target.clone();
        request.platform = platform(wanted.platform.as_deref())?;
        request.base_image = wanted.base_image.as_deref().map(str::parse).transpose()?;
        request.no_cache = wanted.no_cache;
        request.no_cache_filter.clone_from(&wanted.no_cache_filter);
        if let Some(text) = &wanted.compression {
            request.compression = compression(text)?;
        }
        request.network = crate::sandbox::plan::build_network(wanted.network.as_deref())?;
        request.source_date_epoch = epoch(wanted)?;
        request.resources.clone_from(&self.build_limits);
        build_inputs::add(&mut request, &wanted.inputs)?;
        request.parallel = self.build_parallel.unwrap_or(request.parallel);
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
        let pushed = names.iter().any(|name| self.is_pushed(name));
        if wanted.push && !pushed {
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

/// `SOURCE_DATE_EPOCH` as docker's command line takes it: a build argument.
fn epoch(wanted: &Wanted) -> Outcome<Option<i64>> {
    let Some(text) = wanted.build_args.get("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        Failure::invalid(format!(
            "SOURCE_DATE_EPOCH {text:?} is not a number of seconds"
        ))
    })
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

fn say(progress: &dyn Progress, text: String) {
    progress.event(Event::Line { text });
}

/// The last lines of the failing command stand last, where the eye is.
pub(super) fn failed(error: BuildError) -> Failure {
    let record = error.record();
    let kind = match (&error, record.stage) {
        (BuildError::Cancelled(_), _) => Kind::Cancelled,
        (_, Part::Parse) => Kind::Invalid,
        (BuildError::Image { .. }, _) => Kind::NotFound,
        _ => Kind::Internal,
    };
    let mut failure = Failure::because(kind, "the build failed", &error);
    if let BuildError::Image { source, .. } = &error
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
    match record.suggestion {
        Some(text) => failure.hint(sentence(&text)),
        None => failure,
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

impl Sink for Images {
    fn place(&self) -> String {
        format!("localhost:{}", self.here.port)
    }

    fn publish(&self, publication: &Publication<'_>) -> Result<(), Foreign> {
        for name in publication.names {
            let repository = self.here.destination(name)?;
            let target = match name.target() {
                Target::Digest(_) => Target::Digest(publication.digest.clone()),
                tag => tag,
            };
            let blobs: Vec<_> = std::iter::once(publication.config)
                .chain(publication.layers)
                .map(|descriptor| descriptor.digest().clone())
                .collect();
            self.keep(
                &repository,
                &target,
                publication.media_type,
                publication.manifest,
                &blobs,
            )?;
        }
        Ok(())
    }
}
