//! `devpod serve` and `devpod daemon …`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::types::DaemonStatus;
use crate::cli::Session;
use crate::cli::args::{Daemon, Serve};
use crate::daemon::{lock, serve as daemon, start};
use crate::error::{Failure, Kind, Outcome};
use crate::ui::{self, Format};

pub(super) fn serve(session: Session, arguments: Serve) -> Outcome<u8> {
    daemon::run(
        session.options,
        arguments.listen.as_deref(),
        arguments.detach,
    )
}

pub(super) async fn run(session: &Session, verb: Daemon) -> Outcome<u8> {
    match verb {
        Daemon::Status => status(session).await,
        Daemon::Stop => stop(session).await,
        Daemon::Logs => logs(session),
    }
}

async fn status(session: &Session) -> Outcome<u8> {
    let Some(client) = start::running(&session.folder).await else {
        match session.format {
            Format::Json => ui::json(&serde_json::json!({ "running": false })),
            Format::Text => ui::line("The devpod daemon is not running."),
        }
        return Ok(Kind::NotFound.exit_code());
    };
    let status: DaemonStatus = client.get("/v1/status").await?;
    match session.format {
        Format::Json => {
            let mut value = serde_json::to_value(&status).unwrap_or_default();
            value["running"] = Value::Bool(true);
            ui::json(&value);
        }
        Format::Text => {
            ui::line(&format!(
                "The devpod daemon {} runs (pid {}).",
                status.version, status.pid
            ));
            ui::line(&format!("registry   {}", status.registry));
            ui::line(&format!("control    {}", status.socket.display()));
            ui::line(&format!("data       {}", status.data.display()));
            ui::line(&format!("identity   {}", status.identity));
            ui::line(&format!("since      {}", status.started_at));
        }
    }
    Ok(0)
}

async fn stop(session: &Session) -> Outcome<u8> {
    let Some(holder) = lock::holder(&session.folder) else {
        ui::news("The devpod daemon is not running.");
        return Ok(0);
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut told = false;
    // Another command may start the next daemon at once: this one's end is waited for, not that one's.
    while lock::holder(&session.folder) == Some(holder) {
        // One that is just starting cannot be told yet.
        if !told && let Some(client) = start::running(&session.folder).await {
            match client.post::<_, Value>("/v1/shutdown", &()).await {
                Err(failure) if failure.kind != Kind::Unavailable => return Err(failure),
                answer => told = answer.is_ok(),
            }
        }
        if Instant::now() > deadline {
            return Err(
                Failure::new(Kind::Unavailable, "the daemon is still ending its work")
                    .hint("Look at `devpod daemon logs`."),
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ui::news("The devpod daemon has stopped; sandboxes go on.");
    Ok(0)
}

fn logs(session: &Session) -> Outcome<u8> {
    match std::fs::read(session.folder.log()) {
        Ok(bytes) => ui::raw(&bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ui::news("No daemon has been started in the background here.");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}
