//! Who may use the management API. Every handler asks [`authorize`], and nobody else decides.

use std::sync::Arc;
use std::time::Duration;

use config::name::RepositoryName;
use http::StatusCode;
use http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::super::access::{Asker, admit_to, named, too_many};
use super::super::error::{ApiError, Code};
use super::super::observe::Told;
use super::super::{Front, actor, audit};
use crate::access::Action;
use crate::access::audit::Event;
use crate::access::immutable::Immutable;

/// So long a walk waits for the one before it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Need {
    /// To know something.
    Look,
    /// To know what takes a walk of the whole store, or what others are doing. From a network only
    /// somebody with a name may.
    Inspect,
    /// To change or remove something.
    Change,
}

/// In a request's extensions: it came over the control socket, which only its owner can open, and
/// so may do anything, to kept copies of other registries too.
#[derive(Debug, Clone, Copy)]
pub struct Owner;

/// From where the registry's port can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// From this machine only.
    #[default]
    Loopback,
    /// From others too; without access rules nobody there may use the management API.
    Network,
}

/// Whether the request may go on; the caller is in its extensions then. It is about one repository,
/// or with `None` about the registry as a whole. Who may pull may look; changes want the action
/// `admin`. Answers who asks; `None` is the owner.
pub(in crate::http) async fn authorize(
    front: &Front,
    parts: &mut Parts,
    need: Need,
    repository: Option<&RepositoryName>,
) -> Result<Option<Asker>, ApiError> {
    if parts.extensions.get::<Owner>().is_some() {
        Told::tell(&parts.extensions);
        return Ok(None);
    }
    let refusal = match admit(front, parts, need, repository).await {
        Ok(asker) => return Ok(Some(asker)),
        // Here every refusal is one of access.
        Err(refusal) => refusal.of_access(),
    };
    let line = audit::barred(front, parts, refusal.status()).map(|mut line| {
        line.repository = repository.map(ToString::to_string);
        line
    });
    audit::write(front, line).await;
    Err(refusal)
}

/// The tags that stand against whoever asks: the same as for a request of the distribution API.
pub(super) fn kept(asker: Option<Asker>, repository: &RepositoryName) -> Immutable {
    asker.map_or_else(Immutable::default, |asker| asker.kept(repository))
}

async fn admit(
    front: &Front,
    parts: &mut Parts,
    need: Need,
    repository: Option<&RepositoryName>,
) -> Result<Asker, ApiError> {
    let denied = |why| Err(ApiError::new(StatusCode::FORBIDDEN, Code::Denied, why));
    if front.reach == Reach::Network && front.access.is_open() {
        let why = "without access rules the management API is not open to the network; \
            use `devpod registry` on its host";
        return denied(why);
    }
    let action = match need {
        Need::Look | Need::Inspect => Action::Pull,
        Need::Change => Action::Admin,
    };
    let authority = admit_to(front, parts, action, repository).await?;
    if need == Need::Inspect && front.reach == Reach::Network {
        named(front, parts)?;
    }
    match repository.and_then(front.registry.policy().guard) {
        Some(why) if need == Need::Change => denied(why),
        _ => Ok(Asker::new(front, authority)),
    }
}

/// The right to walk the whole store, once nobody else does; the walk keeps it until it ends. The
/// owner need not wait for others.
pub(super) async fn walk(
    front: &Front,
    parts: &Parts,
) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if parts.extensions.get::<Owner>().is_some() {
        return Ok(None);
    }
    let walks = Arc::clone(&front.walks);
    match timeout(PATIENCE, walks.acquire_owned()).await {
        Ok(Ok(permit)) => Ok(Some(permit)),
        _ => Err(too_many("somebody else asks this now", PATIENCE)),
    }
}

/// Writes to the audit log that something was removed.
pub(super) async fn removed(
    front: &Front,
    parts: &Parts,
    repository: &RepositoryName,
    reference: Option<String>,
) {
    let mut line = audit::line(parts, Event::Delete, actor(&parts.extensions));
    line.repository = Some(repository.to_string());
    line.reference = reference;
    audit::write(front, Some(line)).await;
}
