//! Whether this host can have private networks, and how good they are, found by making one.

use std::io;

use serde::{Deserialize, Serialize};

use super::super::launch::Launcher;
use super::super::sys;
use super::super::wire::Wire;
use super::bridge;
use super::inside::{self, World};

/// How far private networks go here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// As documented.
    Whole,
    /// Connections wait for their destination; what is visible of the host takes its port.
    PortsTaken,
    /// A connection opens at once, and breaks off where its destination refuses.
    Eager,
    /// There are none; why.
    Missing(String),
}

/// What networks of containers this host can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub private: Rung,
    /// Whether there can be bridges, or why not.
    pub bridge: Result<(), String>,
}

impl Found {
    /// Makes networks of nobody and looks what they can do.
    pub fn look(launcher: &Launcher) -> io::Result<Self> {
        let (mut helper, wire) = launcher.spawn(super::PROBE)?;
        let told = wire.recv::<Self>();
        helper.wait()?;
        match told? {
            Some((found, _)) => Ok(found),
            None => Ok(Self::missing("the helper that tried ended early")),
        }
    }

    /// Nothing could be found out.
    pub fn missing(why: &str) -> Self {
        Self {
            private: Rung::Missing(why.to_owned()),
            bridge: Err(why.to_owned()),
        }
    }
}

/// The hidden subcommand.
pub(crate) fn main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    // First, for it is done with the privileges that the other one leaves behind.
    let bridge = bridge::probe::try_all();
    let private = try_private();
    let _ = wire.send(&Found { private, bridge }, &[]);
}

fn try_private() -> Rung {
    let network = sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET);
    // Any port will do: what counts is whether the rules are taken.
    let made = network.and_then(|()| inside::furnish(&[5000], World::ByRelay { v6: false }));
    match made.map(|mouths| mouths.features) {
        Ok(features) if features.yield_ports => Rung::Whole,
        Ok(features) if features.hold => Rung::PortsTaken,
        Ok(_) => Rung::Eager,
        Err(error) => Rung::Missing(error.to_string()),
    }
}
