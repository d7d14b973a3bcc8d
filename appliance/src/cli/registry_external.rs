//! `devpod registry external …`: accounts at other registries.
//!
//! A password is read from the terminal or from standard input, never from an argument.

use clap::{Args, Subcommand};

use crate::api::external::AddAccount;
use crate::cli::{Session, secret};
use crate::error::{Failure, Outcome};
use crate::images::external::Account;
use crate::ui::{self, Format, table};

const PATH: &str = "/v1/registries/external";

#[derive(Debug, Subcommand)]
pub enum External {
    /// Add an account, or replace the one of its registry; the password is read from standard input
    Add(Add),
    /// List the accounts
    #[command(visible_alias = "ls")]
    List,
    /// Show one account, without its password
    Show(Host),
    /// Remove an account
    #[command(visible_alias = "rm")]
    Remove(Host),
}

#[derive(Debug, Args)]
pub struct Add {
    /// The registry's host, with its port where it has one
    pub host: String,
    /// The user's name there
    #[arg(long, short, value_name = "NAME")]
    pub username: String,
}

#[derive(Debug, Args)]
pub struct Host {
    /// The registry's host
    pub host: String,
}

pub(super) async fn run(session: &Session, verb: External) -> Outcome<u8> {
    match verb {
        External::Add(wanted) => add(session, wanted).await,
        External::List => list(session).await,
        External::Show(host) => show(session, &host.host).await,
        External::Remove(host) => remove(session, &host.host).await,
    }
}

async fn add(session: &Session, wanted: Add) -> Outcome<u8> {
    let request = AddAccount {
        password: secret::read(&format!(
            "Password of {} at {}: ",
            wanted.username, wanted.host
        ))
        .await?,
        host: wanted.host,
        username: wanted.username,
    };
    let added: Account = session.daemon().await?.post(PATH, &request).await?;
    told(session, "Added", &added);
    Ok(0)
}

async fn list(session: &Session) -> Outcome<u8> {
    let accounts: Vec<Account> = session.daemon().await?.get(PATH).await?;
    if session.format == Format::Json {
        ui::json(&accounts);
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = accounts
        .into_iter()
        .map(|account| vec![account.host, account.username, account.added_at])
        .collect();
    table::print(&["HOST", "USERNAME", "ADDED"], &cells);
    Ok(0)
}

async fn show(session: &Session, host: &str) -> Outcome<u8> {
    let path = format!("{PATH}/{}", segment(host)?);
    let account: Account = session.daemon().await?.get(&path).await?;
    if session.format == Format::Json {
        ui::json(&account);
        return Ok(0);
    }
    ui::line(&format!("Host:     {}", account.host));
    ui::line(&format!("Username: {}", account.username));
    ui::line(&format!("Added:    {}", account.added_at));
    Ok(0)
}

async fn remove(session: &Session, host: &str) -> Outcome<u8> {
    let path = format!("{PATH}/{}/remove", segment(host)?);
    let nothing = serde_json::json!({});
    let removed: Account = session.daemon().await?.post(&path, &nothing).await?;
    told(session, "Removed", &removed);
    Ok(0)
}

fn told(session: &Session, word: &str, account: &Account) {
    match session.format {
        Format::Json => ui::json(account),
        Format::Text => ui::line(&format!("{word} {} at {}", account.username, account.host)),
    }
}

/// A host as a part of a path: what is none is refused before it becomes one.
fn segment(host: &str) -> Outcome<String> {
    let parsed: Result<config::registry::upstream::Host, _> = host.parse();
    parsed
        .map(|host| host.to_string())
        .map_err(|error| Failure::invalid(error.to_string()))
}
