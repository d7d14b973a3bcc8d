//! `devpod registry …`: the embedded registry.

use clap::Subcommand;

use crate::cli::Session;
use crate::cli::registry_external::{self, External};
use crate::cli::registry_token::{self, Token};
use crate::error::Outcome;

#[derive(Debug, Subcommand)]
pub enum Registry {
    /// Accounts at other registries, kept encrypted
    #[command(subcommand)]
    External(External),
    /// Make, list and revoke API tokens
    #[command(subcommand)]
    Token(Token),
}

pub(super) async fn run(session: &Session, verb: Registry) -> Outcome<u8> {
    match verb {
        Registry::External(verb) => registry_external::run(session, verb).await,
        Registry::Token(verb) => registry_token::run(session, verb).await,
    }
}
