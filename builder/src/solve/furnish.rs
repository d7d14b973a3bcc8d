//! What `RUN --mount` asks for, from the plan's words to mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;

use crate::copy::changes::Changes;
use crate::copy::place::{Placement, place};
use crate::dockerfile::mount::Sharing;
use crate::error::StepError;
use crate::ignore::Ignore;
use crate::plan::{Dest, Handed, Origin, Run, RunMount, RunMountKind};
use crate::request::Secret;
use crate::run::mounts::{Access, BindSource, CacheFolder, Furnished, SecretFile};

use super::Solver;
use super::run::{Bound, plain};

/// The bound that BuildKit has.
const MAX_SECRET: u64 = 500 * 1024;

/// Prepares everything that a command is to see. What `bound` has of a mount was selected for the key.
pub(super) fn furnish(
    solver: &Solver<'_>,
    run: &Run,
    bound: Bound,
    changes: &Changes,
) -> Result<Furnished, StepError> {
    let scratch = solver.env.snapshots.stage();
    let mut furnished = Furnished::new(scratch.map_err(StepError::io("make a folder for mounts"))?);
    let caches = solver.env.cache.join("mounts");
    furnished.hold(&caches, &locked(run), solver.env.cancel)?;
    for (mount, selected) in run.mounts.iter().zip(bound) {
        match &mount.kind {
            RunMountKind::Tmpfs { size } => furnished.tmpfs(&mount.target, *size),
            RunMountKind::Bind {
                origin, writable, ..
            } => {
                let (target, opened) = (&mount.target, solver.open(origin)?);
                let selected = selected
                    .map(|selected| selected.matches)
                    .unwrap_or_default();
                let bind = BindSource {
                    from: opened.root(),
                    from_context: opened.is_context(),
                    matches: &selected,
                    ownership: solver.env.ownership,
                    changes,
                    cancel: solver.env.cancel,
                };
                furnished.bind(&bind, target, *writable)?;
            }
            RunMountKind::Cache { .. } => cache(solver, &mut furnished, mount)?,
            RunMountKind::Secret {
                handed,
                variable,
                file,
            } => {
                let asked = (handed, variable.as_deref(), *file);
                secret(solver, &mut furnished, mount, asked)?;
            }
            RunMountKind::Ssh(handed) => agent(solver, &mut furnished, mount, handed)?,
        }
    }
    Ok(furnished)
}

/// The caches that nobody else may have meanwhile.
fn locked(run: &Run) -> BTreeSet<&str> {
    let kinds = run.mounts.iter().map(|mount| &mount.kind);
    let ids = kinds.filter_map(|kind| match kind {
        RunMountKind::Cache {
            id,
            sharing: Sharing::Locked,
            ..
        } => Some(id.as_str()),
        _ => None,
    });
    ids.collect()
}

fn cache(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    mount: &RunMount,
) -> Result<(), StepError> {
    let RunMountKind::Cache {
        id,
        seed,
        mode,
        uid,
        gid,
        sharing,
        read_only,
    } = &mount.kind
    else {
        return Ok(());
    };
    let cache = CacheFolder {
        id,
        sharing: *sharing,
        read_only: *read_only,
        access: access(*uid, *gid, *mode),
        ownership: solver.env.ownership,
    };
    let caches = solver.env.cache.join("mounts");
    let fill = |folder: &Path| match seed {
        Some((origin, source)) => fill(solver, folder, origin, source),
        None => Ok(()),
    };
    furnished.cache(&caches, &cache, &mount.target, solver.env.cancel, fill)
}

/// Copies what a new cache begins with.
fn fill(
    solver: &Solver<'_>,
    folder: &Path,
    origin: &Origin,
    source: &str,
) -> Result<(), StepError> {
    let opened = solver.open(origin)?;
    let selected = solver.select(&opened, origin, &[plain(source)], &Ignore::default())?;
    let to = Root::open(folder).map_err(StepError::io("open the folder of a cache mount"))?;
    let dest = Dest {
        path: "/".to_owned(),
        directory: true,
    };
    let copy = Placement {
        from: opened.root(),
        from_context: opened.is_context(),
        to: &to,
        dest: &dest,
        owner: None,
        mode: None,
        ownership: solver.env.ownership,
        // What a cache holds enters no key.
        changes: &Changes::default(),
        cancel: solver.env.cancel,
    };
    Ok(place(&copy, &selected.matches)?)
}

fn secret(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    mount: &RunMount,
    (handed, variable, file): (&Handed, Option<&str>, bool),
) -> Result<(), StepError> {
    let none = |id| StepError::NoSecret { id };
    let Some(given) = given(&solver.request.secrets, handed, none)? else {
        return Ok(());
    };
    let secret = SecretFile {
        variable,
        file,
        access: access(handed.uid, handed.gid, handed.mode),
        ownership: solver.env.ownership,
    };
    furnished.secret(&read(&handed.id, given)?, &secret, &mount.target)
}

/// What was given under an id; a command may be content without it.
fn given<'g, T>(
    given: &'g BTreeMap<String, T>,
    handed: &Handed,
    none: impl FnOnce(String) -> StepError,
) -> Result<Option<&'g T>, StepError> {
    let found = given.get(&handed.id);
    match found.is_none() && handed.required {
        true => Err(none(handed.id.clone())),
        false => Ok(found),
    }
}

fn read(id: &str, secret: &Secret) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::new();
    match secret {
        Secret::Value(value) => bytes.clone_from(value),
        Secret::File(path) => {
            let opened = File::open(path);
            opened
                .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
                .map_err(StepError::io("read a secret"))?;
        }
    }
    match bytes.len() as u64 > MAX_SECRET {
        true => Err(StepError::SecretTooLarge {
            id: id.to_owned(),
            limit: MAX_SECRET,
        }),
        false => Ok(bytes),
    }
}

fn agent(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    mount: &RunMount,
    handed: &Handed,
) -> Result<(), StepError> {
    let none = |id| StepError::NoAgent { id };
    let Some(agent) = given(&solver.request.ssh, handed, none)? else {
        return Ok(());
    };
    let access = access(handed.uid, handed.gid, handed.mode);
    furnished.agent(agent, access, solver.env.ownership, &mount.target)
}

fn access(uid: u32, gid: u32, mode: u32) -> Access {
    Access {
        owner: Owner { uid, gid },
        mode,
    }
}
