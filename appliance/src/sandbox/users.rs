//! Users and groups as a sandbox's own files know them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use unpacker::container::spec::RootFs;
use unpacker::container::user::{self, Resolved};
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::Staging;

use crate::error::{Failure, Kind, Outcome};

/// Looks a user up in the stacked root file system.
pub(super) fn resolve_user(rootfs: &RootFs, text: &str) -> Outcome<Resolved> {
    let root = stacked(rootfs)?;
    user::resolve(root.as_fd(), text).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// Groups by name or number, as the image knows them.
pub(super) fn further_groups(rootfs: &RootFs, names: &[String]) -> Outcome<Vec<u32>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let root = stacked(rootfs)?;
    let resolve = |name: &String| {
        user::resolve_group(root.as_fd(), name)
            .map_err(|error| Failure::from_error(Kind::Invalid, &error))
    };
    names.iter().map(resolve).collect()
}

/// The root file system through a mount that nobody else sees.
fn stacked(rootfs: &RootFs) -> Outcome<OwnedFd> {
    let mut lower = rootfs.lower.clone();
    // Read-only: the sandbox may be running on this upper folder.
    lower.push(rootfs.upper.clone());
    stack(lower)
}

/// Folders over each other, lowest first, through a mount that nobody else sees.
fn stack(lower: Vec<PathBuf>) -> Outcome<OwnedFd> {
    let overlay = Overlay {
        lower,
        upper: None,
        volatile: false,
    };
    overlay
        .mount_detached()
        .map_err(|error| not_stacked(&error))
}

/// Layers over each other, lowest first, through a mount that nobody else sees, or a copy of them in
/// `scratch`.
pub(super) fn stack_or_copy(lower: Vec<PathBuf>, scratch: &Staging) -> Outcome<OwnedFd> {
    let mut overlay = Overlay {
        lower,
        upper: None,
        volatile: true,
    };
    if let Ok(mounted) = overlay.mount_detached() {
        return Ok(mounted);
    }
    overlay.upper = Some((scratch.fs(), scratch.work()));
    overlay.mount_or_copy().map_err(|error| not_stacked(&error))
}

fn not_stacked(error: &io::Error) -> Failure {
    Failure::because(Kind::Internal, "cannot stack the image's layers", error)
}
