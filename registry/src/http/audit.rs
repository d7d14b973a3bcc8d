//! What goes to the audit log of what was served: decided from route, method and status.

use std::sync::Arc;

use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode};

use super::Front;
use super::answer::{CONTENT_DIGEST, text};
use super::error::AccessRefusal;
use super::observe::RequestId;
use super::peer;
use super::route::Route;
use crate::access::audit::{Audit, Event, Line};
use crate::access::{Caller, LoginError};

/// The line about a request of the distribution API and its answer, if there is to be one.
pub(super) fn served(front: &Front, parts: &Parts, response: &Response) -> Option<Line> {
    let audit = front.access.audit()?;
    if let Some(line) = refused(front, parts, response) {
        return Some(line);
    }
    let route = parts.extensions.get::<Route>()?;
    let event = change(audit, route, &parts.method, response.status())?;
    let mut line = about(parts, event, response.status());
    line.digest = text(response.headers(), CONTENT_DIGEST).map(str::to_owned);
    Some(line)
}

/// The line about an answer that refuses for want of rights, if this is one.
pub(super) fn refused(front: &Front, parts: &Parts, response: &Response) -> Option<Line> {
    let known = parts.extensions.get::<LoginError>().is_some();
    let of_access = response.extensions().get::<AccessRefusal>().is_some();
    (known || of_access).then(|| barred(front, parts, response.status()))?
}

/// The line about a refusal of access with this status.
pub(super) fn barred(front: &Front, parts: &Parts, status: StatusCode) -> Option<Line> {
    front.access.audit()?;
    let event = refusal(parts, status)?;
    Some(about(parts, event, status))
}

/// Appends the line, if there is one, on a blocking thread; the answer waits for it.
pub(super) async fn write(front: &Front, line: Option<Line>) {
    let line = line.filter(|_| front.access.audit().is_some());
    let Some(line) = line.and_then(|line| front.access.spare(line)) else {
        return;
    };
    let access = Arc::clone(&front.access);
    let written = tokio::task::spawn_blocking(move || access.note(&line)).await;
    if let Err(error) = written {
        tracing::error!(%error, "a line of the audit log is lost");
    }
}

/// A line about the request, with what is known before it is served.
pub(super) fn line(parts: &Parts, event: Event, caller: &str) -> Line {
    let mut line = Line::new(event, caller);
    line.request = request_id(parts);
    line.address = peer::address(&parts.extensions);
    line
}

fn about(parts: &Parts, event: Event, status: StatusCode) -> Line {
    let claimed = parts.extensions.get::<LoginError>();
    let caller = match (claimed, parts.extensions.get::<Caller>()) {
        (Some(LoginError::Wrong { name }), _) => name.as_str(),
        (_, Some(caller)) => caller.name(),
        _ => "anonymous",
    };
    let mut line = line(parts, event, caller);
    line.status = Some(status.as_u16());
    if let Some(route) = parts.extensions.get::<Route>() {
        line.repository = route.repository().map(ToString::to_string);
        line.reference = match route {
            Route::Manifest(_, target) => Some(target.to_string()),
            Route::Blob(_, digest) | Route::Referrers(_, digest) => Some(digest.to_string()),
            _ => None,
        };
    }
    line
}

/// A 401 to somebody who presented nothing is how every login begins, and no event.
fn refusal(parts: &Parts, status: StatusCode) -> Option<Event> {
    match status {
        StatusCode::UNAUTHORIZED if parts.extensions.get::<LoginError>().is_some() => {
            Some(Event::LoginFailed)
        }
        StatusCode::FORBIDDEN => Some(Event::Denied),
        StatusCode::TOO_MANY_REQUESTS => Some(Event::Limited),
        _ => None,
    }
}

fn change(audit: &Audit, route: &Route, method: &Method, status: StatusCode) -> Option<Event> {
    let pulled = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    match (route, method) {
        (Route::Manifest(..) | Route::Blob(..), &Method::DELETE) => {
            (status == StatusCode::ACCEPTED).then_some(Event::Delete)
        }
        (Route::Manifest(..) | Route::Uploads(_) | Route::Upload(..), _)
            if status == StatusCode::CREATED =>
        {
            Some(Event::Push)
        }
        (Route::Manifest(..) | Route::Blob(..), &Method::GET) if audit.pulls && pulled => {
            Some(Event::Pull)
        }
        _ => None,
    }
}

/// The request's id, as the answer and the log name it.
fn request_id(parts: &Parts) -> Option<String> {
    let id = parts.extensions.get::<RequestId>()?;
    Some(id.as_str().to_owned())
}
