//! Named contexts, secrets and agents of a request in the builder's terms; and the build checks alone.

use std::time::{Duration, Instant};

use builder::request::{BuildRequest, NamedContext, Secret};
use builder::solve::checks;

use unpacker::progress::{Cancel, Silent};

use crate::api::build_inputs::{BuildInputs, CachePlace, Checks, ContextInput};
use crate::api::types::BuildRequest as Wanted;
use crate::error::Outcome;
use crate::images::build::caches::extent_of;
use crate::images::build::{failed, read};
use crate::images::service::Images;

/// So long a check may take to fetch the repository that it is of.
const CHECK: Duration = Duration::from_secs(300);

pub(super) fn add(request: &mut BuildRequest, inputs: &BuildInputs) -> Outcome<()> {
    for (name, context) in &inputs.contexts {
        let context = match context {
            ContextInput::Folder(folder) => NamedContext::Folder(folder.clone()),
            ContextInput::Image(image) => NamedContext::Image(image.parse()?),
            // It has a name here when it was looked at, and a folder when it was fetched.
            ContextInput::Layout(_) | ContextInput::Repository(_) => continue,
        };
        request.contexts.insert(name.clone(), context);
    }
    for (id, secret) in &inputs.secrets {
        let value = Secret::Value(secret.bytes());
        request.secrets.insert(id.clone(), value);
    }
    request.ssh.clone_from(&inputs.ssh);
    for to in &inputs.cache_to {
        match &to.place {
            CachePlace::Inline => request.inline_cache = true,
            CachePlace::Registry(_) | CachePlace::Local { .. } => {
                request.cache_exports.insert(extent_of(to));
            }
        }
    }
    Ok(())
}

impl Images {
    /// Looks a Dockerfile through and builds nothing. Base images are not fetched for it.
    pub fn check_build(&self, wanted: &Wanted) -> Outcome<Checks> {
        let mut request = self.request(wanted)?;
        self.name_layouts(&mut request, &wanted.inputs)?;
        // Nobody can stop it, so it ends by itself.
        let end = Instant::now().checked_add(request.timeout.unwrap_or(CHECK));
        let cancel = end.map_or_else(Cancel::default, |end| Cancel::default().until(end));
        let _pass = self.gate.pass();
        let _folders = self.bring_repositories(&mut request, &wanted.inputs, &Silent, &cancel)?;
        let cache = self.folder.cache();
        let here = |image: &_, platform: &_| {
            let kept = self.find(image).ok()??;
            Some(self.read(&kept, platform).ok()?.config)
        };
        let source = read(&request)?;
        let checked = checks::check(&request, &source, &cache, here)
            .map_err(|error| failed(&source, &error))?;
        Ok(Checks {
            file: checked.file,
            warnings: checked.warnings,
        })
    }
}
