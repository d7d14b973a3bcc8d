//! RUN: its flags, its environment and its mounts, to a plan.

use crate::dockerfile::instruction::{Invocation, Network, Run as RunInstruction, Security};
use crate::dockerfile::mount::{Mount, MountKind, Sharing};

use super::evaluate::Evaluation;
use super::{Origin, PlanError, Run, RunMount, RunMountKind, path, settings};

impl Evaluation<'_, '_> {
    pub(super) fn run(&self, run: &RunInstruction) -> Result<Run, PlanError> {
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
}

fn invalid(text: &str) -> PlanError {
    PlanError::Invalid(text.to_owned())
}
