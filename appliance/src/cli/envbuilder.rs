//! `envbuilder`: the command line of the tool that this builder takes the place of. The binary acts as
//! it when it is called by that name; `devpod envbuilder` is the same.
//!
//! Two forms: kaniko's flags, and `build` of a workspace, whose devcontainer.json or Dockerfile is found
//! as `devpod up` finds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use config::devcontainer::Source;

use crate::cli::build::{self, Job};
use crate::cli::build_args::{Build, Told};
use crate::cli::build_inputs::Inputs;
use crate::cli::{Session, image};
use crate::error::{Failure, Kind, Outcome};
use crate::workspace::configure::{self, Surroundings};
use crate::workspace::failure::Class;
use crate::workspace::service;
use crate::workspace::tree::Tree;

/// Builds an image for a workspace: a Dockerfile, or what a devcontainer.json says.
#[derive(Debug, Parser)]
#[command(name = "envbuilder", version, propagate_version = true)]
pub(super) struct Arguments {
    /// Folder of images, snapshots and sandboxes
    #[arg(long, global = true, env = "DEVPOD_DATA", value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    #[command(flatten)]
    pub(super) wanted: Envbuilder,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Envbuilder {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    image: Dockerfile,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a workspace's image
    Build(Workspace),
}

/// Kaniko's flags.
#[derive(Debug, Args)]
struct Dockerfile {
    /// The Dockerfile; seen from the context where it is not found from here
    #[arg(long, value_name = "FILE", env = "ENVBUILDER_DOCKERFILE_PATH")]
    dockerfile: Option<PathBuf>,
    /// The build context
    #[arg(long, value_name = "DIR", env = "ENVBUILDER_BUILD_CONTEXT_PATH")]
    context: Option<PathBuf>,
    /// The image's name; may be given again
    #[arg(long, visible_aliases = ["destination", "image"], value_name = "REF")]
    image_name: Vec<String>,
    /// Send it to the registry that its name says; without, it stays here
    #[arg(long, env = "ENVBUILDER_PUSH_IMAGE", value_parser = clap::builder::FalseyValueParser::new())]
    push: bool,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Workspace {
    /// The workspace's folder
    #[arg(long, value_name = "DIR", env = "ENVBUILDER_WORKSPACE_FOLDER")]
    workspace: PathBuf,
    /// The image's name; may be given again
    #[arg(
        long,
        visible_alias = "image-name",
        value_name = "REF",
        required = true
    )]
    image: Vec<String>,
    /// Send it to the registry that its name says; without, it stays here
    #[arg(long, env = "ENVBUILDER_PUSH_IMAGE", value_parser = clap::builder::FalseyValueParser::new())]
    push: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Use this image in place of the Dockerfile's base
    #[arg(long, value_name = "REF")]
    base_image: Option<String>,
    /// Where images of docker.io are asked for first; may be given again
    #[arg(long, value_name = "URL")]
    registry_mirror: Vec<String>,
    /// A value for an ARG; without `=VALUE` the environment's
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Results of steps are taken from this cache, and given to it
    #[arg(long, value_name = "REF", env = "ENVBUILDER_CACHE_REPO")]
    cache_repo: Option<String>,
    /// Run every step
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    told: Told,
}

pub(super) async fn run(session: &Session, wanted: Envbuilder) -> Outcome<u8> {
    let job = match wanted.verb {
        Some(Verb::Build(workspace)) => of_workspace(session, workspace)?,
        None => of_dockerfile(wanted.image)?,
    };
    build::carry_out(session, job).await
}

fn of_dockerfile(image: Dockerfile) -> Outcome<Job> {
    let missing = match (&image.dockerfile, &image.image_name[..]) {
        (None, _) => Some("--dockerfile"),
        (_, []) => Some("--image-name"),
        _ => None,
    };
    if let Some(flag) = missing {
        return Err(Failure::invalid(format!("{flag} is missing")).hint(
            "envbuilder --dockerfile FILE --context DIR --image-name REF [--push], or \
             envbuilder build --workspace DIR --image REF.",
        ));
    }
    let context = image.context.unwrap_or_else(|| ".".into());
    let file = image.dockerfile.map(|file| seen(&context, file));
    let mut job = job(image.common, image.image_name, image.push);
    job.build.context = context;
    job.build.file = file;
    job.build.target = image.target;
    Ok(job)
}

/// Kaniko looks for a Dockerfile where it is called, then in the context.
fn seen(context: &Path, file: PathBuf) -> PathBuf {
    let inside = context.join(&file);
    match !file.exists() && inside.exists() {
        true => inside,
        false => file,
    }
}

fn job(common: Common, names: Vec<String>, push: bool) -> Job {
    let cache = common.cache_repo.filter(|name| !name.is_empty());
    let inputs = Inputs::sharing(cache.as_deref());
    Job {
        build: Build {
            tags: names,
            base_image: common.base_image,
            build_args: common.build_arg,
            no_cache: common.no_cache,
            inputs,
            push,
            told: common.told,
            ..Build::default()
        },
        text: None,
        mirrors: common.registry_mirror,
    }
}

fn of_workspace(session: &Session, wanted: Workspace) -> Outcome<Job> {
    let folder = image::absolute(&wanted.workspace)?;
    let tree = Tree::open(&folder).map_err(|error| {
        let message = format!("cannot use the workspace {}", folder.display());
        Failure::because(Kind::Invalid, message, &error)
    })?;
    let mut job = job(wanted.common, wanted.image, wanted.push);
    match configure::find(&tree, None, &session.options.settings.workspace) {
        Ok(found) => configured(&mut job, &folder, &found)?,
        // One that has nothing but a Dockerfile.
        Err(fault) if fault.class == Class::NotFound && folder.join("Dockerfile").is_file() => {
            job.build.context = folder;
        }
        Err(fault) => return Err(service::failure(fault)),
    }
    Ok(job)
}

/// What a devcontainer.json says of the image. What was said on the command line counts before it.
fn configured(job: &mut Job, folder: &Path, found: &configure::Configuration) -> Outcome<()> {
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let basename = folder.file_name().unwrap_or_default().to_string_lossy();
    let around = Surroundings {
        folder,
        basename: &basename,
        env: &env,
    };
    let config = found.resolve(&around, None).map_err(service::failure)?;
    match config.source {
        Source::Image(name) => {
            job.build.context = folder.to_owned();
            job.text = Some(format!("FROM {name}\n"));
        }
        Source::Build(build) => {
            let paths = build
                .paths(&found.base)
                .map_err(|error| Failure::invalid(format!("{}: {error}", found.path)))?;
            job.build.context = folder.join(paths.context);
            job.build.file = Some(folder.join(paths.dockerfile));
            job.build.target = build.target;
            let given = std::mem::take(&mut job.build.build_args);
            let of_file = build
                .args
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            job.build.build_args = of_file.chain(given).collect();
        }
        Source::Compose { .. } => {
            return Err(Failure::invalid(format!(
                "{}: \"dockerComposeFile\" is not supported yet",
                found.path
            )));
        }
    }
    Ok(())
}
