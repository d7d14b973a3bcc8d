//! A stage's instructions, one after the other, to steps and a configuration.
//!
//! One instruction is expanded against one unchanged scope; what it sets is seen by the next.

use serde_json::{Value, json};
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::dockerfile::Dockerfile;
use crate::dockerfile::expose;
use crate::dockerfile::instruction::{
    ArgDeclaration, CommandLine, Instruction, Invocation, Kind, Pair, Transfer,
};
use crate::dockerfile::source::Word;
use crate::error::{BuildError, Place};
use crate::request::BuildRequest;

use super::outline::{Outline, Resolve, StageOutline, read_arg};
use super::scope::{Args, Scope};
use super::settings;
use super::transfer::Written;
use super::{Action, Base, Origin, Plan, PlanError, Stage, Step, Workdir, path, transfer};

/// Plans a build. `file` is what messages call the Dockerfile.
pub fn plan(
    file: &str,
    dockerfile: &Dockerfile,
    request: &BuildRequest,
    mut resolve: impl FnMut(
        &config::name::Reference,
        &Platform,
        &Place,
    ) -> Result<ImageConfig, BuildError>,
) -> Result<Plan, BuildError> {
    let resolve: Resolve<'_> = &mut resolve;
    let outline = Outline::new(file, dockerfile, request, resolve)?;
    let mut done: Vec<(Stage, Args)> = Vec::new();
    let mut steps = 0;
    for stage in outline.stages.iter().filter(|stage| stage.needed) {
        let evaluated = evaluate(&outline, stage, &done, &mut steps)?;
        done.push(evaluated);
    }
    let mut stages: Vec<Stage> = done.into_iter().map(|(stage, _)| stage).collect();
    if let Some(target) = stages.last_mut() {
        target.config.config.labels.extend(request.labels.clone());
    }
    let configs = outline.stages.iter();
    let configs = configs.filter_map(|stage| Some((stage.index, stage.config.clone()?)));
    Ok(Plan {
        stages,
        steps,
        base_configs: configs.collect(),
    })
}

fn evaluate(
    outline: &Outline<'_>,
    stage: &StageOutline<'_>,
    done: &[(Stage, Args)],
    number: &mut usize,
) -> Result<(Stage, Args), BuildError> {
    let (mut config, args) = start(stage, done).ok_or_else(|| {
        let error = PlanError::Invalid("its base is not planned".to_owned());
        outline.refuse(&stage.label(), &stage.from, error)
    })?;
    config.config.other.remove("OnBuild");
    let mut evaluation = Evaluation {
        outline,
        stage: stage.index,
        config,
        args,
        command_set: false,
    };
    let mut steps = Vec::new();
    let body = stage.triggers.iter().chain(stage.body);
    for instruction in std::iter::once(&stage.from).chain(body) {
        *number += 1;
        let label = stage.label();
        let action = evaluation
            .instruction(instruction)
            .map_err(|e| outline.refuse(&label, instruction, e))?;
        steps.push(Step {
            number: *number,
            place: outline.place(&label, instruction),
            created_by: evaluation.created_by(instruction, &action),
            action,
        });
    }
    let stage = Stage {
        index: stage.index,
        base: stage.base.clone(),
        steps,
        config: evaluation.config,
    };
    Ok((stage, evaluation.args))
}

/// What a stage begins with: a stage passes on its ARGs, an image does not.
fn start(stage: &StageOutline<'_>, done: &[(Stage, Args)]) -> Option<(ImageConfig, Args)> {
    match &stage.base {
        Base::Stage(earlier) => {
            let found = done.iter().find(|(stage, _)| stage.index == *earlier);
            found.map(|(stage, args)| (stage.config.clone(), args.clone()))
        }
        Base::Image(..) => Some((stage.config.clone()?, Args::default())),
        Base::Scratch | Base::Folder(_) => {
            Some((settings::scratch(&stage.platform), Args::default()))
        }
    }
}

pub(super) struct Evaluation<'o, 'a> {
    pub(super) outline: &'o Outline<'a>,
    pub(super) stage: usize,
    pub(super) config: ImageConfig,
    pub(super) args: Args,
    /// CMD was set in this stage, so ENTRYPOINT leaves it alone.
    command_set: bool,
}

impl Evaluation<'_, '_> {
    pub(super) fn scope(&self) -> Scope<'_> {
        Scope {
            env: &self.config.config,
            args: &self.args,
        }
    }

    fn word(&self, word: &Word) -> Result<String, PlanError> {
        Ok(self.outline.lexer.word(word, &self.scope())?)
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<Action, PlanError> {
        match &instruction.kind {
            Kind::From(_) => {
                return Ok(match &self.outline.stages[self.stage].base {
                    Base::Folder(name) => Action::Copy(Box::new(transfer::whole(name))),
                    _ => Action::From,
                });
            }
            Kind::Run(run) => return Ok(Action::Run(Box::new(self.run(run)?))),
            Kind::Copy(copy) => {
                let origin = match &copy.from {
                    Some(from) => self.outline.origin(self.stage, from)?,
                    None => Origin::Context,
                };
                let read = self.transfer(&copy.transfer, Written::Copy(copy))?;
                return Ok(Action::Copy(Box::new(super::Copy { origin, ..read })));
            }
            Kind::Add(add) => {
                let extract = add.unpack.unwrap_or(true);
                let read = self.transfer(&add.transfer, Written::Add(add))?;
                return Ok(Action::Copy(Box::new(super::Copy { extract, ..read })));
            }
            Kind::Workdir(word) => return self.workdir(word),
            other => self.configure(other)?,
        }
        Ok(Action::Configure)
    }

    fn transfer(&self, common: &Transfer, written: Written<'_>) -> Result<super::Copy, PlanError> {
        let (folder, lexer) = (self.working_dir(), self.outline.lexer);
        transfer::read(common, written, lexer, &self.scope(), &folder)
    }

    pub(super) fn working_dir(&self) -> String {
        path::below("/", &self.config.config.working_dir)
    }

    fn workdir(&mut self, word: &Word) -> Result<Action, PlanError> {
        let written = self.word(word)?;
        if written.is_empty() {
            return Err(PlanError::Invalid("WORKDIR expands to nothing".to_owned()));
        }
        let path = path::below(&self.working_dir(), &written);
        self.config.config.working_dir.clone_from(&path);
        let user = self.config.config.user.clone();
        Ok(Action::Workdir(Workdir { path, user }))
    }

    fn configure(&mut self, kind: &Kind) -> Result<(), PlanError> {
        match kind {
            Kind::Env(pairs) => {
                for (key, value) in self.pairs(pairs)? {
                    self.config.config.set_variable(&key, &value);
                }
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                self.config.config.labels.extend(pairs);
            }
            Kind::Arg(declarations) => self.declare(declarations)?,
            Kind::User(word) => {
                let user = self.word(word)?;
                self.config.config.user = user;
            }
            Kind::Cmd(line) => self.command(line),
            Kind::Entrypoint(line) => self.entrypoint(line),
            Kind::Expose(words) => self.expose(words)?,
            Kind::Volume(words) => self.volumes(words)?,
            Kind::Shell(words) => self.config.config.shell = Some(words.clone()),
            Kind::StopSignal(word) => {
                let signal = self.word(word)?;
                self.config.config.stop_signal = Some(signal);
            }
            Kind::Healthcheck(check) => settings::healthcheck(&mut self.config.config, check),
            Kind::Onbuild(onbuild) => {
                settings::trigger(&mut self.config.config, &onbuild.expression);
            }
            Kind::Maintainer(name) => {
                let author = Value::from(name.as_str());
                self.config.other.insert("author".to_owned(), author);
            }
            Kind::From(_) | Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => {}
        }
        Ok(())
    }

    fn command(&mut self, line: &CommandLine) {
        self.config.config.cmd = settings::command(line, &self.config.config);
        self.command_set = true;
    }

    /// Takes an inherited CMD away: it was meant for another program.
    fn entrypoint(&mut self, line: &CommandLine) {
        self.config.config.entrypoint = settings::command(line, &self.config.config);
        if !self.command_set {
            self.config.config.cmd = None;
        }
    }

    fn volumes(&mut self, words: &[Word]) -> Result<(), PlanError> {
        for word in words {
            let volume = self.word(word)?;
            self.config.config.volumes.insert(volume, json!({}));
        }
        Ok(())
    }

    fn pairs(&self, pairs: &[Pair]) -> Result<Vec<(String, String)>, PlanError> {
        pairs
            .iter()
            .map(|pair| Ok((self.word(&pair.key)?, self.word(&pair.value)?)))
            .collect()
    }

    fn declare(&mut self, declarations: &[ArgDeclaration]) -> Result<(), PlanError> {
        for arg in declarations {
            let (name, default) = read_arg(self.outline.lexer, arg, &self.scope())?;
            let value = self.outline.given.of_stage(&name, default);
            self.args.declare(&name, value);
        }
        Ok(())
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), PlanError> {
        for word in words {
            for text in self.outline.lexer.words(word, &self.scope())? {
                let ports = expose::ports(&text).map_err(|e| PlanError::Invalid(e.to_string()))?;
                for port in ports {
                    self.config.config.exposed_ports.insert(port, json!({}));
                }
            }
        }
        Ok(())
    }

    /// An entry of the history, in the form of the tools that read it.
    fn created_by(&self, instruction: &Instruction, action: &Action) -> Option<String> {
        let Action::Run(run) = action else {
            let from = matches!(action, Action::From);
            return (!from).then(|| instruction.text.clone());
        };
        let args = self.args.entries(&self.config.config);
        let command = match &run.invocation {
            Invocation::Exec(words) => words.join(" "),
            Invocation::Shell(text) => text.clone(),
            Invocation::Script { .. } => instruction.text.clone(),
        };
        Some(match args.len() {
            0 => format!("RUN {command}"),
            n => format!("RUN |{n} {} {command}", args.join(" ")),
        })
    }
}
