//! What a request meets: the registry, and whatever stands before it.

use std::sync::Arc;

use crate::access::Access;
use crate::service::Registry;

/// Everything that the routes need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Front {
    pub registry: Registry,
    /// Who may do what; by default everybody everything.
    pub access: Arc<Access>,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            access: Arc::new(Access::open_to_all()),
        }
    }
}
