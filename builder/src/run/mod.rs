//! RUN: one command in a container whose root file system is the stage so far.
//!
//! Lower folders are the stage's snapshots, the upper one is the step's staging. What is mounted
//! (binds, caches, secrets, the script of a heredoc) is furnished from a scratch folder that
//! vanishes with the step, and none of it is part of the result.

pub(crate) mod agent;
pub mod mounts;
pub(crate) mod output;
pub(crate) mod seed;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use unpacker::container::resources::Resources;
use unpacker::container::run::run;
use unpacker::container::spec::{
    Confinement, ContainerSpec, LogLimits, Mount, Process, RootFs, Surroundings, User,
};
use unpacker::container::user::{self, Resolved};
use unpacker::layer::Ownership;
use unpacker::layer::ownership::OVERRIDE_STAT;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::{Kind, Owner};
use unpacker::snapshot::store::Staging;

use crate::dockerfile::instruction::Invocation;
use crate::error::{StepError, shown};
use crate::plan::Run;
use crate::request::Env;
use crate::room;

use output::Relay;

/// Where the script of a heredoc is seen; `/dev` is a file system of its own in a container.
const SCRIPT_FOLDER: &str = "/dev/pipes";
const HOSTNAME: &str = "buildkitsandbox";

/// What a command runs on.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The step's, which its output goes by.
    pub number: usize,
    /// Folders of the snapshots below, lowest first.
    pub lower: Vec<PathBuf>,
    pub staging: &'a Staging,
    /// What is there before the command runs; users are looked up here.
    pub view: &'a Root,
    pub resources: &'a Resources,
    pub surroundings: &'a Surroundings,
}

/// Runs a command to its end.
pub fn execute(
    env: &Env<'_>,
    step: &Run,
    ground: &Ground<'_>,
    furnished: mounts::Furnished,
) -> Result<(), StepError> {
    let resolved = user::resolve(ground.view.as_fd(), &step.user)?;
    let owner = owner_to_record(env, &resolved.user);
    let mut mounts = furnished.mounts;
    let args = arguments(step, &furnished.scratch.fs(), &mut mounts)?;
    let command = shown(&args.join(" "));
    let spec = ContainerSpec {
        rootfs: RootFs {
            lower: ground.lower.clone(),
            upper: ground.staging.fs(),
            work: ground.staging.work(),
            volatile: true,
            becomes_layer: true,
        },
        hostname: HOSTNAME.to_owned(),
        mounts,
        network: step.network,
        wiring: env.wiring.clone(),
        process: Process {
            args,
            env: environment(step, &resolved, furnished.variables),
            cwd: step.cwd.clone(),
            user: resolved.user,
            terminal: false,
            confinement: Confinement::default(),
        },
        init: true,
        resources: ground.resources.clone(),
        surroundings: ground.surroundings.clone(),
        log: LogLimits::default(),
    };
    let mut relay = Relay::new(env.progress, ground.number);
    let mut output = |stream, bytes: &[u8]| relay.take(stream, bytes);
    let exit = run(env.launcher, &spec, None, &mut output, env.cancel).map_err(StepError::Run)?;
    let tail = relay.finish();
    match exit.success() {
        true => owner.map_or(Ok(()), |owner| record_new(&ground.staging.fs(), owner)),
        false => Err(StepError::Command {
            command,
            exit: exit.to_string(),
            code: exit.code(),
            tail,
            disk_full: room::is_full(&ground.staging.fs()),
        }),
    }
}

/// With one single id every file belongs to it, whatever the command's user is called; the answer
/// is whose its new files are to be in the layer. Root's are noted, too: a file without a note would
/// become the next user's.
fn owner_to_record(env: &Env<'_>, user: &User) -> Option<Owner> {
    let recorded = env.ownership == Ownership::Recorded;
    recorded.then_some(Owner {
        uid: user.uid,
        gid: user.gid,
    })
}

/// What has no recorded owner was made just now: everything of an image has one.
fn record_new(upper: &Path, owner: Owner) -> Result<(), StepError> {
    let recorded = Root::open(upper).and_then(|root| {
        let mut todo = vec![PathBuf::from(".")];
        while let Some(folder) = todo.pop() {
            for entry in root.read_dir(&folder)? {
                let path = folder.join(entry.name);
                let known = || root.xattr(&path, OsStr::new(OVERRIDE_STAT));
                let plain = matches!(entry.kind, Kind::File | Kind::Directory);
                if plain && known()?.is_none() {
                    let mode = root.metadata(&path)?.mode;
                    Ownership::Recorded.give(&root, &path, owner, mode)?;
                }
                if entry.kind == Kind::Directory {
                    todo.push(path);
                }
            }
        }
        Ok(())
    });
    recorded.map_err(StepError::io("record the owner of new files"))
}

/// ENV and ARGs, then what only this run sees, then what nobody set.
fn environment(step: &Run, user: &Resolved, secrets: Vec<String>) -> Vec<String> {
    let mut env = step.env.clone();
    env.extend(step.proxies.iter().cloned());
    env.extend(secrets);
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// The command line; a script becomes a file that is mounted.
fn arguments(
    step: &Run,
    scratch: &Path,
    mounts: &mut Vec<Mount>,
) -> Result<Vec<String>, StepError> {
    let (name, body) = match &step.invocation {
        Invocation::Exec(words) => return Ok(words.clone()),
        Invocation::Shell(text) => {
            return Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()]);
        }
        Invocation::Script { name, body } => (name, body),
    };
    let source = scratch.join("script");
    let written = std::fs::write(&source, body).and_then(|()| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755))
    });
    written.map_err(StepError::io("write the script of a heredoc"))?;
    let name = name.replace('/', "_");
    let target = Path::new(SCRIPT_FOLDER).join(name);
    let argument = target.display().to_string();
    mounts.push(Mount::Bind {
        source,
        target,
        read_only: true,
    });
    Ok(vec![argument])
}
