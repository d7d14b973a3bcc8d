//! API tokens of the registry over the control API: whoever may open the socket owns the data
//! folder, and so may make credentials for it.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::registry::access::Access;
use ::registry::access::api_token::{ApiToken, ApiTokenError, NewToken};
use ::registry::access::audit::{Event, Line};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get};
use axum::{Json, Router};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api::stream::blocking;
use crate::api::types::{CreatedToken, TokenRequest, TokenRow};
use crate::error::{Failure, Kind, Outcome};

/// Who changes tokens here, in the audit log.
const OWNER: &str = "owner";

pub(super) fn routes(access: Arc<Access>) -> Router {
    Router::new()
        .route("/v1/registry/tokens", get(list).post(create))
        .route("/v1/registry/tokens/{token}", delete(revoke))
        .with_state(access)
}

async fn list(State(access): State<Arc<Access>>) -> Response {
    blocking(move || {
        let tokens = access.api_tokens().list();
        Ok(tokens.iter().map(|token| row(token)).collect::<Vec<_>>())
    })
    .await
}

async fn create(State(access): State<Arc<Access>>, Json(request): Json<TokenRequest>) -> Response {
    blocking(move || {
        let new = new(&access, request)?;
        let (token, secret) = access
            .api_tokens()
            .create(new, access.now())
            .map_err(refused)?;
        note(&access, Event::TokenCreated, &token);
        Ok(CreatedToken {
            token: row(&token),
            secret: secret.expose().to_owned(),
        })
    })
    .await
}

async fn revoke(State(access): State<Arc<Access>>, Path(name): Path<String>) -> Response {
    blocking(move || {
        let revoked = access.api_tokens().revoke(&name).map_err(refused)?;
        let token =
            revoked.ok_or_else(|| Failure::not_found(format!("no token is called {name:?}")))?;
        note(&access, Event::TokenRevoked, &token);
        Ok(row(&token))
    })
    .await
}

fn new(access: &Access, request: TokenRequest) -> Outcome<NewToken> {
    let now = access.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let invalid =
        |error: &(dyn std::error::Error + 'static)| Failure::from_error(Kind::Invalid, error);
    let patterns = request.repositories.iter().map(|text| text.parse());
    let actions = request.actions.iter().map(|text| text.parse());
    Ok(NewToken {
        name: request.name,
        repositories: patterns
            .collect::<Result<_, config::pattern::PatternError>>()
            .map_err(|error| invalid(&error))?,
        actions: actions
            .collect::<Result<_, config::registry::access::WordError>>()
            .map_err(|error| invalid(&error))?,
        expires: request.life.map(|life| now.as_secs().saturating_add(life)),
    })
}

fn refused(error: ApiTokenError) -> Failure {
    let kind = match &error {
        ApiTokenError::Taken { .. } => Kind::Conflict,
        ApiTokenError::TooMany => Kind::Exhausted,
        ApiTokenError::Keep(_) => Kind::Internal,
        _ => Kind::Invalid,
    };
    Failure::from_error(kind, &error)
}

fn note(access: &Access, event: Event, token: &ApiToken) {
    let mut line = Line::new(event, OWNER);
    line.reference = Some(format!("token:{}", token.name));
    access.note(&line);
}

fn row(token: &ApiToken) -> TokenRow {
    TokenRow {
        id: token.id.clone(),
        name: token.name.clone(),
        repositories: token.repositories.iter().map(ToString::to_string).collect(),
        actions: token.actions.iter().map(ToString::to_string).collect(),
        created: shown(token.created).unwrap_or_default(),
        expires: token.expires.and_then(shown),
        last_used: token.last_used().and_then(shown),
    }
}

/// Seconds since 1970 as RFC 3339; `None` for what lies beyond the year 9999.
fn shown(seconds: u64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?);
    time.ok()?.format(&Rfc3339).ok()
}
