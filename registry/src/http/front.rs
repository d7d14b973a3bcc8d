//! What a request meets: the registry, and whatever stands before it.

use crate::service::Registry;

/// Everything that the routes need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Front {
    pub registry: Registry,
}

impl Front {
    /// A registry with nothing before it.
    pub fn new(registry: Registry) -> Self {
        Self { registry }
    }
}
