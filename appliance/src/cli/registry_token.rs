//! `devpod registry token …`: credentials for programs that use the registry's port.

use clap::{Args, Subcommand};

use crate::api::types::{CreatedToken, TokenRequest, TokenRow};
use crate::cli::Session;
use crate::error::{Failure, Outcome};
use crate::ui::{self, Format, table};

const TOKENS: &str = "/v1/registry/tokens";

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it, once
    Create(Create),
    /// List the tokens
    #[command(visible_alias = "ls")]
    List,
    /// Revoke tokens: from then on they open nothing
    #[command(visible_alias = "rm")]
    Revoke {
        /// Names or ids
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// What it is called, in lists and in the audit log
    #[arg(long)]
    name: String,
    /// The repositories that it is for: patterns such as `team/**`, with commas between them
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', required = true)]
    repositories: Vec<String>,
    /// What it may do there: pull, push, delete, admin, with commas between them
    #[arg(
        long,
        value_name = "ACTIONS",
        value_delimiter = ',',
        default_value = "pull"
    )]
    actions: Vec<String>,
    /// How long it is good for, such as 12h or 90d; `never` for no end
    #[arg(long, value_name = "TIME", default_value = "90d")]
    expires: String,
}

pub(super) async fn run(session: &Session, verb: Token) -> Outcome<u8> {
    match verb {
        Token::Create(create) => self::create(session, create).await,
        Token::List => list(session).await,
        Token::Revoke { tokens } => revoke(session, tokens).await,
    }
}

async fn create(session: &Session, create: Create) -> Outcome<u8> {
    let request = TokenRequest {
        name: create.name,
        repositories: create.repositories,
        actions: create.actions,
        life: life(&create.expires)?,
    };
    let client = session.daemon().await?;
    let made: CreatedToken = client.post(TOKENS, &request).await?;
    if session.format == Format::Json {
        ui::json(&made);
        return Ok(0);
    }
    // Only the token goes to standard output: `TOKEN=$(devpod registry token create …)`.
    ui::line(&made.secret);
    let until = match &made.token.expires {
        Some(expires) => format!("until {expires}"),
        None => "until it is revoked".to_owned(),
    };
    ui::news(&format!(
        "Keep it: it is not shown again. It is good {until}; log in with any name and it as the \
         password."
    ));
    Ok(0)
}

/// Seconds; `None` for a token without an end.
fn life(text: &str) -> Outcome<Option<u64>> {
    if text == "never" {
        return Ok(None);
    }
    match text.parse::<config::quantity::Seconds>() {
        Ok(seconds) if seconds.0 > 0 => Ok(Some(seconds.0)),
        _ => Err(Failure::invalid(format!("{text:?} is not a time"))
            .hint("Write for example 12h, 90d or never.")),
    }
}

async fn list(session: &Session) -> Outcome<u8> {
    let rows: Vec<TokenRow> = session.daemon().await?.get(TOKENS).await?;
    if session.format == Format::Json {
        ui::json(&rows);
        return Ok(0);
    }
    let cells: Vec<Vec<String>> = rows.into_iter().map(cells).collect();
    table::print(
        &[
            "ID",
            "NAME",
            "REPOSITORIES",
            "ACTIONS",
            "CREATED",
            "EXPIRES",
            "LAST USED",
        ],
        &cells,
    );
    Ok(0)
}

fn cells(row: TokenRow) -> Vec<String> {
    vec![
        row.id,
        row.name,
        row.repositories.join(","),
        row.actions.join(","),
        row.created,
        row.expires.unwrap_or_else(|| "never".to_owned()),
        row.last_used.unwrap_or_else(|| "never".to_owned()),
    ]
}

async fn revoke(session: &Session, tokens: Vec<String>) -> Outcome<u8> {
    let client = session.daemon().await?;
    for token in tokens {
        // What is no token's name would be no path either.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if token.is_empty() || !token.bytes().all(plain) {
            return Err(Failure::not_found(format!("no token is called {token:?}")));
        }
        let row: TokenRow = client.delete(&format!("{TOKENS}/{token}")).await?;
        ui::news(&format!("Revoked {}.", row.name));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::life;

    #[test]
    fn times_are_positive_or_never() {
        assert_eq!(life("never").unwrap(), None);
        assert_eq!(life("90d").unwrap(), Some(90 * 86_400));
        for wrong in ["0", "soon", "", "-1h"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}
