//! `devpod volume …`.

use clap::Subcommand;
use serde_json::Value;

use crate::api::volumes::{PruneVolumes, VolumeRequest};
use crate::cli::sandbox::segment;
use crate::cli::{Session, pairs};
use crate::error::Outcome;
use crate::ui::{self, Format, table};

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make volumes; those that exist stay as they are
    Create {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// A label
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// List the volumes
    #[command(visible_alias = "list")]
    Ls,
    /// Print all that is known of volumes, as JSON
    Inspect {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes and all that is in them
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes that no sandbox has and nobody named
    Prune {
        /// Those with names too
        #[arg(long, short)]
        all: bool,
    },
}

pub(super) async fn run(session: &Session, verb: Volume) -> Outcome<u8> {
    match verb {
        Volume::Create { names, labels } => create(session, &names, &labels).await,
        Volume::Ls => list(session).await,
        Volume::Inspect { names } => inspect(session, &names).await,
        Volume::Rm { names } => remove(session, &names).await,
        Volume::Prune { all } => prune(session, all).await,
    }
}

fn tell(session: &Session, answer: &Value) {
    match session.format {
        Format::Json => ui::json(answer),
        Format::Text => ui::line(answer["name"].as_str().unwrap_or_default()),
    }
}

async fn create(session: &Session, names: &[String], labels: &[String]) -> Outcome<u8> {
    let client = session.daemon().await?;
    for name in names {
        let request = VolumeRequest {
            name: name.clone(),
            labels: pairs(labels),
        };
        tell(
            session,
            &client.post::<_, Value>("/v1/volumes", &request).await?,
        );
    }
    Ok(0)
}

async fn list(session: &Session) -> Outcome<u8> {
    let rows: Vec<Value> = session.daemon().await?.get("/v1/volumes").await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let users = |row: &Value| {
        let users = row["usedBy"].as_array().map_or(&[][..], Vec::as_slice);
        users
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let cells: Vec<Vec<String>> = (rows.iter())
        .map(|row| {
            vec![
                text(row, "name"),
                text(row, "createdAt"),
                users(row),
                text(row, "hostPath"),
            ]
        })
        .collect();
    table::print(&["NAME", "CREATED", "USED BY", "PLACE"], &cells);
    Ok(0)
}

async fn inspect(session: &Session, names: &[String]) -> Outcome<u8> {
    let client = session.daemon().await?;
    let mut shown = Vec::new();
    for name in names {
        let path = format!("/v1/volumes/{}", segment(name)?);
        shown.push(client.get::<Value>(&path).await?);
    }
    ui::json(&shown);
    Ok(0)
}

async fn remove(session: &Session, names: &[String]) -> Outcome<u8> {
    let client = session.daemon().await?;
    for name in names {
        let path = format!("/v1/volumes/{}", segment(name)?);
        tell(session, &client.delete::<Value>(&path).await?);
    }
    Ok(0)
}

async fn prune(session: &Session, all: bool) -> Outcome<u8> {
    let request = PruneVolumes { all };
    let client = session.daemon().await?;
    let removed: Vec<Value> = client.post("/v1/volumes/prune", &request).await?;
    match session.format {
        Format::Json => ui::json(&removed),
        Format::Text => removed.iter().for_each(|row| tell(session, row)),
    }
    Ok(0)
}
