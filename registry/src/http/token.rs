//! `/token`: credentials against short-lived tokens.
//!
//! GET with Basic (Docker token specification, "Requesting a Token") and POST with a form (its
//! OAuth 2 flow, which docker and containerd use). A caller gets a token with what is allowed of
//! what was asked, and with nothing in it when that is nothing.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use config::credentials::Secret;
use http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Front;
use super::access::{failed_login, presented};
use super::answer::Answer;
use super::audit;
use super::body::collect;
use super::browser::refuse_pages;
use super::error::{ApiError, Code};
use super::peer;
use super::query::Query;
use crate::access::audit::Event;
use crate::access::{Action, Authority, LoginError, MAX_SCOPES, Presented, Scope, TOKEN_LIFE};

/// A form holds a password or a token, and scopes.
const MAX_FORM: usize = 64 * 1024;
/// Scopes as text, for the audit log.
const MAX_SHOWN: usize = 1024;

pub(super) fn routes() -> Router<Front> {
    Router::new().route("/token", get(by_query).post(by_form))
}

async fn by_query(State(front): State<Front>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    // A space between scopes comes as a plus; nothing of this query has one of its own.
    let query = Query::parse_form(parts.uri.query().unwrap_or_default());
    let wanted = Wanted {
        presented: presented(&parts.headers),
        refresh: None,
        offline: query.get("offline_token") == Some("true"),
        query,
    };
    respond(&front, parts, Ok(wanted)).await
}

async fn by_form(State(front): State<Front>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let wanted = read_form(&parts, &mut body).await;
    respond(&front, parts, wanted).await
}

/// What was asked for, and by whom.
struct Wanted {
    presented: Presented,
    refresh: Option<Secret>,
    offline: bool,
    query: Query,
}

/// RFC 6749, sections 4.3.2 and 6.
async fn read_form(parts: &Parts, body: &mut Body) -> Result<Wanted, ApiError> {
    let bytes = collect(body, MAX_FORM).await?.ok_or_else(|| {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        ApiError::new(status, Code::SizeInvalid, "the form is too large")
    })?;
    let query = Query::parse_form(&String::from_utf8_lossy(&bytes));
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let mut wanted = Wanted {
        presented: presented(&parts.headers),
        refresh: None,
        offline: query.get("access_type") == Some("offline"),
        query: Query::default(),
    };
    match query.get("grant_type") {
        Some("password") => {
            wanted.presented = Presented::Basic {
                user: text("username"),
                password: Secret::new(text("password")),
            };
        }
        Some("refresh_token") => wanted.refresh = Some(Secret::new(text("refresh_token"))),
        _ => {
            let message = "grant_type is neither password nor refresh_token";
            return Err(ApiError::bad_request(Code::Unsupported, message));
        }
    }
    wanted.query = query;
    Ok(wanted)
}

async fn respond(front: &Front, mut parts: Parts, wanted: Result<Wanted, ApiError>) -> Response {
    let outcome = match wanted {
        Ok(wanted) => serve(front, &mut parts, wanted).await,
        Err(error) => Err(error),
    };
    let mut response = outcome.unwrap_or_else(IntoResponse::into_response);
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, never);
    let line = audit::refused(front, &parts, &response);
    audit::write(front, line).await;
    response
}

async fn serve(front: &Front, parts: &mut Parts, wanted: Wanted) -> Result<Response, ApiError> {
    let access = &front.access;
    if access.has_issuer() {
        let message = "tokens of this registry come from another service";
        return Err(ApiError::not_found(Code::Unsupported, message));
    }
    let service = wanted.query.get("service").unwrap_or_default();
    if !service.is_empty() && service != access.service() {
        let message = "the token is wanted for another service";
        return Err(ApiError::bad_request(Code::Unsupported, message));
    }
    let scopes = scopes(&wanted.query)?;
    let authority = identify(front, parts, &wanted).await?;
    let broken = |error: std::io::Error| ApiError::internal(&error);
    let meanings = |name: &_, action| front.mirror.meanings(name, action == Action::Pull);
    let issued = access.issue(&authority, &scopes, meanings);
    let issued = issued.map_err(broken)?;
    let mut answer = json!({
        "token": issued.token.expose(),
        "access_token": issued.token.expose(),
        "expires_in": TOKEN_LIFE.as_secs(),
        "issued_at": OffsetDateTime::from(issued.at).format(&Rfc3339).unwrap_or_default(),
        "scope": issued.granted.join(" "),
    });
    // Who came with a refresh token keeps that one, and its end: a login without the password must
    // not prolong itself.
    let refresh = match wanted.offline && wanted.refresh.is_none() {
        true => access.issue_refresh(&authority).map_err(broken)?,
        false => None,
    };
    // OAuth 2 clients expect the one that they came with again.
    if let Some(refresh) = refresh.or(wanted.refresh) {
        answer["refresh_token"] = Value::from(refresh.expose());
    }
    let mut line = audit::line(parts, Event::Token, authority.caller().name());
    line.reference = Some(issued.granted.join(" ").chars().take(MAX_SHOWN).collect());
    audit::write(front, Some(line)).await;
    Answer::new(StatusCode::OK).json("application/json", &answer)
}

/// Each parameter is one scope, or several with spaces between them.
fn scopes(query: &Query) -> Result<Vec<Scope>, ApiError> {
    let texts: Vec<&str> = query
        .all("scope")
        .flat_map(str::split_ascii_whitespace)
        .collect();
    if texts.len() > MAX_SCOPES {
        let message = format!("{} scopes, more than {MAX_SCOPES}", texts.len());
        return Err(ApiError::bad_request(Code::Unsupported, message));
    }
    Ok(texts.into_iter().filter_map(Scope::parse).collect())
}

async fn identify(
    front: &Front,
    parts: &mut Parts,
    wanted: &Wanted,
) -> Result<Authority, ApiError> {
    refuse_pages(front, parts)?;
    let access = &front.access;
    access.refresh().await;
    let address = peer::counted(&parts.extensions);
    let identified = match &wanted.refresh {
        Some(token) => access.identify_refresh(token),
        None => access.identify(&wanted.presented, address).await,
    };
    let identified = identified.map_err(|error| {
        let refusal = failed_login(access, parts, &error, address);
        basic(refusal, access.service(), &error)
    })?;
    // A token cannot be prolonged by itself.
    let nobody = identified.caller().is_anonymous() && !access.knows_anonymous();
    if identified.is_narrowed() || nobody {
        let message = "authentication is required";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message);
        return Err(basic(error, access.service(), &LoginError::BadToken));
    }
    parts.extensions.insert(identified.caller().clone());
    let counted = access.count(&identified, address);
    counted.map_err(|wait| super::access::too_many("too many requests", wait))?;
    Ok(identified)
}

/// At the token service a refusal asks for the password, never for a token.
fn basic(error: ApiError, service: &str, cause: &LoginError) -> ApiError {
    match cause {
        _ if error.status() == StatusCode::TOO_MANY_REQUESTS => error,
        LoginError::TooMany { .. } => error,
        _ => error.header(WWW_AUTHENTICATE, format!("Basic realm=\"{service}\"")),
    }
}
