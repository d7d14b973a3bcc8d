//! Named volumes over the control API.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use unpacker::container::spec::Mount;

use crate::api::stream::blocking;
use crate::app::App;
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::volumes::{Volume, Withdrawn};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/volumes", get(list).post(create))
        .route("/v1/volumes/prune", post(prune))
        .route("/v1/volumes/{name}", get(show).delete(remove))
}

/// `devpod volume create`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeRequest {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `devpod volume prune`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PruneVolumes {
    /// Those with names too.
    pub all: bool,
}

/// A volume, where it lies, and the sandboxes that have it.
fn row(app: &App, volume: &Volume) -> Outcome<Value> {
    let place = app.sandboxes.volumes.data(&volume.name);
    let has = |mount: &Mount| mount.shows(&place);
    let records = app.sandboxes.list()?;
    let users: Vec<_> = (records.iter())
        .filter(|record| record.spec.mounts.iter().any(has))
        .map(|record| record.name.clone())
        .collect();
    let mut row = serde_json::to_value(volume).unwrap_or_default();
    row["hostPath"] = json!(place);
    row["usedBy"] = json!(users);
    Ok(row)
}

async fn list(State(app): State<Arc<App>>) -> Response {
    blocking(move || {
        let volumes = app.sandboxes.volumes.list()?;
        volumes
            .iter()
            .map(|volume| row(&app, volume))
            .collect::<Outcome<Vec<_>>>()
    })
    .await
}

async fn create(State(app): State<Arc<App>>, Json(request): Json<VolumeRequest>) -> Response {
    blocking(move || {
        let volume = app
            .sandboxes
            .volumes
            .create(&request.name, request.labels)?;
        row(&app, &volume)
    })
    .await
}

async fn show(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || row(&app, &app.sandboxes.volumes.find(&name)?)).await
}

fn used_by(row: &Value) -> Vec<&str> {
    let users = row["usedBy"].as_array().map_or(&[][..], Vec::as_slice);
    users.iter().filter_map(Value::as_str).collect()
}

async fn remove(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    blocking(move || {
        let withdrawn = withdraw(&app, &name)?;
        withdrawn.delete()?;
        Ok(json!({ "name": name }))
    })
    .await
}

/// Nobody may take it up while this looks; its files go afterwards, which can take long.
fn withdraw(app: &App, name: &str) -> Outcome<Withdrawn> {
    let _alone = app.sandboxes.alone();
    let row = row(app, &app.sandboxes.volumes.find(name)?)?;
    if let Some(user) = used_by(&row).first() {
        let message = format!("volume {name:?} belongs to sandbox {user:?}");
        return Err(Failure::conflict(message)
            .hint(format!("Remove that first: devpod sandbox rm {user}.")));
    }
    app.sandboxes.volumes.withdraw(name)
}

async fn prune(State(app): State<Arc<App>>, Json(request): Json<PruneVolumes>) -> Response {
    blocking(move || {
        let mut removed = Vec::new();
        for volume in app.sandboxes.volumes.list()? {
            if !request.all && !volume.anonymous {
                continue;
            }
            match withdraw(&app, &volume.name) {
                Ok(withdrawn) => withdrawn.delete()?,
                // In use, or gone meanwhile.
                Err(failure) if matches!(failure.kind, Kind::Conflict | Kind::NotFound) => continue,
                Err(failure) => return Err(failure),
            }
            removed.push(json!({ "name": volume.name }));
        }
        Ok(removed)
    })
    .await
}
