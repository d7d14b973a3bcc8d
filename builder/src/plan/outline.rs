//! Stages and what they need of each other: which are built at all.
//!
//! References only ever point to earlier stages, so one walk from the target backwards finds every
//! stage that is needed, and stages can be built in the order of the file.

use config::name::Reference;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::dockerfile::expand::Lexer;
use crate::dockerfile::instruction::{Instruction, Kind};
use crate::dockerfile::stages::{self, GlobalArgs, Reference as Named};
use crate::dockerfile::{self, Dockerfile};
use crate::error::{BuildError, Place, shown};
use crate::request::{BuildRequest, NamedContext};

use super::budget::{Budget, Charged};
use super::scope::Given;
use super::{Base, Origin, PlanError};

/// Asks for the configuration of a stage's external base image.
pub type Resolve<'r> =
    &'r mut dyn FnMut(&Reference, &Platform, &Place) -> Result<ImageConfig, BuildError>;

/// The file's stages with their bases, and the values that all of them may use.
#[derive(Debug)]
pub struct Outline<'a> {
    pub(super) file: &'a str,
    dockerfile: &'a Dockerfile,
    pub(super) request: &'a BuildRequest,
    pub(super) lexer: Lexer,
    pub(super) given: Given,
    pub(super) stages: Vec<StageOutline<'a>>,
    pub(super) target: usize,
    pub(super) budget: Budget,
}

#[derive(Debug)]
pub struct StageOutline<'a> {
    pub(super) index: usize,
    pub(super) name: Option<&'a str>,
    pub(super) from: Instruction,
    pub(super) base: Base,
    pub(super) platform: Platform,
    pub(super) body: &'a [Instruction],
    /// Triggers of the base, to be run before the body.
    pub(super) triggers: Vec<Instruction>,
    pub(super) needed: bool,
    /// Configuration of an external base; only for needed stages.
    pub(super) config: Option<ImageConfig>,
}

impl<'a> Outline<'a> {
    /// Reads the file's shape and marks what the target needs.
    pub(super) fn new(
        file: &'a str,
        dockerfile: &'a Dockerfile,
        request: &'a BuildRequest,
        resolve: Resolve<'_>,
    ) -> Result<Self, BuildError> {
        let mut outline = Self {
            file,
            dockerfile,
            request,
            lexer: Lexer::new(dockerfile.directives.escape),
            given: Given::new(request.build_args.clone(), &request.platform),
            stages: Vec::new(),
            target: 0,
            budget: Budget::default(),
        };
        outline.read_globals(&dockerfile.global_args)?;
        for stage in &dockerfile.stages {
            let read = outline.read_stage(stage)?;
            outline.stages.push(read);
        }
        outline.target = outline.find_target()?;
        outline.override_base()?;
        outline.mark_needed(resolve)?;
        Ok(outline)
    }

    fn read_globals(&mut self, globals: &[GlobalArgs]) -> Result<(), BuildError> {
        for global in globals {
            for arg in &global.declarations {
                let env = Charged {
                    env: &self.given,
                    budget: &self.budget,
                };
                let read = read_arg(self.lexer, arg, &env);
                let read = self.budget.check().and(read).map_err(|e| {
                    let text = format!("ARG {}", arg.name.raw());
                    let at = Instruction {
                        kind: Kind::Arg(Vec::new()),
                        range: global.range,
                        text,
                        comments: Vec::new(),
                    };
                    self.refuse("", &at, e)
                })?;
                if let Some(value) = self.given.of_file(&read.0, read.1) {
                    self.given.globals.insert(read.0, value);
                }
            }
        }
        Ok(())
    }

    fn read_stage(&self, stage: &'a stages::Stage) -> Result<StageOutline<'a>, BuildError> {
        let from = Instruction {
            kind: Kind::From(stage.from.clone()),
            range: stage.range,
            text: stage.text.clone(),
            comments: Vec::new(),
        };
        let (base, platform) = self.read_base(stage).map_err(|e| {
            let label = label(stage.name(), stage.index);
            self.refuse(&label, &from, e)
        })?;
        let replaced = stage
            .name()
            .is_some_and(|name| self.context(name).is_some());
        Ok(StageOutline {
            index: stage.index,
            name: stage.name(),
            from,
            base,
            platform,
            body: if replaced { &[] } else { &stage.instructions },
            triggers: Vec::new(),
            needed: false,
            config: None,
        })
    }

    fn read_base(&self, stage: &stages::Stage) -> Result<(Base, Platform), PlanError> {
        let from = &stage.from;
        let platform = match &from.platform {
            Some(word) => read_platform(&self.lexer.word(word, &self.given)?)?,
            None => self.request.platform.clone(),
        };
        let text = self.lexer.word(&from.image, &self.given)?;
        if text.is_empty() {
            let raw = from.image.raw();
            return Err(PlanError::Invalid(format!("{raw:?} names no image")));
        }
        // A context of a stage's own name stands for the stage, whatever it says.
        let own = stage.name().and_then(|name| self.context(name));
        if let Some(context) = own {
            return Ok((context_base(context, &platform), platform));
        }
        if let Named::Stage(earlier) = self.dockerfile.base(stage.index, &text) {
            return Ok((Base::Stage(earlier), platform));
        }
        if text == "scratch" {
            return Ok((Base::Scratch, platform));
        }
        if let Some(context) = self.context(&text) {
            return Ok((context_base(context, &platform), platform));
        }
        Ok((Base::Image(text.parse()?, platform.clone()), platform))
    }

    fn find_target(&self) -> Result<usize, BuildError> {
        let target = self.request.target.as_deref();
        let found = self.dockerfile.target(target);
        found.map_err(|_| BuildError::Target {
            target: target.unwrap_or_default().to_owned(),
            known: self.stages.iter().map(StageOutline::label).collect(),
        })
    }

    /// `--base-image`: replaces the external image that the target's chain of FROMs ends on.
    fn override_base(&mut self) -> Result<(), BuildError> {
        let Some(image) = &self.request.base_image else {
            return Ok(());
        };
        let mut at = self.target;
        loop {
            let stage = &mut self.stages[at];
            match &stage.base {
                Base::Stage(earlier) => at = *earlier,
                Base::Image(_, platform) => {
                    stage.base = Base::Image(image.clone(), platform.clone());
                    return Ok(());
                }
                Base::Scratch | Base::Folder(_) => {
                    let stage = &self.stages[at];
                    let what = "a base image for a stage from scratch";
                    let error = PlanError::unsupported(what);
                    return Err(self.refuse(&stage.label(), &stage.from, error));
                }
            }
        }
    }

    fn mark_needed(&mut self, resolve: Resolve<'_>) -> Result<(), BuildError> {
        self.stages[self.target].needed = true;
        for index in (0..=self.target).rev() {
            if !self.stages[index].needed {
                continue;
            }
            self.inherit(index, resolve)?;
            for earlier in self.references(index)? {
                self.stages[earlier].needed = true;
            }
        }
        Ok(())
    }

    /// Finds the triggers that a stage's base brings.
    fn inherit(&mut self, index: usize, resolve: Resolve<'_>) -> Result<(), BuildError> {
        let stage = &self.stages[index];
        let place = self.place(&stage.label(), &stage.from);
        match stage.base.clone() {
            Base::Scratch | Base::Folder(_) => {}
            Base::Stage(earlier) => {
                let of_base = self.stages[earlier].body.iter();
                let triggers = of_base.filter_map(|instruction| match &instruction.kind {
                    Kind::Onbuild(onbuild) => Some((*onbuild.instruction).clone()),
                    _ => None,
                });
                let triggers: Vec<Instruction> = triggers.collect();
                for trigger in &triggers {
                    self.budget.take_step(trigger.text.len());
                }
                self.stages[index].triggers = triggers;
                self.stages[earlier].needed = true;
                let stage = &self.stages[index];
                let bounded = self.budget.check();
                bounded.map_err(|e| self.refuse(&stage.label(), &stage.from, e))?;
            }
            Base::Image(reference, platform) => {
                let config = resolve(&reference, &platform, &place)?;
                let triggers = read_triggers(&config).map_err(|source| BuildError::Plan {
                    place: Box::new(place),
                    source,
                })?;
                self.stages[index].triggers = triggers;
                self.stages[index].config = Some(config);
            }
        }
        Ok(())
    }

    /// The earlier stages that a stage's instructions read from.
    fn references(&self, index: usize) -> Result<Vec<usize>, BuildError> {
        let stage = &self.stages[index];
        let mut found = Vec::new();
        for instruction in stage.triggers.iter().chain(stage.body) {
            for from in froms(&instruction.kind) {
                let origin = self
                    .origin(index, from)
                    .map_err(|e| self.refuse(&stage.label(), instruction, e))?;
                if let Origin::Stage(earlier) = origin {
                    found.push(earlier);
                }
            }
        }
        Ok(found)
    }

    /// What `--from=TEXT` means inside stage `index`.
    pub(super) fn origin(&self, index: usize, text: &str) -> Result<Origin, PlanError> {
        let platform = || self.stages[index].platform.clone();
        let named = self.dockerfile.source(index, text);
        // A stage of that name stands first: a context of its name has replaced it already.
        if !matches!(named, Ok(Named::Stage(_)))
            && let Some((name, context)) = self.context(text)
        {
            return Ok(match context {
                NamedContext::Folder(_) => Origin::Named(name.clone()),
                NamedContext::Image(image) => Origin::Image(image.clone(), platform()),
            });
        }
        match named? {
            Named::Stage(earlier) => Ok(Origin::Stage(earlier)),
            Named::External("scratch") => {
                Err(PlanError::Invalid("scratch has no files".to_owned()))
            }
            Named::External(image) => Ok(Origin::Image(image.parse()?, platform())),
        }
    }

    /// The named context that a name means: by its letters, or because both are names of one image.
    fn context(&self, name: &str) -> Option<(&'a String, &'a NamedContext)> {
        let contexts = &self.request.contexts;
        let same = |known: &str| known.eq_ignore_ascii_case(name);
        if let Some(found) = contexts.iter().find(|(known, _)| same(known)) {
            return Some(found);
        }
        let full = |text: &str| {
            text.parse::<Reference>()
                .ok()
                .map(|image| image.to_string())
        };
        let wanted = full(name)?;
        let mut all = contexts.iter();
        all.find(|(known, _)| full(known).as_ref() == Some(&wanted))
    }

    pub(super) fn place(&self, stage: &str, instruction: &Instruction) -> Place {
        Place {
            file: self.file.to_owned(),
            stage: stage.to_owned(),
            position: instruction.range.start,
            instruction: shown(&instruction.text),
        }
    }

    pub(super) fn refuse(
        &self,
        stage: &str,
        instruction: &Instruction,
        source: PlanError,
    ) -> BuildError {
        BuildError::Plan {
            place: Box::new(self.place(stage, instruction)),
            source,
        }
    }
}

/// A stage's base that is a named context.
fn context_base((name, context): (&String, &NamedContext), platform: &Platform) -> Base {
    match context {
        NamedContext::Folder(_) => Base::Folder(name.clone()),
        NamedContext::Image(image) => Base::Image(image.clone(), platform.clone()),
    }
}

impl StageOutline<'_> {
    /// The name, or the number of a stage that has none.
    pub(super) fn label(&self) -> String {
        label(self.name, self.index)
    }
}

fn label(name: Option<&str>, index: usize) -> String {
    match name {
        Some(name) => name.to_owned(),
        None => index.to_string(),
    }
}

/// An ARG's name and expanded default.
pub(super) fn read_arg(
    lexer: Lexer,
    arg: &dockerfile::instruction::ArgDeclaration,
    env: &impl dockerfile::expand::Env,
) -> Result<(String, Option<String>), PlanError> {
    let name = lexer.word(&arg.name, env)?;
    let default = match &arg.default {
        Some(word) => Some(lexer.word(word, env)?),
        None => None,
    };
    Ok((name, default))
}

fn read_platform(text: &str) -> Result<Platform, PlanError> {
    text.parse()
        .map_err(|_| PlanError::Invalid(format!("{text:?} is not a platform (os/architecture)")))
}

/// The `OnBuild` of a configuration, as instructions.
fn read_triggers(config: &ImageConfig) -> Result<Vec<Instruction>, PlanError> {
    let Some(list) = config.config.other.get("OnBuild") else {
        return Ok(Vec::new());
    };
    let texts = list.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str())
        .map(|text| {
            dockerfile::trigger(text).map_err(|source| PlanError::Trigger {
                text: text.to_owned(),
                source: Box::new(source),
            })
        })
        .collect()
}

/// Every `--from` of an instruction.
fn froms(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|m| m.from()).collect(),
        _ => Vec::new(),
    }
}
