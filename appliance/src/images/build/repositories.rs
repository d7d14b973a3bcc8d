//! Contexts that are git repositories: checked out for one build, as folders that go with it.

use std::path::{Path, PathBuf};

use builder::git::address::Repository;
use builder::git::{self, Blame, GitError, Tools};
use builder::request::{BuildRequest, DockerfileSource, NamedContext};
use unpacker::progress::{Cancel, Progress};
use unpacker::snapshot::store::Staging;

use crate::api::build_inputs::{BuildInputs, ContextInput};
use crate::error::{Failure, Kind, Outcome};
use crate::images::service::Images;

/// docker's build argument for a context that keeps `.git`.
const KEEP: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// The folders of a build; they go when this does.
#[derive(Debug, Default)]
pub(in crate::images) struct Checkouts(Vec<Staging>);

impl Images {
    /// Has the repositories that a build's contexts are of in folders, and lets the contexts mean these.
    pub(in crate::images) fn bring_repositories(
        &self,
        request: &mut BuildRequest,
        inputs: &BuildInputs,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Checkouts> {
        let mut checkouts = Checkouts::default();
        for (name, input) in &inputs.contexts {
            if let ContextInput::Repository(text) = input {
                let repository = parse(text)?;
                let folder =
                    self.check_out(&repository, request, &mut checkouts, progress, cancel)?;
                let context = NamedContext::Folder(folder);
                request.contexts.insert(name.clone(), context);
            }
        }
        if let Some(text) = &inputs.repository {
            let mut repository = parse(text)?;
            let keep = request.build_args.get(KEEP).map(String::as_str);
            repository.keep_git |= matches!(keep, Some("1" | "true"));
            request.context =
                self.check_out(&repository, request, &mut checkouts, progress, cancel)?;
            check_inside(&request.context, &request.dockerfile)?;
        }
        Ok(checkouts)
    }

    fn check_out(
        &self,
        repository: &Repository,
        request: &BuildRequest,
        checkouts: &mut Checkouts,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<PathBuf> {
        let access = git::access(request, self)?;
        let cache = self.folder.cache();
        let tools = Tools {
            cache: &cache,
            access: &access,
            progress,
            cancel,
        };
        let staging = self.snapshots.stage()?;
        let folder = git::resolve(repository, &tools)
            .and_then(|resolved| resolved.check_out(&staging.fs(), &tools))
            .map_err(|error| failed(repository, &error))?;
        checkouts.0.push(staging);
        Ok(folder)
    }
}

fn parse(text: &str) -> Outcome<Repository> {
    Repository::parse(text).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// The class of what went wrong with a repository, of a context and of an ADD.
pub(super) fn kind(error: &GitError) -> Kind {
    match error {
        _ if error.is_cancelled() => Kind::Cancelled,
        GitError::NoReference(_) | GitError::NoCommit(_) | GitError::NoFolder(_) => Kind::NotFound,
        GitError::Checksum { .. } | GitError::Submodules => Kind::Invalid,
        _ => match error.blame() {
            Blame::Network => Kind::Unavailable,
            Blame::Ssh | Blame::Login => Kind::Denied,
            Blame::NotInstalled | Blame::NotFound => Kind::NotFound,
            Blame::Disk => Kind::Exhausted,
            Blame::Other => Kind::Internal,
        },
    }
}

fn failed(repository: &Repository, error: &GitError) -> Failure {
    let text = format!("cannot fetch the repository {}", repository.address);
    let failure = Failure::because(kind(error), text, error);
    match error.suggestion() {
        Some(text) => failure.hint(super::sentence(text)),
        None => failure,
    }
}

/// A repository may have links for a Dockerfile, but none that lead to other files of this host.
fn check_inside(context: &Path, dockerfile: &DockerfileSource) -> Outcome<()> {
    let DockerfileSource::Path(file) = dockerfile else {
        return Ok(());
    };
    let mut ignore = file.clone().into_os_string();
    ignore.push(".dockerignore");
    check_file_inside(context, file)?;
    check_file_inside(context, Path::new(&ignore))
}

fn check_file_inside(context: &Path, file: &Path) -> Outcome<()> {
    let found = match context.join(file).canonicalize() {
        // That it is missing is told by the build.
        Err(_) => return Ok(()),
        Ok(found) => found,
    };
    match found.starts_with(context.canonicalize()?) {
        true => Ok(()),
        false => Err(Failure::invalid(format!(
            "the file {} leads out of the repository",
            file.display()
        ))),
    }
}
