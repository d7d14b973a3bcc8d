//! COPY and ADD as steps: their keys, their owners, and the work.

use std::path::Path;

use unpacker::container::user;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::{Owner, Timestamp};
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Staging;

use crate::cache::key::KeyWriter;
use crate::copy::place::{FOLDER_MODE, Placement, make_folders, place, place_inline};
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
        }
        key
    }

    pub(super) fn copy(
        &self,
        copy: &Copy,
        sources: Sources,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<(), StepError> {
        let to = match alone(copy) {
            true => Root::open(&staging.fs()).map_err(StepError::io("open a copy's layer"))?,
            false => self.writable(stack, staging)?,
        };
        let opened = self.open(&copy.origin)?;
        let placement = Placement {
            from: opened.root(),
            from_context: opened.is_context(),
            to: &to,
            dest: &copy.dest,
            owner: self.chown(copy, stack, &to)?,
            mode: copy.chmod.as_ref(),
            ownership: self.env.ownership,
            cancel: self.env.cancel,
        };
        let mut matches = sources.selected.map(|s| s.matches).unwrap_or_default();
        if copy.extract {
            let mut plain = Vec::new();
            for found in matches {
                if found.is_dir() || !self.extract(&placement, &found.path)? {
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
        let mtime = Timestamp::from_seconds(self.request.source_date_epoch.unwrap_or(0));
        for (name, body) in &copy.inline {
            place_inline(&placement, name, body, mtime)?;
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
        let user = user::resolve(below.as_ref().unwrap_or(to).as_fd(), text)?.user;
        // A number without a group means the same number there, unlike for USER.
        let number = !text.contains(':') && text.parse::<u32>().is_ok();
        Ok(Some(Owner {
            uid: user.uid,
            gid: if number { user.uid } else { user.gid },
        }))
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
        let (from, matches) = furnish(downloads, &scratch)?;
        let placement = Placement {
            from: &from,
            from_context: true,
            ..*placement
        };
        let mut plain = Vec::new();
        for (download, found) in downloads.iter().zip(matches) {
            if !download.unpack || !self.extract(&placement, &found.path)? {
                plain.push(found);
            }
        }
        Ok(place(&placement, &plain)?)
    }

    /// Unpacks a file that is an archive; false if it is none.
    fn extract(&self, placement: &Placement<'_>, path: &Path) -> Result<bool, StepError> {
        let opened = placement.from.open_file(path);
        let file = opened.map_err(CopyError::read(path))?;
        let Some(tar) = archive::open(file).map_err(CopyError::read(path))? else {
            return Ok(false);
        };
        let dest = Path::new(&placement.dest.path);
        let owner = placement.owner.unwrap_or_default();
        let made = make_folders(placement.to, dest, owner, FOLDER_MODE, placement.ownership)
            .and_then(|()| placement.to.sub(dest));
        let folder = made.map_err(CopyError::write(dest))?;
        let (progress, cancel) = (self.env.progress, self.env.cancel);
        archive::unpack(tar, path, &folder, placement.ownership, progress, cancel)?;
        Ok(true)
    }
}

/// Whether a copy is made without the image below it. With `--chmod` BuildKit makes an ordinary copy
/// of a linked one, so that is what it means.
fn alone(copy: &Copy) -> bool {
    copy.link && copy.chmod.is_none()
}
