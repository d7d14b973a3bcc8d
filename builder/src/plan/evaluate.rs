//! A stage's instructions, one after the other, to steps and a configuration.
//!
//! One instruction is expanded against one unchanged scope; what it sets is seen by the next.

use serde_json::{Value, json};
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;

use crate::dockerfile::Dockerfile;
use crate::dockerfile::expose;
use crate::dockerfile::instruction::Run as RunInstruction;
use crate::dockerfile::instruction::{
    ArgDeclaration, Instruction, Invocation, Kind, Network, Pair, Security,
};
use crate::dockerfile::mount::{Mount, MountKind, Sharing};
use crate::dockerfile::source::Word;
use crate::error::{BuildError, Place};
use crate::request::BuildRequest;

use super::outline::{Outline, Resolve, StageOutline, read_arg};
use super::scope::{Args, Scope};
use super::settings;
use super::{
    Action, Base, Origin, Plan, PlanError, Run, RunMount, RunMountKind, Stage, Step, Workdir, path,
    transfer,
};

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
    Ok(Plan { stages, steps })
}

fn evaluate(
    outline: &Outline<'_>,
    stage: &StageOutline<'_>,
    done: &[(Stage, Args)],
    number: &mut usize,
) -> Result<(Stage, Args), BuildError> {
    let (mut config, args) = start(stage, done);
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
fn start(stage: &StageOutline<'_>, done: &[(Stage, Args)]) -> (ImageConfig, Args) {
    match (&stage.base, &stage.config) {
        (Base::Stage(earlier), _) => {
            let found = done.iter().find(|(stage, _)| stage.index == *earlier);
            let copy = |(stage, args): &(Stage, Args)| (stage.config.clone(), args.clone());
            found.map(copy).unwrap_or_default()
        }
        (Base::Image(..), Some(config)) => (config.clone(), Args::default()),
        _ => (settings::scratch(&stage.platform), Args::default()),
    }
}

struct Evaluation<'o, 'a> {
    outline: &'o Outline<'a>,
    stage: usize,
    config: ImageConfig,
    args: Args,
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
            Kind::From(_) => return Ok(Action::From),
            Kind::Run(run) => return Ok(Action::Run(Box::new(self.run(run)?))),
            Kind::Copy(copy) => {
                let origin = match &copy.from {
                    Some(from) => self.outline.origin(self.stage, from)?,
                    None => Origin::Context,
                };
                if copy.parents {
                    return Err(PlanError::unsupported("COPY --parents"));
                }
                return self.transfer(origin, &copy.transfer, false);
            }
            Kind::Add(add) => {
                transfer::refuse_fetching(add, self.outline.lexer, &self.scope())?;
                let extract = add.unpack.unwrap_or(true);
                return self.transfer(Origin::Context, &add.transfer, extract);
            }
            Kind::Workdir(word) => return self.workdir(word),
            other => self.configure(other)?,
        }
        Ok(Action::Configure)
    }

    fn transfer(
        &self,
        origin: Origin,
        written: &crate::dockerfile::instruction::Transfer,
        extract: bool,
    ) -> Result<Action, PlanError> {
        let folder = self.working_dir();
        let lexer = self.outline.lexer;
        let read = transfer::read(written, lexer, &self.scope(), &folder)?;
        Ok(Action::Copy(Box::new(super::Copy {
            origin,
            extract,
            ..read
        })))
    }

    fn working_dir(&self) -> String {
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
            Kind::Cmd(line) => {
                self.config.config.cmd = settings::command(line, &self.config.config);
                self.command_set = true;
            }
            Kind::Entrypoint(line) => {
                self.config.config.entrypoint = settings::command(line, &self.config.config);
                if !self.command_set {
                    self.config.config.cmd = None;
                }
            }
            Kind::Expose(words) => self.expose(words)?,
            Kind::Volume(words) => {
                for word in words {
                    let volume = self.word(word)?;
                    self.config.config.volumes.insert(volume, json!({}));
                }
            }
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

    fn run(&self, run: &RunInstruction) -> Result<Run, PlanError> {
        if run.security == Security::Insecure {
            return Err(PlanError::unsupported("RUN --security=insecure"));
        }
        if let Some(device) = run.devices.first() {
            let what = format!("RUN --device={}", device.name);
            return Err(PlanError::unsupported(what));
        }
        let execution = &self.config.config;
        let mut env = self.args.entries(execution);
        env.extend(execution.env.iter().cloned());
        if execution.variable("PATH").is_none() {
            env.push(format!("PATH={}", settings::DEFAULT_PATH));
        }
        let mounts = run.mounts.iter().map(|flag| {
            let mount = flag.resolve(&self.outline.lexer, &self.scope())?;
            self.mount(mount)
        });
        Ok(Run {
            invocation: self.invocation(run)?,
            env,
            proxies: self.args.proxies(&self.outline.given, execution),
            cwd: self.working_dir(),
            user: execution.user.clone(),
            network: match run.network {
                Network::Default => self.outline.request.network,
                Network::Host => unpacker::container::spec::Network::Host,
                Network::None => unpacker::container::spec::Network::None,
            },
            mounts: mounts.collect::<Result<_, _>>()?,
        })
    }

    fn invocation(&self, run: &RunInstruction) -> Result<Invocation, PlanError> {
        let invocation = match run.invocation() {
            Invocation::Shell(text) => {
                let mut words = settings::shell(&self.config.config);
                words.push(text);
                Invocation::Exec(words)
            }
            other => other,
        };
        match &invocation {
            Invocation::Exec(words) if words.is_empty() => {
                Err(PlanError::Invalid("RUN has no command".to_owned()))
            }
            _ => Ok(invocation),
        }
    }

    fn mount(&self, mount: Mount) -> Result<RunMount, PlanError> {
        let owner = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let (kind, default) = match &mount.kind {
            MountKind::Bind => (self.bind(&mount)?, None),
            MountKind::Cache { id, sharing } => (self.cache(&mount, id, *sharing, owner)?, None),
            MountKind::Tmpfs { size } => (RunMountKind::Tmpfs { size: *size }, None),
            MountKind::Secret { id, required, env } => {
                let default = Some(format!("/run/secrets/{id}"));
                let variable = env.as_ref().map(|name| match name.is_empty() {
                    true => id.clone(),
                    false => name.clone(),
                });
                let kind = RunMountKind::Secret {
                    id: id.clone(),
                    required: *required,
                    variable,
                    mode: mount.mode.unwrap_or(0o400),
                    uid: owner.0,
                    gid: owner.1,
                };
                (kind, default)
            }
            MountKind::Ssh { .. } => return Err(PlanError::unsupported("RUN --mount=type=ssh")),
        };
        let target = mount.target.clone().or(default);
        let target = target.ok_or_else(|| invalid("a mount needs a target"))?;
        let target = path::below(&self.working_dir(), &target);
        if target == "/" {
            return Err(invalid("a mount cannot cover /"));
        }
        Ok(RunMount { target, kind })
    }

    fn bind(&self, mount: &Mount) -> Result<RunMountKind, PlanError> {
        let origin = match &mount.from {
            Some(from) => self.outline.origin(self.stage, from)?,
            None => Origin::Context,
        };
        Ok(RunMountKind::Bind {
            origin,
            source: path::source(mount.source.as_deref().unwrap_or("/")).path,
            writable: !mount.read_only,
        })
    }

    fn cache(
        &self,
        mount: &Mount,
        id: &Option<String>,
        sharing: Sharing,
        owner: (u32, u32),
    ) -> Result<RunMountKind, PlanError> {
        if mount.from.is_some() {
            return Err(PlanError::unsupported("RUN --mount=type=cache with from"));
        }
        let id = id.clone().or_else(|| mount.target.clone());
        Ok(RunMountKind::Cache {
            id: id.ok_or_else(|| invalid("a mount needs a target"))?,
            mode: mount.mode.unwrap_or(0o755),
            uid: owner.0,
            gid: owner.1,
            locked: sharing != Sharing::Shared,
            read_only: mount.read_only,
        })
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

fn invalid(text: &str) -> PlanError {
    PlanError::Invalid(text.to_owned())
}
