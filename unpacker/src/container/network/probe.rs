//! Whether this host can have private networks, and how good they are, found by making one.

use std::io;

use serde::{Deserialize, Serialize};

use super::super::launch::Launcher;
use super::super::sys;
use super::super::wire::Wire;
use super::inside;

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

impl Rung {
    /// Makes a private network of nobody and looks what it can do.
    pub fn look(launcher: &Launcher) -> io::Result<Self> {
        let (mut helper, wire) = launcher.spawn(super::PROBE)?;
        let told = wire.recv::<Self>();
        helper.wait()?;
        match told? {
            Some((rung, _)) => Ok(rung),
            None => Ok(Self::Missing(
                "the helper that tried ended early".to_owned(),
            )),
        }
    }

    /// The finding, and what would lift it.
    pub fn sentence(&self) -> String {
        match self {
            Self::Whole => {
                "Private networks reach the world without a device or helper.".to_owned()
            }
            Self::PortsTaken => "Private networks work, but the registry's port is taken inside: \
                                 this kernel lacks nft_socket or nft_reject."
                .to_owned(),
            Self::Eager => "Private networks work, but a refused connection opens and breaks off: \
                            this kernel lacks nfnetlink_log or nft_log."
                .to_owned(),
            Self::Missing(why) => format!(
                "There are no private networks here: {why}. The kernel's nf_tables with nft_tproxy \
                 would make them; until then use --network host."
            ),
        }
    }
}

/// The hidden subcommand.
pub(crate) fn main() {
    let Ok(wire) = Wire::from_stdin() else { return };
    let _ = wire.send(&try_all(), &[]);
}

fn try_all() -> Rung {
    let network = sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET);
    // Any port will do: what counts is whether the rules are taken.
    let made = network.and_then(|()| inside::furnish(&[5000], false));
    match made.map(|mouths| mouths.features) {
        Ok(features) if features.yield_ports => Rung::Whole,
        Ok(features) if features.hold => Rung::PortsTaken,
        Ok(_) => Rung::Eager,
        Err(error) => Rung::Missing(error.to_string()),
    }
}
