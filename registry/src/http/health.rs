//! `/livez`, `/readyz` and `/metrics`: for those who look after the process. Without access rules:
//! they tell numbers, and no names.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statvfs, unlinkat};
use serde::Serialize;

use super::Front;
use super::answer::Answer;
use super::body::blocking;
use super::error::ApiError;
use crate::service::{Listing, Registry};
use crate::store::StoreError;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What readiness depends on beside the store.
#[derive(Debug)]
pub struct Health {
    free_floor: u64,
    /// The last look at the disk: anybody may ask, so how often it is made must not depend on them.
    last: Mutex<Option<(Instant, Vec<Check>)>>,
    remember: Duration,
    stopping: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        // Room for the index to grow, so that what is under way can still be committed.
        Self::new(64 * 1024 * 1024, Duration::from_secs(1))
    }
}

impl Health {
    /// Not ready for pushes with fewer free bytes than this. One look at the disk counts for so
    /// long.
    pub fn new(free_floor: u64, remember: Duration) -> Self {
        Self {
            free_floor,
            last: Mutex::default(),
            remember,
            stopping: AtomicBool::new(false),
        }
    }

    fn disk(&self, registry: &Registry) -> Vec<Check> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, checks)) = last.as_ref()
            && at.elapsed() < self.remember
        {
            return checks.clone();
        }
        let checks = look(registry, self.free_floor);
        *last = Some((Instant::now(), checks.clone()));
        checks
    }

    /// From now on the registry is not ready any more; it still answers.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

pub(super) fn routes() -> Router<Front> {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

async fn live() -> &'static str {
    "ok\n"
}

/// How one look ended.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<Check>,
}

async fn ready(State(front): State<Front>) -> Result<Response, ApiError> {
    let (registry, health) = (front.registry, Arc::clone(&front.health));
    let look = move || Ok::<_, StoreError>(checks(&registry, &health));
    let checks = blocking(look).await?;
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Answer::new(status)
        .header(CACHE_CONTROL, "no-store")
        .json("application/json", &Readiness { ready, checks })
}

fn checks(registry: &Registry, health: &Health) -> Vec<Check> {
    let stopping = health.stopping.load(Ordering::Relaxed);
    let serving = if stopping {
        Err("shutting down".to_owned())
    } else {
        Ok(())
    };
    let mut checks = health.disk(registry);
    checks.push(check("serving", serving));
    checks
}

fn look(registry: &Registry, free_floor: u64) -> Vec<Check> {
    let content = &registry.store().options().content;
    let writable = writable(content).map_err(|error| error.kind().to_string());
    vec![
        check("index", index(registry)),
        check("content", writable),
        check("space", space(content, free_floor)),
    ]
}

fn check(name: &'static str, outcome: Result<(), String>) -> Check {
    Check {
        name,
        ok: outcome.is_ok(),
        reason: outcome.err(),
    }
}

/// Errors are told by their kind: the paths in them are nobody's business.
fn index(registry: &Registry) -> Result<(), String> {
    let first = Listing {
        limit: Some(1),
        last: None,
    };
    match registry.repositories(first) {
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(?error, "not ready: the index cannot be read");
            Err("cannot be read".to_owned())
        }
    }
}

/// Makes a file and removes it: a folder may look writable on a file system that is not.
fn writable(content: &Path) -> io::Result<()> {
    let folder = File::open(content.join("uploads"))?;
    // Swept at open like all other temporary files, should we be killed in between.
    let name = format!("w-{}", crate::store::blobs::random_hex()?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(&folder, &name, flags, Mode::from_raw_mode(0o600))?;
    Ok(unlinkat(&folder, &name, AtFlags::empty())?)
}

fn space(content: &Path, floor: u64) -> Result<(), String> {
    let found = statvfs(content).map_err(|error| io::Error::from(error).kind().to_string())?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < floor {
        return Err(format!("{free} bytes are free, fewer than {floor}"));
    }
    Ok(())
}

async fn metrics(State(front): State<Front>) -> Result<Response, ApiError> {
    let text = blocking(move || front.metrics.scrape(&front.registry)).await?;
    Ok(Answer::new(StatusCode::OK)
        .header(CONTENT_TYPE, OPENMETRICS)
        .header(CACHE_CONTROL, "no-store")
        .body(text.into()))
}
