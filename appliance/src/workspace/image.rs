//! The image of one `up`, and what may begin before it is kept.

use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

use unpacker::progress::Event;

use super::backend::{ImageBuild, ImageFacts};
use super::failure::{Class, Fault, Stage};
use super::meta::Status;
use super::plan::{self, ImagePlan, Step};
use super::run::Run;
use super::up::Engine;

impl Run<'_> {
    /// Has the image, and takes the steps after it.
    pub(super) fn image(&mut self, rest: &[Step]) -> Result<(), Fault> {
        match self.plan_image()? {
            ImagePlan::Build(build) => self.build(&build, rest),
            ImagePlan::Pull(reference) => {
                let Engine {
                    backend,
                    progress,
                    cancel,
                    ..
                } = self.engine;
                let image = backend.pull(&reference, progress, cancel);
                self.have(image.map_err(|fault| fault.at(Stage::Build))?)?;
                self.take(rest)
            }
        }
    }

    fn plan_image(&mut self) -> Result<ImagePlan, Fault> {
        let configuration = self.configuration()?;
        let config = self.resolve(&configuration, None)?;
        for unhonoured in config.unsupported.iter().filter(|it| !it.refused) {
            self.warn(format!("{}: {unhonoured}", configuration.path));
        }
        let shown =
            (self.binds()?.check(&config)).map_err(|fault| self.in_file(&configuration, fault))?;
        for line in shown {
            self.say(format!("[Workspace] {line}"));
        }
        self.meta.config_path = Some(configuration.path.clone());
        self.meta.local_folder = Some(self.folder()?);
        self.reach(Status::Building)?;
        let plan = plan::image(
            &config,
            &configuration.base,
            configuration.build_limits,
            &self.folder()?,
            &self.meta,
            self.engine.port,
            self.engine.clock.now(),
        )?;
        self.configured = Some((configuration, config));
        Ok(plan)
    }

    /// The image is kept.
    fn have(&mut self, image: ImageFacts) -> Result<(), Fault> {
        self.meta.image_ref = Some(image.reference.clone());
        self.meta.image_digest.clone_from(&image.digest);
        self.image = Some(image);
        self.save()
    }

    /// The sandbox begins as soon as the last step of the build has ended; the layers of the image, which
    /// it does not need, are packed beside it. One that takes another's place begins only when the image is
    /// kept: until then the other one, with what somebody did in it, is not taken away.
    fn build(&mut self, build: &ImageBuild, rest: &[Step]) -> Result<(), Fault> {
        let engine = self.engine;
        let replaces = rest.contains(&Step::Remove);
        let (tell, told) = mpsc::channel();
        let work = move || {
            let ready = |image| {
                // Nobody listens any more where the steps after it have failed.
                let _ = tell.send(image);
            };
            let (progress, cancel) = (&engine.progress, &engine.cancel);
            let built = engine.backend.build(build, progress, cancel, &ready);
            progress.event(match &built {
                Ok(image) => Event::Line {
                    text: format!("[Builder] Build complete: {}", image.reference),
                },
                // The first commands may run for long before this is the answer.
                Err(fault) => Event::Warning {
                    text: format!("[Builder] {}", fault.message),
                },
            });
            built
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("workspace-build".into());
            let begun = builder.spawn_scoped(scope, work);
            let building = begun.map_err(|error| Fault::io("cannot begin the build", &error))?;
            let early = told.recv().ok().filter(|_| !replaces);
            let begun = early.map(|image| {
                self.image = Some(image);
                self.take(rest)
            });
            let built = building.join().unwrap_or_else(|panic| resume_unwind(panic));
            let kept = built
                .map_err(|fault| fault.at(Stage::Build))
                .and_then(|image| self.have(image));
            match begun {
                Some(result) => both(kept, result),
                None => kept.and_then(|()| self.take(rest)),
            }
        })
    }
}

/// An image that is not kept matters more than what became of its sandbox, which may be why; but who
/// cancels is told that.
fn both(kept: Result<(), Fault>, begun: Result<(), Fault>) -> Result<(), Fault> {
    match (kept, begun) {
        (Err(_), Err(fault)) if fault.class == Class::Cancelled => Err(fault),
        (Err(mut fault), Err(other)) => {
            fault.causes.push(other.message);
            Err(fault)
        }
        (kept, begun) => kept.and(begun),
    }
}
