//! What a request meets: the registry, and whatever stands before it.

use std::sync::Arc;

use super::server::Transport;
use crate::access::Access;
use crate::service::Registry;

/// Everything that the routes need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Front {
    pub registry: Registry,
    /// How the port takes connections.
    pub transport: Transport,
    /// Who may do what; by default everybody everything.
    pub access: Arc<Access>,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        let transport = Transport::default();
        Self {
            registry,
            transport,
            access: Arc::new(Access::open_to_all()),
        }
    }
}
