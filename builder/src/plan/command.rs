//! RUN: its flags, its environment and its mounts, to a plan.

use std::path::Path;

use unpacker::container::procfs;

use crate::dockerfile::instruction::{Invocation, Network, Run as RunInstruction, Security};
use crate::dockerfile::mount::{Mount, MountKind, Sharing};

use super::evaluate::Evaluation;
use super::{Handed, Origin, PlanError, Run, RunMount, RunMountKind, path, settings};

/// Where ssh looks for its agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
/// A build argument that sets caches of one build apart from those of others.
const CACHE_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

impl Evaluation<'_, '_> {
    pub(super) fn run(&self, run: &RunInstruction) -> Result<Run, PlanError> {
        if run.security == Security::Insecure {
            return Err(PlanError::Refused {
                what: "RUN --security=insecure".to_owned(),
                why: "a build step never gets rights over this host; sandbox is what there is",
            });
        }
        if let Some(device) = run.devices.first() {
            let what = format!("RUN --device={}", device.name);
            return Err(PlanError::unsupported(what));
        }
        let execution = &self.config.config;
        let mut env = self.scope().entries();
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.push(format!("PATH={}", settings::DEFAULT_PATH));
        }
        let mut agents = 0;
        let mut mounts = Vec::new();
        for flag in &run.mounts {
            let mount = flag.resolve(&self.outline.lexer, &self.env())?;
            let mount = self.mount(mount, &mut agents)?;
            // One line has hundreds of thousands of them, each with the working folder in front.
            self.outline.budget.take_step(mount.weight());
            self.outline.budget.check()?;
            mounts.push(mount);
        }
        let is_agent = |mount: &&RunMount| matches!(mount.kind, RunMountKind::Ssh(_));
        if let Some(agent) = mounts.iter().find(is_agent)
            && execution.variable(AGENT_VARIABLE).is_none()
        {
            env.push(format!("{AGENT_VARIABLE}={}", agent.target));
        }
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
            mounts,
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

    /// `agents` counts the sockets of ssh agents, which are named by their number.
    fn mount(&self, mount: Mount, agents: &mut usize) -> Result<RunMount, PlanError> {
        let (kind, default) = match &mount.kind {
            MountKind::Bind => (self.bind(&mount)?, None),
            MountKind::Cache { id, sharing } => (self.cache(&mount, id, *sharing)?, None),
            MountKind::Tmpfs { size } => (RunMountKind::Tmpfs { size: *size }, None),
            MountKind::Secret { id, required, env } => {
                let base = id.rsplit('/').next().unwrap_or(id);
                let default = Some(format!("/run/secrets/{base}"));
                (secret(&mount, id, *required, env.as_deref()), default)
            }
            MountKind::Ssh { id, required } => {
                let default = Some(format!("/run/buildkit/ssh_agent.{agents}"));
                *agents += 1;
                (agent(&mount, id.as_deref(), *required), default)
            }
        };
        let target = mount.target.clone().or(default);
        let target = target.ok_or_else(|| invalid("a mount needs a target"))?;
        let target = path::below(&self.working_dir(), &target);
        if target == "/" {
            return Err(invalid("a mount cannot cover /"));
        }
        if procfs::is_hidden_by(Path::new(&target)) {
            let text = format!("nothing is mounted over {target}: it is the kernel's");
            return Err(PlanError::Invalid(text));
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
    ) -> Result<RunMountKind, PlanError> {
        let source = path::source(mount.source.as_deref().unwrap_or("/")).path;
        let seed = match &mount.from {
            Some(from) => Some((self.outline.origin(self.stage, from)?, source)),
            None if source != "." => {
                return Err(invalid(
                    "source of a cache mount needs from, where it is to be found",
                ));
            }
            None => None,
        };
        let target = || {
            mount
                .target
                .as_deref()
                .map(|path| path.trim_end_matches('/'))
        };
        let id = id.as_deref().filter(|id| !id.is_empty()).or_else(target);
        let id = id.ok_or_else(|| invalid("a mount needs a target"))?;
        let namespace = self.outline.given.build_args.get(CACHE_NAMESPACE);
        Ok(RunMountKind::Cache {
            id: match namespace.filter(|namespace| !namespace.is_empty()) {
                Some(namespace) => format!("{namespace}/{id}"),
                None => id.to_owned(),
            },
            seed,
            mode: mount.mode.unwrap_or(0o755),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            sharing,
            read_only: mount.read_only,
        })
    }
}

fn secret(mount: &Mount, id: &str, required: bool, env: Option<&str>) -> RunMountKind {
    let variable = env.map(|name| if name.is_empty() { id } else { name });
    RunMountKind::Secret {
        handed: handed(mount, id, required, 0o400),
        variable: variable.map(str::to_owned),
        file: variable.is_none() || mount.target.is_some(),
    }
}

fn agent(mount: &Mount, id: Option<&str>, required: bool) -> RunMountKind {
    let id = id.filter(|id| !id.is_empty()).unwrap_or("default");
    RunMountKind::Ssh(handed(mount, id, required, 0o600))
}

fn handed(mount: &Mount, id: &str, required: bool, mode: u32) -> Handed {
    Handed {
        id: id.to_owned(),
        required,
        mode: mount.mode.unwrap_or(mode),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
    }
}

fn invalid(text: &str) -> PlanError {
    PlanError::Invalid(text.to_owned())
}
