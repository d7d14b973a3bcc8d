//! What a request meets: the registry, and whatever stands before it.

use std::sync::Arc;

use super::server::Transport;
use crate::access::Access;
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
    /// Who may do what; by default everybody everything.
    pub access: Arc<Access>,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self {
            mirror: Arc::new(Mirror::none(registry.clone())),
            transport: Transport::default(),
            registry,
            access: Arc::new(Access::open_to_all()),
        }
    }
}
