//! WORKDIR as a step: its key and the work.

use std::path::Path;

use unpacker::digest::Digest;
use unpacker::layer::root::Root;
use unpacker::snapshot::id::SnapshotId;
use unpacker::snapshot::store::Staging;

use crate::cache::key::KeyWriter;
use crate::copy::place::{FOLDER_MODE, make_folders};
use crate::error::StepError;
use crate::plan::Workdir;

use super::Solver;
use super::copy::owner;

impl Solver<'_> {
    pub(super) fn workdir_key(&self, workdir: &Workdir, below: &[SnapshotId]) -> Digest {
        let mut key = KeyWriter::of_step("WORKDIR", below, self.env.ownership);
        key.field("path", &workdir.path);
        key.field("user", &workdir.user);
        key.finish()
    }

    pub(super) fn workdir(
        &self,
        workdir: &Workdir,
        stack: &[SnapshotId],
        staging: &Staging,
    ) -> Result<(), StepError> {
        let failed = |source| StepError::Workdir {
            path: workdir.path.clone(),
            source,
        };
        let path = Path::new(&workdir.path);
        let is_dir = |view: Root| {
            view.metadata_followed(path)
                .is_ok_and(|found| found.is_dir())
        };
        if self.view(stack)?.is_some_and(is_dir) {
            return Ok(());
        }
        let root = self.writable(stack, staging)?;
        let owner = owner(&root, &workdir.user)?;
        make_folders(&root, path, owner, FOLDER_MODE, self.env.ownership).map_err(failed)
    }
}
