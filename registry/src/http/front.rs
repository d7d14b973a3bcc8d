//! What a request meets: the registry, and whatever stands before it.

use std::sync::Arc;

use super::health::Health;
use super::manage::Reach;
use crate::metrics::Metrics;
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
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(&registry)),
            health: Arc::default(),
            reach: Reach::default(),
            registry,
        }
    }
}
