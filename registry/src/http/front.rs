//! What a request meets: the registry, and whatever stands before it.

use std::net::IpAddr;
use std::sync::Arc;

use config::registry::retention::Rule;
use tokio::sync::Semaphore;

use super::health::Health;
use super::manage::Reach;
use super::server::Transport;
use crate::access::Access;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::service::Registry;

/// Everything that the routes need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Front {
    pub registry: Registry,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` looks at beside the store.
    pub health: Arc<Health>,
    /// From where the management API can be used.
    pub reach: Reach,
    /// How the port takes connections.
    pub transport: Transport,
    /// Other registries whose repositories are kept here when somebody asks for them.
    pub mirror: Arc<Mirror>,
    /// How long tags are kept.
    pub retention: Arc<[Rule]>,
    /// Walks of the whole store that somebody asks for over the network: one at a time.
    pub walks: Arc<Semaphore>,
    /// Who may do what; by default everybody everything.
    pub access: Arc<Access>,
    /// Whose requests may pull and nothing more, whatever `access` says.
    pub readers: Option<Readers>,
}

/// Peers that may pull and nothing more, whoever they say they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readers {
    /// Where all of them come from.
    pub address: IpAddr,
    /// What one is told who wants more.
    pub why: &'static str,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(&registry)),
            health: Arc::default(),
            reach: Reach::default(),
            mirror: Arc::new(Mirror::none(registry.clone())),
            transport: Transport::default(),
            retention: Arc::default(),
            walks: Arc::new(Semaphore::new(1)),
            access: Arc::new(Access::open_to_all()),
            readers: None,
            registry,
        }
    }
}
