//! What a request meets: the registry, and whatever stands before it.

use std::fmt;
use std::sync::Arc;

use super::health::Health;
use super::manage::Reach;
use super::server::Transport;
use crate::metrics::Metrics;
use crate::service::Registry;
use crate::store::Turn;

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
    /// When a collection may unlink files.
    pub turns: Turns,
    /// How the port takes connections.
    pub transport: Transport,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(&registry)),
            health: Arc::default(),
            reach: Reach::default(),
            turns: Turns::default(),
            transport: Transport::default(),
            registry,
        }
    }
}

/// Asked before a collection unlinks files: the daemon's own work may rely on one that no row names
/// yet, and then there is no turn.
#[derive(Clone)]
pub struct Turns(Arc<dyn Fn() -> Option<Turn> + Send + Sync>);

impl Turns {
    pub fn new(take: impl Fn() -> Option<Turn> + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn take(&self) -> Option<Turn> {
        (self.0)()
    }
}

impl Default for Turns {
    /// Always: nobody else writes files.
    fn default() -> Self {
        Self::new(|| Some(Box::new(())))
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}
