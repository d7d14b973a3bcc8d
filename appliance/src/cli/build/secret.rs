//! `--secret`: files, or variables of this environment, that only a step may see.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::image::absolute;
use crate::error::{Failure, Kind, Outcome};

/// Secrets by id, in files that the daemon reads.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    pub(super) files: BTreeMap<String, PathBuf>,
    /// Of the values of variables; it goes with this.
    _folder: Option<TempDir>,
}

enum Origin {
    File(PathBuf),
    Variable(String),
}

pub(super) fn secrets(written: &[String]) -> Outcome<Secrets> {
    let mut files = BTreeMap::new();
    let mut folder = None;
    for (at, text) in written.iter().enumerate() {
        let (id, origin) = parse(text)?;
        let file = match origin {
            Origin::File(path) => readable(&path)?,
            Origin::Variable(name) => {
                let folder = match &folder {
                    Some(folder) => folder,
                    None => folder.insert(tempfile::tempdir()?),
                };
                keep(folder, at, &name)?
            }
        };
        files.insert(id, file);
    }
    Ok(Secrets {
        files,
        _folder: folder,
    })
}

/// `id=ID[,src=FILE][,env=NAME][,type=file|env]`; without either, the variable of that name if there
/// is one, else the file, as buildx has it.
fn parse(text: &str) -> Outcome<(String, Origin)> {
    let bad = |why: String| {
        Failure::invalid(format!("--secret {text:?}: {why}"))
            .hint("Write id=ID,src=FILE or id=ID,env=NAME.")
    };
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| bad(format!("{part:?} is no KEY=VALUE")))?;
        match key {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(bad(format!("there is no type {value:?}"))),
            other => return Err(bad(format!("{other:?} is not known"))),
        }
    }
    let id = id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| bad("it has no id".to_owned()))?;
    let of_env = kind.as_deref() == Some("env");
    let origin = match (file, variable) {
        (Some(_), Some(_)) => return Err(bad("it is a file or a variable, not both".to_owned())),
        (Some(name), None) if of_env => Origin::Variable(name),
        (Some(path), None) => Origin::File(path.into()),
        (None, Some(name)) => Origin::Variable(name),
        (None, None) if kind.as_deref() != Some("file") && std::env::var_os(&id).is_some() => {
            Origin::Variable(id.clone())
        }
        (None, None) if of_env => Origin::Variable(id.clone()),
        (None, None) => Origin::File(id.clone().into()),
    };
    Ok((id, origin))
}

fn readable(path: &Path) -> Outcome<PathBuf> {
    let opened = fs::File::open(path).and_then(|file| file.metadata());
    let found = opened.map_err(|error| {
        let message = format!("cannot read the secret {}", path.display());
        Failure::because(Kind::Invalid, message, &error)
    })?;
    if !found.is_file() {
        let message = format!("the secret {} is no file", path.display());
        return Err(Failure::invalid(message));
    }
    absolute(path)
}

/// A variable's value in a file that only this user reads.
fn keep(folder: &TempDir, at: usize, name: &str) -> Outcome<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let value = std::env::var_os(name)
        .ok_or_else(|| Failure::invalid(format!("the variable {name} of the secret is not set")))?;
    let path = folder.path().join(at.to_string());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(value.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_or_variables() {
        for (text, expected) in [
            ("id=a,src=/f", Some(("a", "file /f"))),
            ("id=a,source=/f,type=file", Some(("a", "file /f"))),
            ("id=a,env=B", Some(("a", "variable B"))),
            ("type=env,id=a", Some(("a", "variable a"))),
            ("id=PATH", Some(("PATH", "variable PATH"))),
            (
                "id=no-such-variable",
                Some(("no-such-variable", "file no-such-variable")),
            ),
            ("src=/f", None),
            ("id=a,src=/f,env=B", None),
            ("id=a,srk=/f", None),
            ("id=a,type=x", None),
            ("a", None),
        ] {
            let read = parse(text).ok().map(|(id, origin)| match origin {
                Origin::File(path) => (id, format!("file {}", path.display())),
                Origin::Variable(name) => (id, format!("variable {name}")),
            });
            let read = read.as_ref().map(|(id, what)| (id.as_str(), what.as_str()));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn a_variable_goes_with_the_command() {
        let kept = secrets(&["id=PATH".to_owned()]).unwrap();
        let file = kept.files["PATH"].clone();
        let value = std::env::var("PATH").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), value);
        drop(kept);
        assert!(!file.exists());
    }
}
