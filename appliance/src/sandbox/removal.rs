//! Taking sandboxes away, whatever state they are in.
//!
//! A folder is removed only while it is held: what lives in it, or is just being started in it by a
//! monitor that outlived its daemon, is ended or left alone first.

use std::path::Path;

use unpacker::container::supervise::{self, Held, SuperviseError};
use unpacker::layer::root::Root;

use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::local::Sandboxes;
use crate::sandbox::record::{self, Record};
use crate::sandbox::refusal::not_usable;
use crate::sandbox::volumes::Withdrawn;

/// Kills what runs in a sandbox's folder, also what has only just begun to.
pub(super) fn end(folder: &Path) -> Result<Held, SuperviseError> {
    loop {
        match supervise::hold(folder) {
            Err(SuperviseError::Running { .. }) => match supervise::kill(folder) {
                Ok(_) | Err(SuperviseError::NotRunning) => {}
                Err(error) => return Err(error),
            },
            held => return held,
        }
    }
}

/// Removes what a crash left, unless it turns out to live: a start outlives the daemon that began it.
/// `also` is removed before its record is.
pub(super) fn sweep(folder: &Path, also: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
    match supervise::hold(folder) {
        Ok(held) => also().and_then(|()| remove_tree(folder, &held)),
        Err(SuperviseError::Running { .. }) => Ok(()),
        Err(error) => Err(Failure::from_error(Kind::Internal, &error)),
    }
}

/// Removes a sandbox in which nothing runs. Its record goes first, so that a crash on the way leaves
/// a folder that is swept, and never half a sandbox.
pub(super) fn remove_tree(folder: &Path, _held: &Held) -> Outcome<()> {
    record::remove(folder)?;
    remove_files(folder)
}

pub(super) fn remove_files(folder: &Path) -> Outcome<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Ok(());
    };
    // What a sandbox made may be nested deeper than a stack is.
    match Root::open(parent).and_then(|root| root.remove_all(Path::new(name))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}", folder.display());
            Err(Failure::because(Kind::Internal, message, &error))
        }
        _ => Ok(()),
    }
}

/// How a sandbox is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removal {
    /// Also one that runs.
    pub force: bool,
    /// With the volumes that it did not name, unless another sandbox has them. Those of a `--rm` one
    /// go in any case.
    pub volumes: bool,
}

impl Removal {
    /// As if it had never been.
    pub const WHOLE: Self = Self {
        force: true,
        volumes: true,
    };
}

impl Sandboxes {
    /// Removes a sandbox and what it changed. One that is gone already is no failure.
    pub fn remove(&self, record: &Record, removal: Removal) -> Outcome<()> {
        let withdrawn = self.remove_seen(record, removal)?;
        // Nobody sees them any more, and nobody waits while they go.
        withdrawn.into_iter().try_for_each(Withdrawn::delete)
    }

    fn remove_seen(&self, record: &Record, removal: Removal) -> Outcome<Vec<Withdrawn>> {
        let _one_at_a_time = self.alone();
        let folder = self.folder(record);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        if !removal.force && self.is_running(record)? {
            return Err(
                Failure::conflict(format!("sandbox {:?} is running", record.name))
                    .hint("Stop it first, or remove it with --force."),
            );
        }
        let held = match removal.force {
            true => end(&folder),
            false => supervise::hold(&folder),
        };
        let held = held.map_err(|error| not_usable(record, &error))?;
        let mut withdrawn = Vec::new();
        if (removal.volumes || record.remove) && !record.volumes.is_empty() {
            if !record.remove {
                let doomed = Record {
                    remove: true,
                    ..record.clone()
                };
                // From here on a crash ends with all of it gone, at the next start. A full disk, which
                // cannot take the note, must not keep anything from being removed.
                let _ = doomed.replace(&folder);
            }
            withdrawn = self.withdraw(&record.volumes, Some(&record.id))?;
        }
        remove_tree(&folder, &held)?;
        self.stopped().remove(&record.id);
        Ok(withdrawn)
    }
}
