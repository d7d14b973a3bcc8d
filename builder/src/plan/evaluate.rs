//! A stage's instructions, one after the other, to steps and a configuration.
//!
//! One instruction is expanded against one unchanged scope; what it sets is seen by the next.

use serde_json::{Value, json};
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::dockerfile::Dockerfile;
use crate::dockerfile::expose;
use crate::dockerfile::instruction::{
    ArgDeclaration, CommandLine, Instruction, Kind, Pair, Transfer,
};
use crate::dockerfile::source::Word;
use crate::error::{BuildError, Place};
use crate::request::BuildRequest;

use super::budget::{Charged, MAX_VARIABLES, setting};
use super::outline::{Outline, Resolve, StageOutline, read_arg};
use super::scope::{Args, Scope};
use super::settings;
use super::transfer::Written;
use super::{Action, Base, Origin, Plan, PlanError, Stage, Step, Workdir, history, path, transfer};

/// What a port takes in a configuration.
const PORT: usize = 32;

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
    let refused = |error| outline.refuse(&stage.label(), &stage.from, error);
    let (mut config, args) = start(stage, done)
        .ok_or_else(|| refused(PlanError::Invalid("its base is not planned".to_owned())))?;
    config.config.other.remove("OnBuild");
    // It is a copy of all that the base has.
    let bytes = serde_json::to_vec(&config.config).map_or(0, |text| text.len());
    let spent = outline.budget.spend(bytes + args.weight());
    spent.map_err(refused)?;
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
        let outcome = evaluation.instruction(instruction);
        if let Ok((action, created_by)) = &outcome {
            let told = created_by.as_ref().map_or(0, String::len) + instruction.text.len();
            // Its place names the file and the stage.
            let named = outline.file.len() + label.len();
            outline.budget.take_step(told + named + action.weight());
        }
        // Of what is too large nothing else is told: it was not expanded.
        let bounded = outline.budget.check().and(evaluation.count_variables());
        let (action, created_by) = bounded
            .and(outcome)
            .map_err(|e| outline.refuse(&label, instruction, e))?;
        steps.push(Step {
            number: *number,
            place: outline.place(&label, instruction),
            created_by,
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
            found.map(|(stage, args)| {
                let mut args = args.clone();
                // What an image sets is seen first again.
                for entry in &stage.config.config.env {
                    args.hide(entry.split('=').next().unwrap_or_default());
                }
                (stage.config.clone(), args)
            })
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

    /// The scope, for expansions.
    pub(super) fn env(&self) -> Charged<'_, Scope<'_>> {
        Charged {
            env: self.scope(),
            budget: &self.outline.budget,
        }
    }

    fn word(&self, word: &Word) -> Result<String, PlanError> {
        Ok(self.outline.lexer.word(word, &self.env())?)
    }

    fn count_variables(&self) -> Result<(), PlanError> {
        let limit = MAX_VARIABLES;
        match self.config.config.env.len().max(self.args.count()) > limit {
            true => Err(PlanError::TooManyVariables { limit }),
            false => Ok(()),
        }
    }

    /// What it does, and what the history says of it.
    fn instruction(
        &mut self,
        instruction: &Instruction,
    ) -> Result<(Action, Option<String>), PlanError> {
        match &instruction.kind {
            Kind::From(_) => Ok(match &self.outline.stages[self.stage].base {
                Base::Folder(name) => {
                    let action = Action::Copy(Box::new(transfer::whole(name)));
                    (action, Some(instruction.text.clone()))
                }
                _ => (Action::From, None),
            }),
            Kind::Run(run) => {
                let run = self.run(run)?;
                let shell = settings::shell(&self.config.config);
                let text = history::run(&self.scope().declared(), &shell, &run.invocation);
                Ok((Action::Run(Box::new(run)), Some(text)))
            }
            kind @ (Kind::Copy(_) | Kind::Add(_)) => {
                let text = history::transfer(kind, self.outline.lexer, &self.env())?;
                Ok((self.copy(kind)?, text))
            }
            Kind::Workdir(word) => {
                let action = self.workdir(word)?;
                let folder = &self.config.config.working_dir;
                Ok((action, Some(format!("WORKDIR {folder}"))))
            }
            other => Ok((Action::Configure, self.configure(other)?)),
        }
    }

    fn copy(&self, kind: &Kind) -> Result<Action, PlanError> {
        let copy = match kind {
            Kind::Copy(copy) => {
                let origin = match &copy.from {
                    Some(from) => self.outline.origin(self.stage, from)?,
                    None => Origin::Context,
                };
                let read = self.transfer(&copy.transfer, Written::Copy(copy))?;
                super::Copy { origin, ..read }
            }
            Kind::Add(add) => {
                let extract = add.unpack.unwrap_or(true);
                let read = self.transfer(&add.transfer, Written::Add(add))?;
                super::Copy { extract, ..read }
            }
            _ => return Ok(Action::Configure),
        };
        Ok(Action::Copy(Box::new(copy)))
    }

    fn transfer(&self, common: &Transfer, written: Written<'_>) -> Result<super::Copy, PlanError> {
        let (folder, lexer) = (self.working_dir(), self.outline.lexer);
        transfer::read(common, written, lexer, &self.env(), &folder)
    }

    pub(super) fn working_dir(&self) -> String {
        path::below("/", &self.config.config.working_dir)
    }

    fn workdir(&mut self, word: &Word) -> Result<Action, PlanError> {
        // Nothing at all, as of an ARG that is not set, leaves it where it is.
        let written = self.word(word)?;
        let path = path::below(&self.working_dir(), &written);
        let path = setting("the working folder", path)?;
        self.config.config.working_dir.clone_from(&path);
        let user = self.config.config.user.clone();
        Ok(Action::Workdir(Workdir { path, user }))
    }

    /// What the history says of it; of ONBUILD nothing.
    fn configure(&mut self, kind: &Kind) -> Result<Option<String>, PlanError> {
        let config = &mut self.config.config;
        Ok(Some(match kind {
            Kind::Env(pairs) => {
                let pairs = self.pairs(pairs)?;
                for (key, value) in &pairs {
                    self.config.config.set_variable(key, value);
                    self.args.hide(key);
                    self.count_variables()?;
                }
                history::pairs("ENV", shown(&pairs))
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                let text = history::pairs("LABEL", shown(&pairs));
                self.config.config.labels.extend(pairs);
                text
            }
            Kind::Arg(declarations) => self.declare(declarations)?,
            Kind::User(word) => {
                let user = setting("the user", self.word(word)?)?;
                self.config.config.user.clone_from(&user);
                format!("USER {user}")
            }
            Kind::Cmd(line) => self.command(line),
            Kind::Entrypoint(line) => self.entrypoint(line),
            Kind::Expose(words) => self.expose(words)?,
            Kind::Volume(words) => self.volumes(words)?,
            Kind::Shell(words) => {
                config.shell = Some(words.clone());
                history::list("SHELL", words)
            }
            Kind::StopSignal(word) => self.stop_signal(word)?,
            Kind::Healthcheck(check) => {
                settings::healthcheck(config, check);
                history::healthcheck(check)
            }
            Kind::Onbuild(onbuild) => {
                settings::trigger(config, &onbuild.expression);
                return Ok(None);
            }
            Kind::Maintainer(name) => {
                let author = Value::from(name.as_str());
                self.config.other.insert("author".to_owned(), author);
                format!("MAINTAINER {name}")
            }
            Kind::From(_) | Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => {
                return Ok(None);
            }
        }))
    }

    fn command(&mut self, line: &CommandLine) -> String {
        let config = &mut self.config.config;
        config.cmd = settings::command(line, config);
        // It means something on Windows only; BuildKit notes it everywhere.
        config.other.insert("ArgsEscaped".to_owned(), json!(true));
        self.command_set = true;
        history::command("CMD", self.config.config.cmd.as_ref())
    }

    /// Takes an inherited CMD away: it was meant for another program.
    fn entrypoint(&mut self, line: &CommandLine) -> String {
        self.config.config.entrypoint = settings::command(line, &self.config.config);
        if !self.command_set {
            self.config.config.cmd = None;
        }
        history::command("ENTRYPOINT", self.config.config.entrypoint.as_ref())
    }

    fn volumes(&mut self, words: &[Word]) -> Result<String, PlanError> {
        let volumes: Result<Vec<String>, _> = words.iter().map(|word| self.word(word)).collect();
        let volumes = volumes?;
        for volume in &volumes {
            if volume.is_empty() {
                return Err(PlanError::Invalid("a VOLUME expands to nothing".to_owned()));
            }
            self.config.config.volumes.insert(volume.clone(), json!({}));
        }
        Ok(history::list("VOLUME", &volumes))
    }

    fn stop_signal(&mut self, word: &Word) -> Result<String, PlanError> {
        let signal = self.word(word)?;
        if config::signal::number(&signal).is_none() {
            let text =
                format!("{signal:?} is no signal: write a name or a number, as SIGTERM or 9");
            return Err(PlanError::Invalid(text));
        }
        let text = format!("STOPSIGNAL {signal}");
        self.config.config.stop_signal = Some(signal);
        Ok(text)
    }

    fn pairs(&self, pairs: &[Pair]) -> Result<Vec<(String, String)>, PlanError> {
        let read = |pair: &Pair| {
            self.outline.budget.check()?;
            Ok((self.word(&pair.key)?, self.word(&pair.value)?))
        };
        pairs.iter().map(read).collect()
    }

    fn declare(&mut self, declarations: &[ArgDeclaration]) -> Result<String, PlanError> {
        let mut declared = Vec::new();
        for arg in declarations {
            let (name, default) = read_arg(self.outline.lexer, arg, &self.env())?;
            let value = self.outline.given.of_stage(&name, default);
            self.args.declare(&name, value.clone());
            self.count_variables()?;
            let bytes = name.len() + value.as_ref().map_or(0, String::len);
            self.outline.budget.spend(bytes)?;
            declared.push((name, value));
        }
        let shown = declared.iter();
        let shown = shown.map(|(name, value)| (name.as_str(), value.as_deref()));
        Ok(history::pairs("ARG", shown))
    }

    fn expose(&mut self, words: &[Word]) -> Result<String, PlanError> {
        let mut all = Vec::new();
        // The order of the words is nobody's business; BuildKit sorts them.
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by_key(|word| word.raw());
        for word in words {
            for text in self.outline.lexer.words(word, &self.env())? {
                let ports = expose::ports(&text).map_err(|e| PlanError::Invalid(e.to_string()))?;
                self.outline.budget.spend(ports.len() * PORT)?;
                all.extend(ports);
            }
        }
        for port in &all {
            let ports = &mut self.config.config.exposed_ports;
            ports.insert(port.clone(), json!({}));
        }
        Ok(history::list("EXPOSE", &all))
    }
}

/// Pairs as the history takes them.
fn shown(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, Option<&str>)> {
    pairs
        .iter()
        .map(|(name, value)| (name.as_str(), Some(value.as_str())))
}
