//! What `RUN --mount` asks for, from the plan's words to mounts.

use std::collections::BTreeSet;

use unpacker::layer::root::metadata::Owner;

use crate::error::StepError;
use crate::plan::{Origin, Run, RunMount, RunMountKind};
use crate::run::mounts::{Access, BindSource, CacheFolder, Furnished, SecretFile};

use super::Solver;
use super::run::plain;

/// Prepares everything that a command is to see.
pub(super) fn furnish(solver: &Solver<'_>, run: &Run) -> Result<Furnished, StepError> {
    let scratch = solver.env.snapshots.stage();
    let mut furnished = Furnished::new(scratch.map_err(StepError::io("make a folder for mounts"))?);
    let caches = solver.env.cache.join("mounts");
    furnished.hold(&caches, &locked(run), solver.env.cancel)?;
    for mount in &run.mounts {
        match &mount.kind {
            RunMountKind::Tmpfs { size } => furnished.tmpfs(&mount.target, *size),
            RunMountKind::Bind {
                origin,
                source,
                writable,
            } => {
                let target = &mount.target;
                bind(solver, &mut furnished, origin, source, target, *writable)?;
            }
            RunMountKind::Cache { .. } => cache(solver, &mut furnished, mount)?,
            RunMountKind::Secret { .. } => secret(solver, &mut furnished, mount)?,
        }
    }
    Ok(furnished)
}

/// The caches that nobody else may have meanwhile.
fn locked(run: &Run) -> BTreeSet<&str> {
    let kinds = run.mounts.iter().map(|mount| &mount.kind);
    let ids = kinds.filter_map(|kind| match kind {
        RunMountKind::Cache {
            id, locked: true, ..
        } => Some(id.as_str()),
        _ => None,
    });
    ids.collect()
}

fn bind(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    origin: &Origin,
    source: &str,
    target: &str,
    writable: bool,
) -> Result<(), StepError> {
    let opened = solver.open(origin)?;
    let selected = solver.select(&opened, origin, &[plain(source)])?;
    let bind = BindSource {
        from: opened.root(),
        from_context: opened.is_context(),
        matches: &selected.matches,
        ownership: solver.env.ownership,
        cancel: solver.env.cancel,
    };
    furnished.bind(&bind, target, writable)
}

fn cache(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    mount: &RunMount,
) -> Result<(), StepError> {
    let RunMountKind::Cache {
        id,
        mode,
        uid,
        gid,
        read_only,
        ..
    } = &mount.kind
    else {
        return Ok(());
    };
    let cache = CacheFolder {
        id,
        read_only: *read_only,
        access: access(*uid, *gid, *mode),
        ownership: solver.env.ownership,
    };
    let caches = solver.env.cache.join("mounts");
    furnished.cache(&caches, &cache, &mount.target)
}

fn secret(
    solver: &Solver<'_>,
    furnished: &mut Furnished,
    mount: &RunMount,
) -> Result<(), StepError> {
    let RunMountKind::Secret {
        id,
        required,
        variable,
        mode,
        uid,
        gid,
    } = &mount.kind
    else {
        return Ok(());
    };
    let Some(file) = solver.request.secrets.get(id) else {
        return match required {
            true => Err(StepError::NoSecret { id: id.clone() }),
            false => Ok(()),
        };
    };
    let secret = SecretFile {
        variable: variable.as_deref(),
        access: access(*uid, *gid, *mode),
        ownership: solver.env.ownership,
    };
    furnished.secret(file, &secret, &mount.target)
}

fn access(uid: u32, gid: u32, mode: u32) -> Access {
    Access {
        owner: Owner { uid, gid },
        mode,
    }
}
