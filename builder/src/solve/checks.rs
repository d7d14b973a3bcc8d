//! The build checks of a build, and those alone (`--check`).

use std::collections::BTreeMap;

use config::name::Reference;
use unpacker::image::config::ImageConfig;
use unpacker::image::read::Platform;
use unpacker::progress::Event;

use crate::context::Context;
use crate::dockerfile::{self, Dockerfile};
use crate::error::BuildError;
use crate::ignore::Ignore;
use crate::lint::options::Options;
use crate::lint::{self, Warning};
use crate::plan::scope::Given;
use crate::request::{BuildRequest, Env};
use crate::source::Source;

/// The build argument that stands in place of the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What the checks of a file told.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The Dockerfile as messages call it.
    pub file: String,
    pub warnings: Vec<Warning>,
}

/// Looks a Dockerfile through without building anything. `configuration` answers for base images that
/// are here already: without one, variables on top of an image are not called undefined.
pub fn check(
    request: &BuildRequest,
    source: &Source,
    cache: &std::path::Path,
    configuration: impl Fn(&Reference, &Platform) -> Option<ImageConfig>,
) -> Result<Checked, BuildError> {
    let parsed = dockerfile::parse(&source.text).map_err(|error| BuildError::Syntax {
        file: source.name.clone(),
        source: Box::new(error),
    })?;
    let options = options(&parsed, request)?;
    let context = Context::open(&request.context, source.path(), cache)?;
    let external = lint::bases(&parsed, &given(request));
    let known = external.into_iter().filter_map(|(stage, image)| {
        let config = configuration(&image, &request.platform)?;
        Some((stage, config))
    });
    let bases = known.collect();
    Ok(Checked {
        warnings: find(&parsed, request, &options, &context.ignore, &bases),
        file: source.name.clone(),
    })
}

pub(super) fn options(file: &Dockerfile, request: &BuildRequest) -> Result<Options, BuildError> {
    let given = request.build_args.get(ARGUMENT);
    let text = given.or(file.directives.check.as_ref());
    Ok(Options::parse(text.map_or("", String::as_str))?)
}

fn given(request: &BuildRequest) -> Given {
    Given::new(request.build_args.clone(), &request.platform)
}

pub(super) fn find(
    file: &Dockerfile,
    request: &BuildRequest,
    options: &Options,
    ignore: &Ignore,
    bases: &BTreeMap<usize, ImageConfig>,
) -> Vec<Warning> {
    let known = lint::Known {
        given: &given(request),
        ignore: Some(ignore),
        bases,
    };
    lint::check(file, options, &known)
}

/// Tells what was found; with `error=true` it ends the build before any step runs.
pub(super) fn tell(
    env: &Env<'_>,
    file: &str,
    options: &Options,
    warnings: &[Warning],
) -> Result<(), BuildError> {
    for warning in warnings {
        let text = warning.shown(file);
        env.progress.event(Event::Warning { text });
    }
    let mut rules: Vec<String> = warnings
        .iter()
        .map(|found| found.rule.to_string())
        .collect();
    rules.sort();
    rules.dedup();
    match options.error && !rules.is_empty() {
        true => Err(BuildError::Checks { rules }),
        false => Ok(()),
    }
}
