//! `devpod sandbox …`.

use std::path::Path;

use serde_json::Value;
use unpacker::container::supervise::LogLine;

use crate::api::types::{
    ExecRequest, MountRequest, PortRow, SandboxRequest, SandboxRow, StopRequest,
};
use crate::cli::args::{Exec, Run, Sandbox};
use crate::cli::terminal::{self, Input, Wanted};
use crate::cli::{Session, exit_code, image, variables};
use crate::error::{Failure, Kind, Outcome};
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
        Sandbox::Start { sandboxes } => resume(session, sandboxes).await,
        Sandbox::Port { sandbox, port } => show_ports(session, &sandbox, port.as_deref()).await,
        Sandbox::Stop { sandboxes, time } => stop(session, sandboxes, time).await,
        Sandbox::Rm { sandboxes, force } => remove(session, sandboxes, force).await,
        Sandbox::Logs { sandbox, follow } => logs(session, &sandbox, follow).await,
    }
}

async fn start(session: &Session, run: Run) -> Outcome<u8> {
    let client = session.daemon().await?;
    let request = SandboxRequest {
        image: run.image,
        name: run.name,
        command: run.command,
        env: variables(&run.env),
        user: run.user,
        cwd: run.workdir,
        hostname: run.hostname,
        mounts: run
            .volumes
            .iter()
            .map(|text| mount(text))
            .collect::<Outcome<_>>()?,
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

async fn resume(session: &Session, sandboxes: Vec<String>) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/start", segment(&sandbox)?);
        let row: Value = client.post(&path, &()).await?;
        tell(session, &sandbox, &row);
    }
    Ok(0)
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

async fn stop(session: &Session, sandboxes: Vec<String>, time: u64) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/stop", segment(&sandbox)?);
        let _: Value = client
            .post(&path, &StopRequest { grace: Some(time) })
            .await?;
        ui::line(&sandbox);
    }
    Ok(0)
}

async fn remove(session: &Session, sandboxes: Vec<String>, force: bool) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}?force={force}", segment(&sandbox)?);
        let done: Value = client.delete(&path).await?;
        tell(session, &sandbox, &done);
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

async fn logs(session: &Session, sandbox: &str, follow: bool) -> Outcome<u8> {
    let path = format!("/v1/sandboxes/{}/logs?follow={follow}", segment(sandbox)?);
    let client = session.daemon().await?;
    client.lines(&path, print_log).await?;
    Ok(0)
}

/// Each line to the stream that it was written to.
fn print_log(line: LogLine) {
    match line.stream.as_str() {
        "stderr" => ui::raw_stderr(line.log.as_bytes()),
        _ => ui::raw(line.log.as_bytes()),
    }
}

/// `HOST:INSIDE[:ro]`.
fn mount(text: &str) -> Outcome<MountRequest> {
    let bad = || {
        Failure::invalid(format!("{text:?} is not a volume"))
            .hint("Write HOST:INSIDE or HOST:INSIDE:ro, INSIDE absolute.")
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [source, target] | [source, target, "rw"] => (*source, *target, false),
        [source, target, "ro"] => (*source, *target, true),
        _ => return Err(bad()),
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(bad());
    }
    let source = image::absolute(Path::new(source))?;
    Ok(MountRequest {
        source,
        target: target.into(),
        read_only,
    })
}

/// A name as one segment of a path; anything that could not be a name is refused here.
pub(super) fn segment(name: &str) -> Outcome<&str> {
    plan::check_name(name).map(|()| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        assert!(mount("/a:/b:ro").unwrap().read_only);
        assert!(!mount("/a:/b").unwrap().read_only);
        for bad in ["/a", "/a:b", ":/b", "/a:/b:xx", "a:b:c:d"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
