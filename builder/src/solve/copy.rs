//! COPY and ADD as steps: their keys, their owners, and the work.

use std::path::Path;

use unpacker::container::user;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Staging;

use crate::cache::key::KeyWriter;
use crate::copy::changes::Changes;
use crate::copy::place::{FOLDER_MODE, Placement, make_folders, place, place_inline};
use crate::copy::select::Match;
use crate::copy::{CopyError, archive};
use crate::error::StepError;
use crate::plan::Copy;

use super::Solver;
use super::download::{Download, furnish};
use super::step::Sources;

impl Solver<'_> {
    pub(super) fn copy_key(&self, copy: &Copy, below: &[SnapshotId]) -> KeyWriter {
        let kind = if copy.extract { "ADD" } else { "COPY" };
        let mut key = KeyWriter::of_step(kind, below, self.env.ownership);
        key.field("dest", &copy.dest.path);
        key.field("directory", copy.dest.directory.to_string());
        key.field("chown", format!("{:?}", copy.chown));
        key.field("chmod", format!("{:?}", copy.chmod));
        key.field("link", copy.link.to_string());
        key.list("exclude", &copy.exclude);
        key.list(
            "below",
            copy.sources.iter().filter_map(|s| s.below.as_ref()),
        );
        for (name, body) in &copy.inline {
            key.field("inline", name).field("body", body);
            key.field("modified", "0");
        }
        key
    }

    pub(super) fn copy(
        &self,
        copy: &Copy,
        sources: Sources,
        stack: &[SnapshotId],
        staging: &Staging,
        changes: &Changes,
    ) -> Result<(), StepError> {
        let to = match alone(copy) {
            true => Root::open(&staging.fs()).map_err(StepError::io("open a copy's layer"))?,
            false => self.writable(stack, staging)?,
        };
        // Nobody else sees it yet.
        let to = to.steady();
        let opened = self.open(&copy.origin)?;
        let from = opened.steady()?;
        let placement = Placement {
            from: &from,
            from_context: opened.is_context(),
            to: &to,
            dest: &copy.dest,
            owner: self.chown(copy, stack, &to)?,
            mode: copy.chmod.as_ref(),
            ownership: self.env.ownership,
            changes,
            cancel: self.env.cancel,
        };
        let mut matches = sources.selected.map(|s| s.matches).unwrap_or_default();
        if copy.extract {
            let mut plain = Vec::new();
            for found in matches {
                if found.is_dir() || !self.extract(&placement, &found)? {
                    plain.push(found);
                }
            }
            matches = plain;
        }
        place(&placement, &matches)?;
        self.place_downloads(&placement, &sources.downloads)?;
        for commit in &sources.commits {
            self.place_commit(&placement, copy, commit)?;
        }
        for (name, body) in &copy.inline {
            place_inline(&placement, name, body)?;
        }
        Ok(())
    }

    /// `--chown`, by the image's own files.
    fn chown(
        &self,
        copy: &Copy,
        stack: &[SnapshotId],
        to: &Root,
    ) -> Result<Option<Owner>, StepError> {
        let Some(text) = copy.chown.as_ref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        // A linked copy does not see the image, its names are the image's all the same.
        let below = if alone(copy) { self.view(stack)? } else { None };
        owner(below.as_ref().unwrap_or(to), text).map(Some)
    }

    /// What was fetched: root's, and for nobody else.
    fn place_downloads(
        &self,
        placement: &Placement<'_>,
        downloads: &[Download],
    ) -> Result<(), StepError> {
        if downloads.is_empty() {
            return Ok(());
        }
        let scratch = self.env.snapshots.stage();
        let scratch = scratch.map_err(StepError::io("make a folder for what was fetched"))?;
        let (from, matches) = furnish(downloads, &scratch, self.env.cancel)?;
        let placement = Placement {
            from: &from,
            from_context: true,
            ..*placement
        };
        let mut plain = Vec::new();
        for (download, found) in downloads.iter().zip(matches) {
            if !download.unpack || !self.extract(&placement, &found)? {
                plain.push(found);
            }
        }
        Ok(place(&placement, &plain)?)
    }

    /// Unpacks a file that is an archive; false if it is none. Pipes and devices are not looked into.
    fn extract(&self, placement: &Placement<'_>, found: &Match) -> Result<bool, StepError> {
        if !found.metadata.is_file() {
            return Ok(false);
        }
        let path = &found.path;
        let opened = placement.from.open_file(path);
        let file = opened.map_err(CopyError::read(path))?;
        let source = file.try_clone().map_err(CopyError::read(path))?;
        let Some(tar) = archive::open(file).map_err(CopyError::read(path))? else {
            return Ok(false);
        };
        let dest = Path::new(&placement.dest.path);
        let owner = placement.owner.unwrap_or_default();
        let made = make_folders(placement.to, dest, owner, FOLDER_MODE, placement.ownership)
            .and_then(|()| placement.to.sub(dest));
        let folder = made.map_err(CopyError::write(dest))?;
        let (progress, cancel) = (self.env.progress, self.env.cancel);
        let ownership = placement.ownership;
        let owner = placement.owner;
        archive::unpack(tar, path, &folder, owner, ownership, progress, cancel)?;
        let again = || {
            placement
                .from
                .open_file(path)
                .map_err(CopyError::read(path))
        };
        let changes = placement.changes;
        changes.compare(&found.seen, path, &source, again, cancel)?;
        Ok(true)
    }
}

/// Who owns what is made for `text`, by the image's own files. A number without a group means the same
/// number there, unlike for the commands of a USER.
pub(super) fn owner(image: &Root, text: &str) -> Result<Owner, StepError> {
    let user = user::resolve(image.as_fd(), text)?.user;
    let number = !text.contains(':') && text.parse::<u32>().is_ok();
    Ok(Owner {
        uid: user.uid,
        gid: if number { user.uid } else { user.gid },
    })
}

/// Whether a copy is made without the image below it. With `--chmod` BuildKit makes an ordinary copy
/// of a linked one, so that is what it means.
fn alone(copy: &Copy) -> bool {
    copy.link && copy.chmod.is_none()
}

/// Whether a copy is the same on top of anything: it is made without the image, and does not ask it
/// for the numbers of names.
pub(super) fn is_free(copy: &Copy) -> bool {
    let chown = copy.chown.as_deref().unwrap_or_default();
    alone(copy) && chown.bytes().all(|b| b.is_ascii_digit() || b == b':')
}
