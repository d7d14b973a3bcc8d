//! Mirrors: other places that have a registry's images, asked before it.
//!
//! Each is asked once. What it cannot give, the next one is asked for, and in the end the registry
//! itself, with all its attempts. Blobs, and manifests by digest, are the same wherever they come from;
//! what a tag means is the mirror's word, which its owner has chosen to take.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use config::name::Reference;
use config::registry::upstream::Address;

use super::client::Remote;
use super::error::RemoteError;
use crate::progress::{Event, Progress};

/// A mirror that could not be reached is not asked again for so long.
const REST: Duration = Duration::from_secs(60);

/// The mirrors of all registries, and which of them rest.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    /// By the host that references name.
    known: HashMap<String, Vec<Address>>,
    resting: Mutex<HashMap<String, Instant>>,
}

impl Mirrors {
    pub(super) fn new(known: HashMap<String, Vec<Address>>) -> Self {
        Self {
            known,
            resting: Mutex::default(),
        }
    }

    fn rests(&self, address: &Address, now: Instant) -> bool {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let until = resting.get(address.host.as_str());
        until.is_some_and(|until| *until > now)
    }
}

/// The same repository and target at another place; `None` where its path makes the name too long.
fn at(address: &Address, reference: &Reference) -> Option<Reference> {
    let name = match &address.path {
        Some(path) => format!("{path}/{}", reference.repository()).parse().ok()?,
        None => reference.repository().clone(),
    };
    Reference::new(address.host.as_str(), name, reference.target()).ok()
}

impl Remote {
    /// The places to ask before the registry itself.
    pub(super) fn mirrors(&self, reference: &Reference) -> Vec<Reference> {
        let mirrors = self.known_mirrors();
        let now = self.clock().now();
        let addresses = mirrors.known.get(reference.host()).into_iter().flatten();
        let awake = addresses.filter(|address| !mirrors.rests(address, now));
        awake.filter_map(|address| at(address, reference)).collect()
    }

    /// A mirror did not have it: says so, unless it is this machine that failed.
    pub(super) fn leave_mirror(
        &self,
        mirror: &Reference,
        error: RemoteError,
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        if let RemoteError::Content { .. } = error {
            return Err(error);
        }
        if let RemoteError::Network { .. } | RemoteError::Stalled { .. } = error {
            let until = self.clock().now() + REST;
            let resting = &self.known_mirrors().resting;
            let mut resting = resting.lock().unwrap_or_else(PoisonError::into_inner);
            resting.insert(mirror.host().to_owned(), until);
        }
        // That a mirror does not have everything is the rule.
        if !matches!(error, RemoteError::NotFound { .. }) {
            let text = format!("the mirror {} is passed over: {error}", mirror.host());
            progress.event(Event::Warning { text });
        }
        Ok(())
    }
}
