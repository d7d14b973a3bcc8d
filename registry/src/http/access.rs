//! Access at the door: the Authorization header becomes a caller, and what the caller may not do
//! becomes a 401 with a challenge, a 403 or a 429.
//!
//! A nameless caller is challenged alike for what is there and what is not; a named one is denied
//! alike. Nothing that a client sent gets into a challenge but names that were parsed, and a host
//! whose every character is one of a host's.

use std::net::IpAddr;
use std::time::Duration;

use config::name::RepositoryName;
use config::registry::access::Challenge;
use http::header::{AUTHORIZATION, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use super::Front;
use super::answer::text;
use super::browser::refuse_pages;
use super::error::{ApiError, Code};
use super::observe;
use super::peer::{self, Secure};
use super::query::Query;
use super::route::{self, Route};
use super::scope::{self, Asking, Scoped, Told};
use super::tls::ClientCertificate;
use crate::access::{
    Access, Action, Authority, CATALOG_SCOPE, Caller, LoginError, Presented, Verdict, needed,
};

/// Lets the request in, or refuses it. The caller, and which repository is meant, are in its
/// extensions then.
pub(super) async fn admit(
    front: &Front,
    parts: &mut Parts,
    asking: Asking,
) -> Result<(Asker, Scoped), ApiError> {
    let (route, told) = asking.told();
    parts.extensions.insert(route);
    parts.extensions.insert(told);
    let identified = identify(front, parts).await;
    let authority = identified.inspect_err(|refusal| decided(front, Some(refusal)))?;
    let asker = Asker::new(front, authority);
    let scoped = scope::of(front, asking, asker.clone(), &parts.method).await?;
    // For the audit, which comes when the route has been served.
    parts.extensions.insert(scoped.route.clone());
    let checked = check(&front.access, &asker.authority, parts, &scoped.route);
    decided(front, checked.as_ref().err());
    checked.map(|()| (asker, scoped))
}

fn decided(front: &Front, refusal: Option<&ApiError>) {
    front.metrics.decided(match refusal.map(ApiError::status) {
        None => "allowed",
        Some(StatusCode::TOO_MANY_REQUESTS) => "limited",
        Some(_) => "denied",
    });
}

/// Who sends the request, counted against the rate limit.
pub(super) async fn identify(front: &Front, parts: &mut Parts) -> Result<Authority, ApiError> {
    refuse_pages(front, parts)?;
    let access = &front.access;
    access.refresh().await;
    let address = peer::counted(&parts.extensions);
    let presented = presented(&parts.headers);
    let identified = match (&presented, parts.extensions.get::<ClientCertificate>()) {
        (Presented::Nothing, Some(client)) => Ok(Authority::by_certificate(&client.name)),
        _ => access.identify(&presented, address).await,
    };
    let authority = identified.map_err(|error| failed_login(access, parts, &error, address))?;
    let authority = match front.readers {
        Some(readers) if address.to_canonical() == readers.address => {
            authority.reading(readers.why)
        }
        _ => authority,
    };
    parts.extensions.insert(authority.caller().clone());
    observe::Told::tell(&parts.extensions);
    let counted = access.count(&authority, address);
    counted.map_err(|wait| too_many("too many requests", wait))?;
    Ok(authority)
}

/// The door of the management API: whether the caller may do this to a repository, or with `None`
/// to the registry as a whole. Answers who it is.
pub(super) async fn admit_to(
    front: &Front,
    parts: &mut Parts,
    action: Action,
    repository: Option<&RepositoryName>,
) -> Result<Authority, ApiError> {
    let admitted = admit_anywhere(front, parts, action, repository).await;
    decided(front, admitted.as_ref().err());
    admitted
}

async fn admit_anywhere(
    front: &Front,
    parts: &mut Parts,
    action: Action,
    repository: Option<&RepositoryName>,
) -> Result<Authority, ApiError> {
    let authority = identify(front, parts).await?;
    let allowed = match repository {
        Some(name) => front.access.may(&authority, action, name) == Verdict::Allowed,
        None => front.access.may_everywhere(&authority, action),
    };
    if allowed {
        return Ok(authority);
    }
    let scope = repository.map(|name| needed(action, name));
    Err(forbidden(
        &front.access,
        &authority,
        action,
        parts,
        scope.as_deref(),
    ))
}

/// Whether the caller who was let in has a name.
pub(super) fn named(front: &Front, parts: &Parts) -> Result<(), ApiError> {
    match parts.extensions.get::<Caller>() {
        Some(caller) if !caller.is_anonymous() => Ok(()),
        _ => Err(unauthorized(&front.access, parts, None, None)),
    }
}

fn check(
    access: &Access,
    authority: &Authority,
    parts: &Parts,
    route: &Route,
) -> Result<(), ApiError> {
    let Some(repository) = route.repository() else {
        return check_listing(access, authority, parts, route);
    };
    let action = action(route, &parts.method);
    // As the client wrote it; the route may have been renamed since.
    let written = route::parse(parts.uri.path()).ok();
    let asked = written.as_ref().and_then(Route::repository);
    let asked = asked.unwrap_or(repository);
    match access.may_as(authority, action, repository, asked) {
        Verdict::Allowed => check_source(access, authority, parts, route),
        Verdict::TokenTooNarrow => Err(too_narrow(access, parts, &told(parts, action))),
        Verdict::Forbidden => {
            let scope = told(parts, action);
            Err(forbidden(access, authority, action, parts, Some(&scope)))
        }
    }
}

/// A token that was asked for without the source of a mount: the client may ask again for both. A
/// source that the caller may not read is as one that is not there, and no error.
fn check_source(
    access: &Access,
    authority: &Authority,
    parts: &Parts,
    route: &Route,
) -> Result<(), ApiError> {
    let Route::Uploads(_) = route else {
        return Ok(());
    };
    let query = Query::parse(parts.uri.query());
    let source = query
        .get("mount")
        .and_then(|_| query.get("from")?.parse().ok());
    let Some(source) = source else {
        return Ok(());
    };
    match access.may(authority, Action::Pull, &source) {
        Verdict::TokenTooNarrow => {
            let target = told(parts, Action::Push);
            let scopes = format!("{target} {}", needed(Action::Pull, &source));
            Err(too_narrow(access, parts, &scopes))
        }
        _ => Ok(()),
    }
}

/// The ping tells a client how to log in, so only a caller with a name passes it where others are
/// treated differently. The catalog shows what the caller may pull.
fn check_listing(
    access: &Access,
    authority: &Authority,
    parts: &Parts,
    route: &Route,
) -> Result<(), ApiError> {
    // A short-lived token is an answer to the challenge, even that of a nameless caller.
    let answered = !authority.caller().is_anonymous() || authority.is_narrowed();
    match route {
        Route::Ping if access.is_open() || answered => Ok(()),
        Route::Ping => Err(unauthorized(access, parts, None, None)),
        _ if !answered && !access.knows_anonymous() => {
            Err(unauthorized(access, parts, Some(CATALOG_SCOPE), None))
        }
        _ => match access.may_list(authority) {
            Verdict::Allowed => Ok(()),
            _ => Err(too_narrow(access, parts, CATALOG_SCOPE)),
        },
    }
}

/// The scope of a challenge: it names what the request may have meant, whatever is here.
fn told(parts: &Parts, action: Action) -> String {
    let names = parts.extensions.get::<Told>().into_iter();
    let scopes = names.flat_map(|told| &told.0);
    let scopes: Vec<_> = scopes.map(|name| needed(action, name)).collect();
    scopes.join(" ")
}

/// What a request does to its repository. A method that means nothing is refused later, but not to
/// somebody who may not even read.
fn action(route: &Route, method: &Method) -> Action {
    match (route, method) {
        (Route::Uploads(_) | Route::Upload(..), _) => Action::Push,
        (_, &Method::GET | &Method::HEAD) => Action::Pull,
        (Route::Manifest(..) | Route::Blob(..), &Method::DELETE) => Action::Delete,
        (Route::Manifest(..), &Method::PUT) => Action::Push,
        _ => Action::Pull,
    }
}

/// Reads `Authorization` (RFC 9110, section 11.6.2). Two of them are not guessed between.
pub(super) fn presented(headers: &HeaderMap) -> Presented {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Presented::Nothing;
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let credentials = text.and_then(|text| text.split_once(' '));
    let Some((scheme, credentials)) = credentials else {
        return Presented::Unreadable;
    };
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("basic") {
        return basic(credentials).unwrap_or(Presented::Unreadable);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Presented::Bearer(config::credentials::Secret::new(credentials));
    }
    Presented::Unreadable
}

fn basic(credentials: &str) -> Option<Presented> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(credentials);
    let text = String::from_utf8(bytes.ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Presented::Basic {
        user: user.to_owned(),
        password: config::credentials::Secret::new(password),
    })
}

// Refusals.

/// Notes a login that failed. It counts as a request of its address, whoever it claimed to be.
pub(super) fn failed_login(
    access: &Access,
    parts: &mut Parts,
    error: &LoginError,
    address: IpAddr,
) -> ApiError {
    parts.extensions.insert(error.clone());
    match access.count_failure(address) {
        Ok(()) => not_logged_in(access, parts, error),
        Err(wait) => too_many("too many requests", wait),
    }
}

/// A refused login, as the token service and the other routes word it.
fn not_logged_in(access: &Access, parts: &Parts, error: &LoginError) -> ApiError {
    match error {
        LoginError::TooMany { wait } => too_many(&error.to_string(), *wait),
        LoginError::BadToken => {
            // A client whose token has just expired must learn what to ask a new one for.
            let route = parts.extensions.get::<Route>();
            let route = route.filter(|route| route.repository().is_some());
            let scope = route.map(|route| told(parts, action(route, &parts.method)));
            unauthorized(access, parts, scope.as_deref(), Some("invalid_token"))
        }
        LoginError::Wrong { .. } => unauthorized(access, parts, None, None),
    }
}

fn forbidden(
    access: &Access,
    authority: &Authority,
    action: Action,
    parts: &Parts,
    scope: Option<&str>,
) -> ApiError {
    let reads_only = authority.reads_only().filter(|_| action != Action::Pull);
    // No name helps somebody who may only read.
    if authority.caller().is_anonymous() && reads_only.is_none() {
        return unauthorized(access, parts, scope, None);
    }
    let message = reads_only.unwrap_or("you may not do this");
    ApiError::new(StatusCode::FORBIDDEN, Code::Denied, message).of_access()
}

fn too_narrow(access: &Access, parts: &Parts, scope: &str) -> ApiError {
    unauthorized(access, parts, Some(scope), Some("insufficient_scope"))
}

fn unauthorized(
    access: &Access,
    parts: &Parts,
    scope: Option<&str>,
    error: Option<&str>,
) -> ApiError {
    let challenge = challenge(access, parts, scope, error);
    let message = "authentication is required, or was not enough";
    ApiError::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
        .header(WWW_AUTHENTICATE, challenge)
}

/// `WWW-Authenticate` (RFC 7617; Docker token specification).
fn challenge(access: &Access, parts: &Parts, scope: Option<&str>, error: Option<&str>) -> String {
    let service = access.service();
    let realm = match (access.challenge(), access.realm()) {
        (Challenge::Basic, _) => None,
        (Challenge::Token, Some(realm)) => Some(realm.to_owned()),
        (Challenge::Token, None) => own_realm(parts),
    };
    let Some(realm) = realm else {
        return format!("Basic realm=\"{service}\"");
    };
    let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
    for (name, value) in [("scope", scope), ("error", error)] {
        if let Some(value) = value {
            challenge.push_str(&format!(",{name}=\"{value}\""));
        }
    }
    challenge
}

/// `/token` at the address by which the client reached us.
fn own_realm(parts: &Parts) -> Option<String> {
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => text(&parts.headers, HOST)?,
    };
    let of_a_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if host.is_empty() || host.len() > 260 || !host.chars().all(of_a_host) {
        return None;
    }
    let scheme = match parts.extensions.get::<Secure>() {
        Some(_) => "https",
        None => "http",
    };
    Some(format!("{scheme}://{host}/token"))
}

pub(super) fn too_many(message: &str, wait: Duration) -> ApiError {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    let status = StatusCode::TOO_MANY_REQUESTS;
    ApiError::new(status, Code::TooManyRequests, message)
        .header(RETRY_AFTER, seconds.to_string())
        .of_access()
}

/// An immutable tag stands against it.
pub(super) fn held(tag: &str) -> ApiError {
    let message = format!("tag {tag} is immutable");
    ApiError::new(StatusCode::FORBIDDEN, Code::Denied, message).of_access()
}

/// What a handler may ask about its caller while it works on a blocking thread.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    access: std::sync::Arc<Access>,
    authority: Authority,
}

impl Asker {
    pub(super) fn new(front: &Front, authority: Authority) -> Self {
        let access = std::sync::Arc::clone(&front.access);
        Self { access, authority }
    }

    /// Whether the caller may see and do everything, so that nothing needs to be asked.
    pub(super) fn sees_all(&self) -> bool {
        self.access.is_open()
    }

    pub(super) fn may_pull(&self, repository: &RepositoryName) -> bool {
        self.access.may(&self.authority, Action::Pull, repository) == Verdict::Allowed
    }

    pub(super) fn shows(&self, repository: &RepositoryName) -> bool {
        self.access.shows(&self.authority, repository)
    }

    /// The tags that this caller may not delete.
    pub(super) fn kept(&self, repository: &RepositoryName) -> crate::access::immutable::Immutable {
        let admin = self
            .access
            .may_delete_immutable(&self.authority, repository);
        if admin {
            return Default::default();
        }
        self.access.immutable().clone()
    }

    /// The tags that do not move, for anybody.
    pub(super) fn unmoved(&self) -> &crate::access::immutable::Immutable {
        self.access.immutable()
    }
}
