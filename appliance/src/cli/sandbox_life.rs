//! The life of a sandbox on the command line, beyond run, exec and stop.

use clap::Subcommand;
use serde_json::Value;

use crate::api::life::{KillRequest, RenameRequest};
use crate::api::types::StopRequest;
use crate::cli::Session;
use crate::cli::sandbox::segment;
use crate::error::Outcome;
use crate::ui::{self, Format, table};

#[derive(Debug, Subcommand)]
pub enum Life {
    /// Start sandboxes that do not run; what they changed is still there
    Start {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
    /// Stop sandboxes and start them again
    Restart {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// Seconds until it is killed [default: what `run` was told, or 10]
        #[arg(long, short)]
        time: Option<u64>,
    },
    /// Send a signal to the first processes of sandboxes
    Kill {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
        /// A name or a number
        #[arg(long, short, default_value = "KILL")]
        signal: String,
    },
    /// Wait until sandboxes end, and print their exit codes
    Wait {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
    /// Print all that is known of sandboxes, as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        sandboxes: Vec<String>,
    },
    /// List the processes of a sandbox
    Top {
        /// Name or id
        sandbox: String,
    },
    /// Give a sandbox another name
    Rename {
        /// Name or id
        sandbox: String,
        /// The new name
        name: String,
    },
    /// Remove every sandbox that does not run and is no workspace's
    Prune,
}

pub(super) async fn run(session: &Session, verb: Life) -> Outcome<u8> {
    match verb {
        Life::Start { sandboxes } => each(session, &sandboxes, "start", &()).await,
        Life::Restart { sandboxes, time } => {
            each(session, &sandboxes, "restart", &StopRequest { grace: time }).await
        }
        Life::Kill { sandboxes, signal } => {
            each(session, &sandboxes, "kill", &KillRequest { signal }).await
        }
        Life::Wait { sandboxes } => wait(session, &sandboxes).await,
        Life::Inspect { sandboxes } => inspect(session, &sandboxes).await,
        Life::Top { sandbox } => top(session, &sandbox).await,
        Life::Rename { sandbox, name } => {
            let one = std::slice::from_ref(&sandbox);
            each(session, one, "rename", &RenameRequest { name }).await
        }
        Life::Prune => prune(session).await,
    }
}

/// The same for each; text repeats the name that was given, JSON is the daemon's answer.
async fn each<T: serde::Serialize>(
    session: &Session,
    sandboxes: &[String],
    verb: &str,
    request: &T,
) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/{verb}", segment(sandbox)?);
        let answer: Value = client.post(&path, request).await?;
        match session.format {
            Format::Json => ui::json(&answer),
            Format::Text => ui::line(sandbox),
        }
    }
    Ok(0)
}

async fn wait(session: &Session, sandboxes: &[String]) -> Outcome<u8> {
    let client = session.daemon().await?;
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/wait", segment(sandbox)?);
        let answer: Value = client.watch(&path, &()).await?;
        match session.format {
            Format::Json => ui::json(&answer),
            Format::Text => ui::line(&answer["exitCode"].to_string()),
        }
    }
    Ok(0)
}

async fn inspect(session: &Session, sandboxes: &[String]) -> Outcome<u8> {
    let client = session.daemon().await?;
    let mut shown = Vec::new();
    for sandbox in sandboxes {
        let path = format!("/v1/sandboxes/{}/inspect", segment(sandbox)?);
        shown.push(client.get::<Value>(&path).await?);
    }
    ui::json(&shown);
    Ok(0)
}

async fn top(session: &Session, sandbox: &str) -> Outcome<u8> {
    let path = format!("/v1/sandboxes/{}/top", segment(sandbox)?);
    let processes: Vec<Value> = session.daemon().await?.get(&path).await?;
    if session.format == Format::Json {
        ui::json(&processes);
        return Ok(0);
    }
    let text = |process: &Value, key: &str| match &process[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let keys = [
        "insidePid",
        "pid",
        "parent",
        "user",
        "state",
        "memory",
        "command",
    ];
    let cells: Vec<Vec<String>> = (processes.iter())
        .map(|process| keys.iter().map(|key| text(process, key)).collect())
        .collect();
    table::print(
        &[
            "PID", "HOST PID", "PARENT", "USER", "STATE", "MEMORY", "COMMAND",
        ],
        &cells,
    );
    Ok(0)
}

async fn prune(session: &Session) -> Outcome<u8> {
    let removed: Vec<Value> = session
        .daemon()
        .await?
        .post("/v1/sandboxes/prune", &())
        .await?;
    match session.format {
        Format::Json => ui::json(&removed),
        Format::Text => {
            for row in &removed {
                ui::line(row["name"].as_str().unwrap_or_default());
            }
        }
    }
    Ok(0)
}
