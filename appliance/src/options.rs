//! The settings of this run, read from where they stand. The only place that reads settings files
//! and the environment for them; `config::settings` decides what they mean.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::settings::{Flag, Settings, SourceFile, Sources};

use crate::error::{Failure, Kind, Outcome};
use crate::ui;

const SYSTEM_FILE: &str = "/etc/devpod/config.toml";
/// Names that begin like settings and are none.
const NOT_SETTINGS: [&str; 2] = ["DEVPOD_HOME", "DEVPOD_LOG"];

/// Everything that a run is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Absolute.
    pub data: PathBuf,
    /// `~/.devpod`, or `DEVPOD_HOME`: the user's files.
    pub user_folder: PathBuf,
    pub settings: Settings,
}

/// All layers, with `data` from the command line on top.
pub fn resolve(data: Option<PathBuf>) -> Outcome<Options> {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    let user_folder = user_folder(home.as_deref())?;
    let system = read(Path::new(SYSTEM_FILE))?;
    let user_path = user_file(&user_folder);
    let user = read(&user_path)?;
    let user_path = user_path.to_string_lossy();
    let environment: Vec<(String, String)> = environment()
        .filter(|(name, _)| name.starts_with("DEVPOD_") && !NOT_SETTINGS.contains(&name.as_str()))
        .collect();
    let data = data.map(|data| data.to_string_lossy().into_owned());
    let flag = data.as_deref().map(|value| Flag {
        name: "--data",
        key: "data",
        value,
    });
    let sources = Sources {
        system: system.as_deref().map(|text| SourceFile {
            path: SYSTEM_FILE,
            text,
        }),
        user: user.as_deref().map(|text| SourceFile {
            path: &user_path,
            text,
        }),
        environment: &environment,
        flags: flag.as_slice(),
        home: home.as_deref(),
        euid: rustix::process::geteuid().as_raw(),
    };
    let settings =
        Settings::load(&sources).map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    for warning in &settings.warnings {
        ui::news(&format!("{} {warning}", ui::style::warning("warning:")));
    }
    let data = std::path::absolute(&settings.data)?;
    Ok(Options {
        data,
        user_folder,
        settings,
    })
}

/// This process's variables, without those that are not UTF-8: nothing of ours can mean them.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The user's settings file.
pub fn user_file(user_folder: &Path) -> PathBuf {
    user_folder.join("config.json")
}

fn user_folder(home: Option<&Path>) -> Outcome<PathBuf> {
    let named = std::env::var_os("DEVPOD_HOME").filter(|folder| !folder.is_empty());
    match (named, home) {
        (Some(folder), _) => std::path::absolute(folder).map_err(Failure::from),
        (None, Some(home)) => Ok(home.join(".devpod")),
        (None, None) => Err(Failure::invalid("no home folder is known").hint("Set HOME.")),
    }
}

/// The file's text; `None` where there is no such file.
fn read(path: &Path) -> Outcome<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("cannot read {}", path.display());
            Err(Failure::because(Kind::Invalid, message, &error))
        }
    }
}

/// An address to listen on: `127.0.0.1:5000`, or `localhost:5000`.
pub fn address(text: &str) -> Outcome<SocketAddr> {
    let numeric = text.replacen("localhost:", "127.0.0.1:", 1);
    numeric.parse().map_err(|_| {
        Failure::invalid(format!("{text:?} is not an address"))
            .hint("Write address:port, for example 127.0.0.1:5000.")
    })
}
