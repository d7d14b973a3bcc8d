//! Who may use the management API. Every handler asks [`authorize`], and nobody else decides.

use config::name::RepositoryName;
use http::StatusCode;
use http::request::Parts;

use super::super::Front;
use super::super::error::{ApiError, Code};

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Need {
    /// To know something.
    Look,
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

/// Whether the request may go on. A change is about one repository, or with `None` about the store.
pub(in crate::http) fn authorize(
    front: &Front,
    parts: &Parts,
    need: Need,
    repository: Option<&RepositoryName>,
) -> Result<(), ApiError> {
    if parts.extensions.get::<Owner>().is_some() {
        return Ok(());
    }
    let denied = |why| Err(ApiError::new(StatusCode::FORBIDDEN, Code::Denied, why));
    if front.reach == Reach::Network {
        return denied(
            "the management API is not open to the network; use `devpod registry` on its host",
        );
    }
    match repository.and_then(front.registry.policy().guard) {
        Some(why) if need == Need::Change => denied(why),
        _ => Ok(()),
    }
}
