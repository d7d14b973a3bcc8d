//! The commands: each parses its arguments, asks the daemon, and prints the answer.

mod archive;
pub mod args;
mod build;
pub mod build_args;
pub mod build_cache;
mod build_caches;
pub mod build_inputs;
mod configure;
mod daemon;
pub mod doctor;
pub mod envbuilder;
mod image;
pub mod image_args;
mod image_filter;
mod images;
pub mod login;
pub mod registry;
mod registry_care;
mod registry_external;
mod registry_token;
mod run_args;
mod run_options;
mod sandbox;
mod sandbox_life;
mod secret;
mod terminal;
mod volume;
mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::client::Client;
use crate::daemon::folder::DataFolder;
use crate::daemon::start;
use crate::error::{Failure, Outcome};
use crate::options::{self, Options};
use crate::ui::{self, Format, Output};
use args::{Arguments, Image, Verb};

/// The name by which the binary is another tool.
const ENVBUILDER: &str = "envbuilder";

/// Parses the command line and runs the verb; the exit code says how it went.
pub fn main() -> ExitCode {
    let arguments = arguments();
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(ui::failure::report(&failure)),
    }
}

/// The command line; by the name `envbuilder` it is that tool's.
fn arguments() -> Arguments {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(Path::file_name);
    if name.is_none_or(|name| name != ENVBUILDER) {
        return Arguments::parse();
    }
    let envbuilder::Arguments { data, wanted } = envbuilder::Arguments::parse();
    Arguments {
        data,
        output: Vec::new(),
        verb: Verb::Envbuilder(Box::new(wanted)),
    }
}

/// What every verb has at hand.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) options: Options,
    pub(crate) folder: DataFolder,
    pub(crate) format: Format,
    /// What `-o` said where it was no format.
    pub(crate) files: Vec<PathBuf>,
}

impl Session {
    /// A client of the daemon, which is started when it does not run.
    pub(crate) async fn daemon(&self) -> Outcome<Client> {
        let client = start::ensure(&self.folder, &[]).await?;
        Ok(client.of_user(&self.options.user_folder))
    }
}

fn run(arguments: Arguments) -> Outcome<u8> {
    let Arguments { data, output, verb } = arguments;
    let (format, files) = outputs(output, &verb)?;
    let options = options::resolve(data)?;
    let folder = DataFolder::new(options.data.clone());
    let session = Session {
        options,
        folder,
        format,
        files,
    };
    // The daemon enters its user namespace before any thread exists, so it makes its own runtime.
    if let Verb::Serve(serve) = verb {
        return daemon::serve(session, serve);
    }
    // It may enter one, too.
    if let Verb::Doctor(doctor) = verb {
        return doctor::run(&session, &doctor);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(dispatch(&session, verb));
    // A thread that still reads the terminal must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// What `-o` says: the last format counts, and whatever is none is a file.
fn outputs(written: Vec<Output>, verb: &Verb) -> Outcome<(Format, Vec<PathBuf>)> {
    let (mut format, mut files) = (Format::Text, Vec::new());
    for output in written {
        match output {
            Output::Format(last) => format = last,
            Output::File(file) => files.push(file),
        }
    }
    match &files[..] {
        [] => Ok((format, files)),
        [other, ..] if verb.files() == 0 => {
            let text = format!("{} is no form of results", other.display());
            Err(Failure::invalid(text).hint("--output is text or json."))
        }
        [_, second, ..] if verb.files() == 1 => Err(Failure::invalid(format!(
            "{} is one file too many",
            second.display()
        ))),
        _ => Ok((format, files)),
    }
}

impl Verb {
    /// How many files `-o` may name.
    fn files(&self) -> usize {
        match self {
            Self::Save(_) | Self::Image(Image::Save(_)) => 1,
            Self::Build(_) => usize::MAX,
            _ => 0,
        }
    }
}

async fn dispatch(session: &Session, verb: Verb) -> Outcome<u8> {
    match verb {
        Verb::Up(up) => workspace::up(session, up).await,
        Verb::List => workspace::list(session).await,
        Verb::Status(name) => workspace::status(session, &name.name).await,
        Verb::Ssh(ssh) => workspace::ssh(session, ssh).await,
        Verb::Stop(name) => workspace::stop(session, &name.name).await,
        Verb::Start(name) => workspace::start(session, &name.name).await,
        Verb::Delete(delete) => workspace::delete(session, delete).await,
        Verb::Logs(logs) => workspace::logs(session, &logs.name).await,
        Verb::Config(config) => configure::run(session, config),
        Verb::Images(images) => images::list(session, images).await,
        Verb::Pull(pull) => image::pull(session, pull).await,
        Verb::Login(wanted) => login::login(session, wanted).await,
        Verb::Logout(wanted) => login::logout(session, wanted).await,
        Verb::Push(push) => image::push(session, push).await,
        Verb::Tag(tag) => image::tag(session, tag).await,
        Verb::Rmi(rmi) => images::remove(session, rmi).await,
        Verb::Inspect(inspect) => images::inspect(session, inspect).await,
        Verb::Save(save) => archive::save(session, save).await,
        Verb::Load(load) => archive::load(session, load).await,
        Verb::Unpack(unpack) => image::unpack(session, unpack).await,
        Verb::Build(build) => build::run(session, *build).await,
        Verb::BuildCache(verb) => build_cache::run(session, verb).await,
        Verb::Envbuilder(wanted) => envbuilder::run(session, *wanted).await,
        Verb::Image(image) => image::run(session, image).await,
        Verb::Registry(verb) => registry::run(session, verb).await,
        Verb::Sandbox(sandbox) => sandbox::run(session, sandbox).await,
        Verb::Volume(verb) => volume::run(session, verb).await,
        Verb::Daemon(verb) => daemon::run(session, verb).await,
        Verb::Version => {
            ui::line(concat!("v", env!("CARGO_PKG_VERSION")));
            Ok(0)
        }
        Verb::Serve(_) | Verb::Doctor(_) => Ok(0),
    }
}

/// An exit code of a process as ours.
pub(crate) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

/// `NAME=VALUE` as written; a bare `NAME` takes this environment's value, if it has one.
pub(crate) fn variables(written: &[String]) -> Vec<String> {
    let value = |name: &String| {
        std::env::var(name)
            .ok()
            .map(|value| format!("{name}={value}"))
    };
    written
        .iter()
        .filter_map(|text| {
            if text.contains('=') {
                Some(text.clone())
            } else {
                value(text)
            }
        })
        .collect()
}

/// The same as a map, for build arguments and labels.
pub(crate) fn pairs(written: &[String]) -> BTreeMap<String, String> {
    variables(written)
        .iter()
        .filter_map(|text| text.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
