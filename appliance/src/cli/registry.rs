//! `devpod registry …`.

use clap::Subcommand;

use crate::cli::Session;
use crate::cli::registry_external::{self, External};
use crate::error::Outcome;

#[derive(Debug, Subcommand)]
pub enum Registry {
    /// Accounts at other registries, kept encrypted
    #[command(subcommand)]
    External(External),
}

pub(super) async fn run(session: &Session, verb: Registry) -> Outcome<u8> {
    match verb {
        Registry::External(verb) => registry_external::run(session, verb).await,
    }
}
