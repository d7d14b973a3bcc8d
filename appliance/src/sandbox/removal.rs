//! Taking sandboxes away, whatever state they are in.
//!
//! A folder is removed only while it is held: what lives in it, or is just being started in it by a
//! monitor that outlived its daemon, is ended or left alone first.

use std::fs;
use std::path::Path;

use unpacker::container::supervise::{self, Held, SuperviseError};

use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::record;

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
pub(super) fn sweep(folder: &Path) -> Outcome<()> {
    match supervise::hold(folder) {
        Ok(held) => remove_tree(folder, &held),
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
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("cannot remove {}", folder.display());
            Err(Failure::because(Kind::Internal, message, &error))
        }
        _ => Ok(()),
    }
}
