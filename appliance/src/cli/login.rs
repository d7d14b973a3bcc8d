//! `devpod login` and `devpod logout`: the user's accounts at registries, kept where docker and podman
//! keep theirs. The daemon has no part in it: it asks these places on behalf of each command.

use std::sync::Arc;

use clap::Args;
use config::credentials::{Credential, Secret, canonical_host};
use config::name::DOCKER_HUB;
use config::registry::upstream::Host;
use serde_json::json;
use unpacker::progress::Silent;
use unpacker::remote::client::{Entry, Remote};
use unpacker::remote::credentials::Fixed;
use unpacker::remote::error::RemoteError;
use unpacker::remote::login::{Keeper, LoginError};

use crate::cli::{Session, secret};
use crate::daemon::environment;
use crate::error::{Failure, Kind, Outcome};
use crate::images::remote;
use crate::ui::{self, Format};

#[derive(Debug, Args)]
pub struct Login {
    /// The registry's host, with its port where it has one
    #[arg(default_value = DOCKER_HUB)]
    pub host: String,
    /// The user's name there [default: asked for]
    #[arg(long, short, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password from standard input (as is done wherever that is no terminal)
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
pub struct Logout {
    /// The registry's host
    #[arg(default_value = DOCKER_HUB)]
    pub host: String,
}

pub(super) async fn login(session: &Session, wanted: Login) -> Outcome<u8> {
    let host = host(&wanted.host)?;
    let username = match wanted.username {
        Some(name) => Some(name),
        None if wanted.password_stdin => None,
        None => secret::ask(&format!("User name at {host}: "))?,
    };
    let username = username.ok_or_else(|| {
        Failure::invalid("no user name was given").hint("Name it with --username.")
    })?;
    if username.contains(|c: char| c.is_control() || c == ':') {
        return Err(Failure::invalid(
            "a user name has no colon and no control character",
        ));
    }
    let password = secret::read(&format!("Password of {username} at {host}: ")).await?;
    let password = Secret::new(password);
    let entry = check(session, &host, &username, &password).await?;
    let machine = environment::caller().machine();
    let keeper = machine.log_in(&host, &username, &password).await;
    let keeper = keeper.map_err(|error| not_kept(&host, &error))?;
    if entry == Entry::Open {
        ui::news(&format!(
            "{} {host} lets everybody in, so the password was not checked.",
            ui::style::warning("warning:")
        ));
    }
    tell(session, "Logged in to", &host, Some(&keeper));
    if let (Keeper::File(_), Format::Text) = (&keeper, session.format) {
        ui::news(
            "The password stands there for whoever may read the file; a credential helper would keep it better.",
        );
    }
    Ok(0)
}

pub(super) async fn logout(session: &Session, wanted: Logout) -> Outcome<u8> {
    let host = host(&wanted.host)?;
    let machine = environment::caller().machine();
    let keeper = machine.log_out(&host).await;
    let keeper = keeper.map_err(|error| not_kept(&host, &error))?;
    if keeper.is_none() && session.format == Format::Text {
        ui::line(&format!("There was no login at {host}."));
        return Ok(0);
    }
    tell(session, "Logged out of", &host, keeper.as_ref());
    Ok(0)
}

/// The registry is asked before anything is kept.
async fn check(session: &Session, host: &str, username: &str, password: &Secret) -> Outcome<Entry> {
    unpacker::remote::install_crypto();
    let caller = environment::caller();
    let settings = &session.options.settings.remote;
    let mut options = remote::settings(settings, &|name| caller.variable(name));
    options.retries = 1;
    let credentials = Fixed {
        host: host.to_owned(),
        credential: Credential::basic(username, password.expose()),
    };
    let client = Remote::new(options, Arc::new(credentials))
        .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    client.ping(host, &Silent).await.map_err(|error| {
        let kind = match &error {
            RemoteError::LoginRefused { .. }
            | RemoteError::LoginNeeded { .. }
            | RemoteError::Denied { .. } => Kind::Denied,
            error if error.retriable() => Kind::Unavailable,
            _ => Kind::Invalid,
        };
        let message = format!("cannot log in to {host}");
        match error {
            // What it says about credentials is meant for pulls.
            RemoteError::LoginRefused { .. } => Failure::new(kind, message)
                .hint("The registry refused this user name and password; nothing was changed."),
            error => Failure::because(kind, message, &error),
        }
    })
}

fn not_kept(host: &str, error: &LoginError) -> Failure {
    let message = format!("cannot change the login at {host}");
    Failure::because(Kind::Internal, message, error)
}

fn tell(session: &Session, word: &str, host: &str, keeper: Option<&Keeper>) {
    let kept = keeper.map(|keeper| match keeper {
        Keeper::File(path) => path.display().to_string(),
        Keeper::Helper { program, file } => format!("{program} (named in {})", file.display()),
    });
    match (session.format, kept) {
        (Format::Json, kept) => ui::json(&json!({ "host": host, "kept": kept })),
        (Format::Text, Some(kept)) => ui::line(&format!("{word} {host}: {kept}")),
        (Format::Text, None) => ui::line(&format!("{word} {host}")),
    }
}

/// People also paste `https://host/`.
fn host(text: &str) -> Outcome<String> {
    let parsed: Result<Host, _> = canonical_host(text).parse();
    parsed
        .map(|host| host.to_string())
        .map_err(|error| Failure::invalid(error.to_string()))
}
