//! `devpod config …`: the settings in the user's file.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use config::settings::{Shown, edit};
use serde_json::{Value, json};

use crate::cli::Session;
use crate::cli::args::Config;
use crate::error::{Failure, Kind, Outcome};
use crate::options;
use crate::ui::{self, Format, table};

pub(super) fn run(session: &Session, verb: Config) -> Outcome<u8> {
    match verb {
        Config::Set { key, value } => set(session, &key, &value),
        Config::Get { key } => get(session, &key),
        Config::List => {
            list(session);
            Ok(0)
        }
    }
}

fn set(session: &Session, key: &str, value: &str) -> Outcome<u8> {
    let path = options::user_file(&session.options.user_folder);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let edited =
        edit::set(&text, key, value).map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    write(&path, &edited)?;
    ui::news(&format!(
        "{key} is set in {}; a running daemon takes it up when it is started again.",
        path.display()
    ));
    Ok(0)
}

/// Whole or not at all; closed to others, because keys of servers may stand in it.
fn write(path: &Path, text: &str) -> Outcome<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn get(session: &Session, key: &str) -> Outcome<u8> {
    let shown = session
        .options
        .settings
        .get(key)
        .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    match session.format {
        Format::Json => ui::json(&value(&shown)),
        Format::Text => ui::line(&shown.value.unwrap_or_default()),
    }
    Ok(0)
}

fn list(session: &Session) {
    let all = session.options.settings.list();
    if session.format == Format::Json {
        ui::json(&all.iter().map(value).collect::<Vec<_>>());
        return;
    }
    let cells: Vec<Vec<String>> = all
        .iter()
        .map(|shown| {
            let value = shown.value.clone().unwrap_or_else(|| "-".to_owned());
            vec![
                shown.key.to_owned(),
                value,
                shown.origin.to_string(),
                shown.help.to_owned(),
            ]
        })
        .collect();
    table::print(&["KEY", "VALUE", "FROM", "MEANING"], &cells);
}

fn value(shown: &Shown) -> Value {
    json!({ "key": shown.key, "value": shown.value, "origin": shown.origin.to_string() })
}
