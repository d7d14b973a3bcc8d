//! What the private networks and the bridge of a daemon's sandboxes share.

use std::net::{Ipv4Addr, SocketAddr};

use config::range::Range;
use config::sandbox::{Destination, RegistryAccess};
use unpacker::container::network::spec::{Admission, Bridging, Visible, Wiring};

/// Where sandboxes that may only pull ask the registry from: an address of the host's loopback that
/// nobody else has a reason to use. The relay, which is out of the sandbox's reach, takes it; the
/// registry gives it nothing but pulls. So a program of the host that takes it only loses by it.
pub const READERS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

/// What one of them is told that wants more.
pub const READERS_ARE_TOLD: &str = "sandboxes may pull here and nothing more; \
    the setting sandbox.registry of the host, set to write, lets them push";

/// What every private network of this daemon has, and its bridge.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the embedded registry listens; at `localhost` inside with the same port.
    pub registry: Option<SocketAddr>,
    /// What may be done there.
    pub access: RegistryAccess,
    pub allow: Vec<Range>,
    pub deny: Vec<Destination>,
    /// Of those that ask for it.
    pub bridge: Bridging,
}

impl Surroundings {
    /// Says it in a wiring.
    pub fn wire(&self, wiring: &mut Wiring) {
        wiring.visible = self
            .registry
            .map(|at| self.visible(at))
            .into_iter()
            .collect();
        wiring.allow.clone_from(&self.allow);
        wiring.deny.clone_from(&self.deny);
        wiring.bridge = self.bridge.clone();
    }

    /// One that listens everywhere is asked at loopback.
    fn visible(&self, at: SocketAddr) -> Visible {
        let everywhere = at.ip().is_unspecified();
        let address = match everywhere {
            true => Ipv4Addr::LOCALHOST.into(),
            false => at.ip().to_canonical(),
        };
        Visible {
            port: at.port(),
            host: SocketAddr::new(address, at.port()),
            everywhere,
            admission: match self.access {
                RegistryAccess::None => Admission::Refused,
                RegistryAccess::Read => Admission::From(READERS),
                RegistryAccess::Write => Admission::Plain,
            },
        }
    }

    /// Why sandboxes do not reach the registry although they may pull.
    pub fn unreached(&self) -> Option<String> {
        let at = self.registry?;
        let told_apart = self.visible(at).host.is_ipv4() || self.access != RegistryAccess::Read;
        (!told_apart).then(|| {
            format!(
                "sandboxes on private networks do not reach the registry at {at}: only at an IPv4 \
                 address can it tell them from programs of the host; set registry.listen to one, or \
                 sandbox.registry to write"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_asked_as_the_settings_say() {
        let reading = Admission::From(READERS);
        for (at, access, host, everywhere, admission, reached) in [
            (
                "127.0.0.1:5000",
                RegistryAccess::Read,
                "127.0.0.1:5000",
                false,
                reading,
                true,
            ),
            (
                "0.0.0.0:5000",
                RegistryAccess::Read,
                "127.0.0.1:5000",
                true,
                reading,
                true,
            ),
            (
                "[::]:5000",
                RegistryAccess::Read,
                "127.0.0.1:5000",
                true,
                reading,
                true,
            ),
            (
                "[::1]:5000",
                RegistryAccess::Read,
                "[::1]:5000",
                false,
                reading,
                false,
            ),
            (
                "[::1]:5000",
                RegistryAccess::Write,
                "[::1]:5000",
                false,
                Admission::Plain,
                true,
            ),
            (
                "10.0.0.5:5000",
                RegistryAccess::None,
                "10.0.0.5:5000",
                false,
                Admission::Refused,
                true,
            ),
        ] {
            let around = Surroundings {
                registry: Some(at.parse().unwrap()),
                access,
                allow: Vec::new(),
                deny: Vec::new(),
                bridge: Bridging::default(),
            };
            let mut wiring = Wiring::default();
            around.wire(&mut wiring);
            let expected = Visible {
                port: 5000,
                host: host.parse().unwrap(),
                everywhere,
                admission,
            };
            assert_eq!(wiring.visible, [expected], "{at} {access}");
            assert_eq!(around.unreached().is_none(), reached, "{at} {access}");
        }
    }
}
