//! Repositories of ADD in a step: which commits, what of them enters a key, and their files.

use unpacker::layer::root::Root;

use crate::cache::key::KeyWriter;
use crate::copy::CopyError;
use crate::copy::place::{Placement, place};
use crate::copy::select::{Tree, select};
use crate::error::StepError;
use crate::git::address::Repository;
use crate::git::{self, GitError, Resolved, Tools};
use crate::ignore::Ignore;
use crate::plan::Copy;

use super::Solver;
use super::run::plain;

impl Solver<'_> {
    /// The commits that are meant now: branches move, so they are asked for in every build.
    pub(super) fn commits(&self, copy: &Copy) -> Result<Vec<Resolved>, StepError> {
        let resolve = |repository: &Repository| {
            self.with_git(repository, |tools| git::resolve(repository, tools))
        };
        copy.repositories.iter().map(resolve).collect()
    }

    fn with_git<T>(
        &self,
        repository: &Repository,
        work: impl FnOnce(&Tools<'_>) -> Result<T, GitError>,
    ) -> Result<T, StepError> {
        let env = self.env;
        let access = git::access(self.request, env.fetch);
        let access = access.map_err(StepError::io("read a secret for git"))?;
        let tools = Tools {
            cache: env.cache,
            access: &access,
            progress: env.progress,
            cancel: env.cancel,
        };
        work(&tools).map_err(|source| StepError::Repository {
            address: repository.address.clone(),
            source,
        })
    }

    /// Puts the files of a commit where they are to be.
    pub(super) fn place_commit(
        &self,
        placement: &Placement<'_>,
        copy: &Copy,
        commit: &Resolved,
    ) -> Result<(), StepError> {
        let scratch = self.env.snapshots.stage();
        let scratch = scratch.map_err(StepError::io("make a folder for a repository"))?;
        let checkout = |tools: &Tools<'_>| commit.check_out(&scratch.fs(), tools);
        let folder = self.with_git(&commit.repository, checkout)?;
        let from = Root::open(&folder).map_err(StepError::io("open a checkout"))?;
        let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str));
        let exclude = exclude.map_err(CopyError::Exclude)?;
        let tree = Tree {
            root: &from,
            ignore: None,
            exclude: &exclude,
            name: &commit.repository.address,
        };
        let matches = select(tree, &[plain(".")], self.env.cancel)?;
        let placement = Placement {
            from: &from,
            from_context: true,
            ..*placement
        };
        Ok(place(&placement, &matches)?)
    }
}

/// What of a commit makes a difference in the image.
pub(super) fn enter(commit: &Resolved, key: &mut KeyWriter) {
    let repository = &commit.repository;
    key.field("commit", &commit.commit);
    key.field("folder", &repository.folder);
    key.field("submodules", repository.submodules.to_string());
    if commit.keeps_git() {
        key.field("git", &repository.address);
        key.field("named", commit.name.as_deref().unwrap_or_default());
    }
}
