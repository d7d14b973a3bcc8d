//! What a build reads beside its context: `--build-context`, `--secret`, `--ssh`; and `--check`.
//!
//! Secrets are read here, with the caller's rights and out of the caller's environment, and cross the
//! control socket once; they stand in no argument list.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use builder::git::address::{self, Repository};
use clap::Args;

use crate::api::build_inputs::{BuildInputs, ContextInput, SecretInput};
use crate::cli::build_caches;
use crate::cli::image::absolute;
use crate::error::{Failure, Outcome};

/// The bound that BuildKit has.
const MAX_SECRET: u64 = 500 * 1024;
const AGENT: &str = "SSH_AUTH_SOCK";

#[derive(Debug, Clone, Default, Args)]
pub struct Inputs {
    /// A folder, docker-image://IMAGE, oci-layout://FOLDER[:TAG|@DIGEST] or the address of a git
    /// repository, URL.git[#REF[:FOLDER]], that stands for the stage or image of this name
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    build_contexts: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// An ssh agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET]")]
    agents: Vec<String>,
    /// Take results of steps from an image or a cache: NAME, type=registry,ref=NAME or
    /// type=local,src=FOLDER
    #[arg(long, value_name = "CACHE", help_heading = "Caches of other hosts")]
    cache_from: Vec<String>,
    /// Give them to others: type=registry,ref=NAME, type=local,dest=FOLDER (each with mode=min or
    /// mode=max) or type=inline
    #[arg(long, value_name = "CACHE", help_heading = "Caches of other hosts")]
    cache_to: Vec<String>,
}

impl Inputs {
    /// Of a build that takes from one cache and gives to it, and reads nothing else.
    pub(super) fn sharing(cache: Option<&str>) -> Self {
        let to = |name: &str| format!("type=registry,\"ref={name}\",mode=max");
        Self {
            cache_from: cache.map(str::to_owned).into_iter().collect(),
            cache_to: cache.map(to).into_iter().collect(),
            ..Self::default()
        }
    }

    pub(super) fn read(&self) -> Outcome<BuildInputs> {
        let variable = |name: &str| std::env::var_os(name);
        Ok(BuildInputs {
            contexts: all(&self.build_contexts, context)?,
            repository: None,
            secrets: all(&self.secrets, |text| secret(text, &variable))?,
            ssh: all(&self.agents, |text| agent(text, &variable))?,
            cache_from: self
                .cache_from
                .iter()
                .map(|text| build_caches::from(text))
                .collect::<Outcome<_>>()?,
            cache_to: self
                .cache_to
                .iter()
                .map(|text| build_caches::to(text))
                .collect::<Outcome<_>>()?,
        })
    }
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

fn all<T>(
    texts: &[String],
    read: impl Fn(&str) -> Outcome<(String, T)>,
) -> Outcome<BTreeMap<String, T>> {
    texts.iter().map(|text| read(text)).collect()
}

fn context(text: &str) -> Outcome<(String, ContextInput)> {
    let refused = |message: String| Failure::invalid(message);
    let Some((name, source)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        let failure = refused(format!("{text:?} is no build context"));
        return Err(failure.hint(
            "Write NAME=FOLDER, NAME=docker-image://IMAGE or NAME=oci-layout://FOLDER[:TAG].",
        ));
    };
    if let Some(image) = source.strip_prefix("docker-image://") {
        return Ok((name.to_owned(), ContextInput::Image(image.to_owned())));
    }
    if let Some(text) = source.strip_prefix("oci-layout://") {
        let image = build_caches::layout(text)?;
        if !image.folder.is_dir() {
            let folder = image.folder.display();
            let text = format!("the build context {name}, {folder}, is not a folder");
            return Err(refused(text));
        }
        return Ok((name.to_owned(), ContextInput::Layout(image)));
    }
    if address::is_git(source) {
        Repository::parse(source).map_err(|error| refused(format!("{source}: {error}")))?;
        let repository = ContextInput::Repository(source.to_owned());
        return Ok((name.to_owned(), repository));
    }
    if source.contains("://") {
        let failure = refused(format!(
            "the build context {name} is a URL, which is not fetched"
        ));
        return Err(failure.hint("Fetch it, and give its folder."));
    }
    let folder = absolute(Path::new(source))?;
    if !folder.is_dir() {
        return Err(refused(format!(
            "the build context {name}, {}, is not a folder",
            folder.display()
        )));
    }
    Ok((name.to_owned(), ContextInput::Folder(folder)))
}

/// docker's form: `id=NAME,src=FILE`, `id=NAME,env=VARIABLE`, or only the id, which then is the name of
/// a variable or of a file.
fn secret(text: &str, variable: Variable<'_>) -> Outcome<(String, SecretInput)> {
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let slot = match field.split_once('=') {
            Some(("id", value)) => id.replace(value),
            Some(("src" | "source", value)) => file.replace(value),
            Some(("env", value)) => env.replace(value),
            Some(("type", value @ ("file" | "env"))) => kind.replace(value),
            _ => return Err(no_secret(text)),
        };
        if slot.is_some() {
            return Err(no_secret(text));
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| no_secret(text))?;
    let by_name = file.is_none() && kind != Some("file") && variable(id).is_some();
    let name = match (env, kind) {
        (Some(_), _) if file.is_some() => return Err(no_secret(text)),
        (Some(name), _) => Some(name),
        // `type=env,src=NAME` is docker's older spelling.
        (None, Some("env")) => Some(file.unwrap_or(id)),
        (None, _) => by_name.then_some(id),
    };
    let bytes = match name {
        Some(name) => of_variable(id, name, variable)?,
        None => of_file(id, Path::new(file.unwrap_or(id)))?,
    };
    Ok((id.to_owned(), SecretInput::new(bytes)))
}

fn no_secret(text: &str) -> Failure {
    Failure::invalid(format!("{text:?} is no secret"))
        .hint("Write id=NAME,src=FILE or id=NAME,env=VARIABLE.")
}

fn of_variable(id: &str, name: &str, variable: Variable<'_>) -> Outcome<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let value = variable(name);
    let value = value.ok_or_else(|| {
        Failure::invalid(format!("the variable {name} of secret {id} is not set"))
    })?;
    bounded(id, value.into_vec())
}

fn of_file(id: &str, path: &Path) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let path = path.display();
            Failure::invalid(format!(
                "cannot read {path}, the file of secret {id}: {error}"
            ))
        })?;
    bounded(id, bytes)
}

fn bounded(id: &str, bytes: Vec<u8>) -> Outcome<Vec<u8>> {
    match bytes.len() as u64 > MAX_SECRET {
        true => Err(Failure::invalid(format!(
            "secret {id} has more than {MAX_SECRET} bytes"
        ))),
        false => Ok(bytes),
    }
}

fn agent(text: &str, variable: Variable<'_>) -> Outcome<(String, PathBuf)> {
    let (id, socket) = match text.split_once('=') {
        Some((id, socket)) => (id, PathBuf::from(socket)),
        None => {
            let found = variable(AGENT).filter(|value| !value.is_empty());
            let found = found.ok_or_else(|| {
                let message = format!("--ssh {text} needs an ssh agent, and {AGENT} is not set");
                Failure::invalid(message)
                    .hint("Start one with `eval $(ssh-agent)` and add keys with `ssh-add`.")
            })?;
            (text, PathBuf::from(found))
        }
    };
    let socket = absolute(&socket)?;
    use std::os::unix::fs::FileTypeExt;
    let is_socket = socket
        .metadata()
        .is_ok_and(|found| found.file_type().is_socket());
    match is_socket && !id.is_empty() {
        true => Ok((id.to_owned(), socket)),
        false => Err(Failure::invalid(format!(
            "--ssh {text}: {} is no socket of an ssh agent",
            socket.display()
        ))
        .hint("Keys in files are not taken: give them to an agent with `ssh-add FILE`.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<std::ffi::OsString> {
        (name == "TOKEN").then(|| "hush".into())
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "filed").unwrap();
        let file = file.display();
        for (text, id, value) in [
            (format!("id=a,src={file}"), "a", "filed"),
            (format!("type=file,id=a,source={file}"), "a", "filed"),
            ("id=a,env=TOKEN".to_owned(), "a", "hush"),
            ("id=TOKEN".to_owned(), "TOKEN", "hush"),
            ("type=env,id=TOKEN".to_owned(), "TOKEN", "hush"),
            ("type=env,id=a,src=TOKEN".to_owned(), "a", "hush"),
        ] {
            let (found, secret) = secret(&text, &variable).unwrap();
            assert_eq!(
                (found.as_str(), secret.bytes()),
                (id, value.as_bytes().to_vec()),
                "{text}"
            );
            assert!(!format!("{secret:?}").contains(value), "{text}");
        }
        for bad in [
            "",
            "a",
            "src=/x",
            "id=a,src=/none",
            "id=a,env=NONE",
            "id=a,id=b",
            "id=a,x=y",
        ] {
            assert!(secret(bad, &variable).is_err(), "{bad}");
        }
    }

    #[test]
    fn contexts_are_folders_and_images() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display();
        let (name, found) = context(&format!("lib={folder}")).unwrap();
        assert_eq!(name, "lib");
        assert_eq!(found, ContextInput::Folder(dir.path().to_owned()));
        let (_, found) = context("alpine=docker-image://other:1").unwrap();
        assert_eq!(found, ContextInput::Image("other:1".to_owned()));
        let (_, found) = context("lib=https://h/x.git#v1:src").unwrap();
        let repository = "https://h/x.git#v1:src".to_owned();
        assert_eq!(found, ContextInput::Repository(repository));
        for bad in [
            "lib",
            "=x",
            "lib=/no/such/folder",
            "lib=https://example.org/x.tar",
            "lib=https://example.org/x.git#--exec=x",
            "l=oci-layout:///no/such/folder",
        ] {
            assert!(context(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let own = path.clone();
        let set = move |name: &str| (name == AGENT).then(|| own.clone().into_os_string());
        let (id, found) = agent("default", &set).unwrap();
        assert_eq!((id.as_str(), &found), ("default", &path));
        let (id, _) = agent(&format!("git={}", path.display()), &variable).unwrap();
        assert_eq!(id, "git");
        assert!(agent("default", &variable).is_err());
        assert!(agent("default=/etc/passwd", &variable).is_err());
    }
}
