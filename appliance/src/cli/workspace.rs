//! Workspace verbs: up, list, status, ssh, stop, start, delete, logs.

use serde_json::Value;

use crate::api::types::{ExecRequest, UpRequest, UpSource};
use crate::cli::args::{Delete, Ssh, Up};
use crate::cli::sandbox::segment;
use crate::cli::terminal::{self, Input, Wanted};
use crate::cli::{Session, exit_code, image};
use crate::error::{Failure, Kind, Outcome};
use crate::options;
use crate::ui::{self, Format, table};

pub(super) async fn up(session: &Session, up: Up) -> Outcome<u8> {
    let client = session.daemon().await?;
    let request = UpRequest {
        source: source(&up)?,
        name: up.name,
        branch: up.branch,
        recreate: up.recreate,
        allowed_mounts: (up.allow_mount.iter())
            .map(|path| image::absolute(path))
            .collect::<Outcome<_>>()?,
        env: options::environment().collect(),
    };
    let workspace: Value = client.watch("/v1/workspaces", &request).await?;
    let name = text(&workspace, "name");
    match session.format {
        Format::Json => ui::json(&workspace),
        Format::Text if up.ssh => {}
        Format::Text => {
            ui::line(&format!("Workspace {name} is running."));
            ui::line(&format!("Enter it with: devpod ssh {name}"));
        }
    }
    if up.ssh {
        let ssh = Ssh {
            name,
            user: None,
            workdir: None,
            command: Vec::new(),
        };
        return enter(session, ssh).await;
    }
    Ok(0)
}

/// A URL, a folder, or the name of a workspace. A folder wins over a name where both could be meant
/// only when it is written as a path.
fn source(up: &Up) -> Outcome<UpSource> {
    if let Some(url) = &up.repo {
        return Ok(UpSource::Repo(url.clone()));
    }
    let Some(text) = up.source.as_deref() else {
        return image::absolute(".".as_ref()).map(UpSource::Folder);
    };
    if text.contains("://") || is_scp_like(text) {
        return Ok(UpSource::Repo(text.to_owned()));
    }
    let written_as_path = text.starts_with(['.', '/', '~']) || text.contains('/');
    if !written_as_path && segment(text).is_ok() {
        return Ok(UpSource::Name(text.to_owned()));
    }
    let path = image::absolute(text.as_ref())?;
    match std::fs::metadata(&path) {
        Ok(data) if data.is_dir() => std::fs::canonicalize(&path).map(UpSource::Folder).map_err(Failure::from),
        Ok(_) => Err(Failure::invalid(format!("{} is not a folder", path.display()))),
        Err(error) => Err(Failure::because(
            Kind::NotFound,
            format!("there is no folder {}", path.display()),
            &error,
        )
        .hint("Give a folder, a repository's URL, or the name of a workspace (letters, digits, '-', '_', '.').")),
    }
}

/// `git@host:path`
fn is_scp_like(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(host, path)| !host.contains('/') && host.contains('@') && !path.is_empty())
}

pub(super) async fn list(session: &Session) -> Outcome<u8> {
    let rows: Vec<Value> = session.daemon().await?.get("/v1/workspaces").await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let columns = ["name", "status", "imageRef", "createdAt", "source"];
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|key| text(row, key)).collect())
        .collect();
    table::print(&["NAME", "STATUS", "IMAGE", "CREATED", "SOURCE"], &cells);
    Ok(0)
}

fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(super) async fn status(session: &Session, name: &str) -> Outcome<u8> {
    let path = format!("/v1/workspaces/{}", segment(name)?);
    let row: Value = session.daemon().await?.get(&path).await?;
    match (session.format, &row) {
        (Format::Json, _) => ui::json(&row),
        (Format::Text, Value::Object(fields)) => {
            for key in fields.keys() {
                let value = text(&row, key);
                if !value.is_empty() {
                    ui::line(&format!("{key:18} {value}"));
                }
            }
        }
        (Format::Text, other) => ui::line(&other.to_string()),
    }
    Ok(0)
}

pub(super) async fn ssh(session: &Session, ssh: Ssh) -> Outcome<u8> {
    enter(session, ssh).await
}

async fn enter(session: &Session, ssh: Ssh) -> Outcome<u8> {
    let client = session.daemon().await?;
    // As ssh does: a command gets a terminal only when none is given and we have one ourselves.
    let terminal = ssh.command.is_empty() && terminal::is_interactive();
    let term = std::env::var("TERM").ok().filter(|_| terminal);
    let request = ExecRequest {
        command: ssh.command,
        env: term
            .map(|term| format!("TERM={term}"))
            .into_iter()
            .collect(),
        user: ssh.user,
        cwd: ssh.workdir,
        terminal,
    };
    let path = format!("/v1/workspaces/{}/exec", segment(&ssh.name)?);
    let stream = client.upgrade(&path, &request).await?;
    terminal::relay(
        stream,
        Wanted {
            stdin: Input::Ours,
            terminal,
        },
    )
    .await
    .map(exit_code)
}

pub(super) async fn stop(session: &Session, name: &str) -> Outcome<u8> {
    change(session, name, "stop", "stopped").await
}

pub(super) async fn start(session: &Session, name: &str) -> Outcome<u8> {
    change(session, name, "start", "running").await
}

async fn change(session: &Session, name: &str, verb: &str, end: &str) -> Outcome<u8> {
    let path = format!("/v1/workspaces/{}/{verb}", segment(name)?);
    let row: Value = session.daemon().await?.watch(&path, &()).await?;
    match session.format {
        Format::Json => ui::json(&row),
        Format::Text => ui::line(&format!("Workspace {name} is {end}.")),
    }
    Ok(0)
}

pub(super) async fn delete(session: &Session, delete: Delete) -> Outcome<u8> {
    let client = session.daemon().await?;
    for name in &delete.names {
        let path = format!("/v1/workspaces/{}?force={}", segment(name)?, delete.force);
        match client.delete::<Value>(&path).await {
            Ok(answer) if session.format == Format::Json => ui::json(&answer),
            Ok(_) => ui::line(&format!("Workspace {name} is deleted.")),
            Err(failure) if delete.force && failure.kind == Kind::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(0)
}

pub(super) async fn logs(session: &Session, name: &str) -> Outcome<u8> {
    let path = format!("/v1/workspaces/{}/logs", segment(name)?);
    session.daemon().await?.bytes(&path, ui::raw).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Outcome<UpSource> {
        source(&Up {
            source: Some(text.to_owned()),
            repo: None,
            branch: None,
            name: None,
            recreate: false,
            allow_mount: Vec::new(),
            ssh: false,
        })
    }

    #[test]
    fn what_up_is_given() {
        for url in ["https://h/x.git", "git@h:a/b.git", "ssh://h/x", "file:///x"] {
            assert_eq!(of(url).unwrap(), UpSource::Repo(url.to_owned()));
        }
        assert_eq!(of("hello").unwrap(), UpSource::Name("hello".to_owned()));
        assert!(matches!(of(".").unwrap(), UpSource::Folder(_)));
        for bad in ["../no-such-folder", "a/b", "no such"] {
            assert_eq!(of(bad).unwrap_err().kind, Kind::NotFound, "{bad}");
        }
    }
}
