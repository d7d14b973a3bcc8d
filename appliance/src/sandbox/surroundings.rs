//! What the private networks of a daemon's sandboxes share.

use std::net::SocketAddr;

use config::range::Range;
use unpacker::container::network::spec::{Visible, Wiring};

/// What every private network of this daemon has.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the embedded registry listens; at `localhost` inside with the same port.
    pub registry: Option<SocketAddr>,
    pub allow: Vec<Range>,
    pub deny: Vec<Range>,
}

impl Surroundings {
    /// Says it in a wiring.
    pub fn wire(&self, wiring: &mut Wiring) {
        wiring.visible = (self.registry.iter())
            .map(|host| Visible {
                port: host.port(),
                host: *host,
            })
            .collect();
        wiring.allow.clone_from(&self.allow);
        wiring.deny.clone_from(&self.deny);
    }
}
