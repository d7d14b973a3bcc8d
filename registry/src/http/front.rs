//! What a request meets: the registry, and whatever stands before it.

use std::sync::Arc;

use super::server::Transport;
use crate::mirror::Mirror;
use crate::service::Registry;

/// Everything that the routes need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Front {
    pub registry: Registry,
    /// How the port takes connections.
    pub transport: Transport,
    /// Other registries whose repositories are kept here when somebody asks for them.
    pub mirror: Arc<Mirror>,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        let transport = Transport::default();
        Self {
            mirror: Arc::new(Mirror::none(registry.clone())),
            registry,
            transport,
        }
    }
}
