//! `devpod sandbox …`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use config::quantity::Seconds;
use serde_json::Value;
use unpacker::container::supervise::LogLine;

use crate::api::types::{ExecRequest, PortRow, SandboxRequest, SandboxRow, StopRequest};
use crate::cli::args::{Exec, LogArgs, Run, Sandbox};
use crate::cli::terminal::{self, Input, Wanted};
use crate::cli::{Session, exit_code, run_options, sandbox_life, variables};
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::options::RestartPolicy;
use crate::sandbox::{plan, ports};
use crate::ui::{self, Format, style, table};

pub(super) async fn run(session: &Session, verb: Sandbox) -> Outcome<u8> {
    match verb {
        Sandbox::Run(run) => start(session, *run).await,
        Sandbox::Exec(exec) => enter(session, exec).await,
        Sandbox::Attach {
            sandbox,
            interactive,
            tty,
        } => attach(session, &sandbox, interactive, tty).await,
        Sandbox::Ps => list(session).await,
        Sandbox::Port { sandbox, port } => show_ports(session, &sandbox, port.as_deref()).await,
        Sandbox::Stop { sandboxes, time } => stop(session, sandboxes, time).await,
        Sandbox::Rm {
            sandboxes,
            force,
            volumes,
        } => remove(session, &sandboxes, force, volumes).await,
        Sandbox::Logs { sandbox, wanted } => logs(session, &sandbox, &wanted).await,
        Sandbox::Life(verb) => sandbox_life::run(session, verb).await,
    }
}

async fn start(session: &Session, run: Run) -> Outcome<u8> {
    let (options, mounts) = run_options::options(
        &run.limits,
        &run.security,
        &run.files,
        &run.life,
        &run.volumes,
        &run.network,
    )?;
    let mut env = run_options::variables_of(&run.files.env_file)?;
    env.extend(variables(&run.env));
    if run.rm && options.keeping.restart != RestartPolicy::No {
        return Err(Failure::invalid("--rm and --restart exclude each other"));
    }
    let cidfile = run.life.cidfile.as_deref().map(new_file).transpose()?;
    let client = session.daemon().await?;
    let mut words = run.words.into_iter();
    let request = SandboxRequest {
        image: words.next().unwrap_or_default(),
        name: run.name,
        command: words.collect(),
        env,
        user: run.user,
        cwd: run.workdir,
        hostname: run.hostname,
        mounts,
        options,
        network: Some(run.network),
        publish: published(&run.publish)?,
        publish_all: run.publish_all,
        host_loopback: run.host_loopback,
        terminal: run.tty,
        entrypoint: run.entrypoint,
        remove: run.rm,
        attach: !run.detach,
    };
    let row: SandboxRow = client.watch("/v1/sandboxes", &request).await?;
    if let Some(mut file) = cidfile {
        file.write_all(row.id.as_bytes())?;
    }
    for warning in &row.warnings {
        ui::news(&format!("{} {warning}", style::warning("warning:")));
    }
    if run.detach {
        match session.format {
            Format::Json => ui::json(&row),
            Format::Text => ui::line(&row.id),
        }
        return Ok(0);
    }
    let stream = client
        .upgrade(&format!("/v1/sandboxes/{}/attach", row.id), &())
        .await?;
    let wanted = Wanted {
        stdin: Input::of_new(run.interactive),
        terminal: run.tty,
    };
    let code = terminal::relay(stream, wanted).await.map(exit_code);
    if run.rm && code.is_ok() {
        // The daemon removes it too, a moment later; then there is nothing left to do here.
        match client
            .delete::<Value>(&format!("/v1/sandboxes/{}?force=true", row.id))
            .await
        {
            Err(failure) if failure.kind != Kind::NotFound => {
                ui::news(&format!("{} {failure}", style::warning("warning:")));
            }
            _ => {}
        }
    }
    code
}

async fn enter(session: &Session, exec: Exec) -> Outcome<u8> {
    let client = session.daemon().await?;
    let request = ExecRequest {
        command: exec.command,
        env: variables(&exec.env),
        user: exec.user,
        cwd: exec.workdir,
        terminal: exec.tty,
    };
    let path = format!("/v1/sandboxes/{}/exec", segment(&exec.sandbox)?);
    let stream = client.upgrade(&path, &request).await?;
    let wanted = Wanted {
        stdin: Input::of_new(exec.interactive),
        terminal: exec.tty,
    };
    terminal::relay(stream, wanted).await.map(exit_code)
}

async fn attach(session: &Session, sandbox: &str, stdin: bool, terminal: bool) -> Outcome<u8> {
    let client = session.daemon().await?;
    let path = format!("/v1/sandboxes/{}/attach", segment(sandbox)?);
    let stream = client.upgrade(&path, &()).await?;
    let stdin = if stdin { Input::Ours } else { Input::Theirs };
    let wanted = Wanted { stdin, terminal };
    terminal::relay(stream, wanted).await.map(exit_code)
}

async fn list(session: &Session) -> Outcome<u8> {
    let rows: Vec<SandboxRow> = session.daemon().await?.get("/v1/sandboxes").await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let status = match row.exit_code {
                Some(code) if row.out_of_memory => {
                    format!("{} ({code}, out of memory)", row.status)
                }
                Some(code) => format!("{} ({code})", row.status),
                None => row.status.clone(),
            };
            let command = row.command.join(" ");
            vec![
                row.id.clone(),
                row.name.clone(),
                row.image.clone(),
                status,
                row.created_at.clone(),
                row.ports.iter().map(shown).collect::<Vec<_>>().join(", "),
                command,
            ]
        })
        .collect();
    table::print(
        &[
            "ID", "NAME", "IMAGE", "STATUS", "CREATED", "PORTS", "COMMAND",
        ],
        &cells,
    );
    Ok(0)
}

/// A file that did not exist: docker's rule, so that no other sandbox's id is lost.
fn new_file(path: &Path) -> Outcome<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| {
            let message = format!("cannot make the file {}", path.display());
            Failure::because(Kind::Invalid, message, &error)
        })
}

/// `127.0.0.1:8080->80/tcp`.
fn shown(row: &PortRow) -> String {
    ports::publish(row).to_string()
}

fn published(texts: &[String]) -> Outcome<Vec<PortRow>> {
    let rows = texts.iter().map(|text| ports::parse(text));
    let rows: Vec<Vec<PortRow>> = rows.collect::<Outcome<_>>()?;
    Ok(rows.concat())
}

async fn show_ports(session: &Session, sandbox: &str, port: Option<&str>) -> Outcome<u8> {
    let path = format!("/v1/sandboxes/{}", segment(sandbox)?);
    let row: SandboxRow = session.daemon().await?.get(&path).await?;
    let wanted = port.map(ports::parse).transpose()?.unwrap_or_default();
    let is_wanted = |row: &&PortRow| {
        let same = |other: &PortRow| (other.port, other.protocol) == (row.port, row.protocol);
        port.is_none() || wanted.iter().any(same)
    };
    let rows: Vec<&PortRow> = row.ports.iter().filter(is_wanted).collect();
    if let (Some(port), true) = (port, rows.is_empty()) {
        return Err(Failure::not_found(format!(
            "no port of this host leads to port {port} of sandbox {sandbox:?}"
        )));
    }
    match session.format {
        Format::Json => ui::json(&rows),
        Format::Text => rows.iter().for_each(|row| match port {
            Some(_) => ui::line(&ports::host(row)),
            None => ui::line(&format!(
                "{}/{} -> {}",
                row.port,
                row.protocol,
                ports::host(row)
            )),
        }),
    }
    Ok(0)
}

async fn stop(session: &Session, sandboxes: Vec<String>, time: Option<u64>) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/stop", segment(&sandbox)?);
        let _: Value = client.post(&path, &StopRequest { grace: time }).await?;
        ui::line(&sandbox);
    }
    Ok(0)
}

async fn remove(
    session: &Session,
    sandboxes: &[String],
    force: bool,
    volumes: bool,
) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let name = segment(sandbox)?;
        let path = format!("/v1/sandboxes/{name}?force={force}&volumes={volumes}");
        let done: Value = client.delete(&path).await?;
        tell(session, sandbox, &done);
    }
    Ok(0)
}

/// Text repeats the name that was given; JSON is the daemon's answer.
fn tell(session: &Session, given: &str, answer: &Value) {
    match session.format {
        Format::Json => ui::json(answer),
        Format::Text => ui::line(given),
    }
}

async fn logs(session: &Session, sandbox: &str, wanted: &LogArgs) -> Outcome<u8> {
    let since = wanted.since.as_deref().map(time_of).transpose()?;
    let mut path = format!(
        "/v1/sandboxes/{}/logs?follow={}",
        segment(sandbox)?,
        wanted.follow
    );
    if let Some(tail) = wanted.tail {
        path.push_str(&format!("&tail={tail}"));
    }
    let client = session.daemon().await?;
    let timestamps = wanted.timestamps;
    // Times of the log are RFC 3339 in UTC, in which the order of texts is the order of times.
    let is_wanted = move |line: &LogLine| since.as_ref().is_none_or(|since| line.time >= *since);
    let print = move |line: LogLine| {
        if is_wanted(&line) {
            print_log(&line, timestamps);
        }
    };
    client.lines(&path, print).await?;
    Ok(0)
}

/// A moment as the log writes it.
fn time_of(text: &str) -> Outcome<String> {
    let format = &time::format_description::well_known::Rfc3339;
    let moment = match text.parse::<Seconds>() {
        Ok(ago) => time::OffsetDateTime::now_utc() - std::time::Duration::from_secs(ago.0),
        Err(_) => time::OffsetDateTime::parse(text, format).map_err(|_| {
            Failure::invalid(format!("{text:?} is no time"))
                .hint("Write 2026-11-21T08:00:00Z, or how long ago: 90s, 10m, 2h.")
        })?,
    };
    let utc = moment.to_offset(time::UtcOffset::UTC).format(format);
    utc.map_err(|_| Failure::invalid(format!("{text:?} is too far away")))
}

/// Each line to the stream that it was written to.
fn print_log(line: &LogLine, timestamps: bool) {
    let time = if timestamps {
        format!("{} ", line.time)
    } else {
        String::new()
    };
    let text = [time.as_bytes(), line.log.as_bytes()].concat();
    match line.stream.as_str() {
        "stderr" => ui::raw_stderr(&text),
        _ => ui::raw(&text),
    }
}

/// A name as one segment of a path; anything that could not be a name is refused here.
pub(super) fn segment(name: &str) -> Outcome<&str> {
    plan::check_name(name).map(|()| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_how_long_ago() {
        assert_eq!(
            time_of("2026-11-21T10:00:00+02:00").unwrap(),
            "2026-11-21T08:00:00Z"
        );
        assert!(time_of("1h").unwrap() < time_of("1m").unwrap());
        assert!(time_of("yesterday").is_err());
    }
}
