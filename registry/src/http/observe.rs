//! What is seen of every request: an id, a line in the log, counters.
//!
//! [`observe`] stands before all routes. It gives the request its [`RequestId`] and its answer the
//! header; once the last byte of the answer left, or the client went away, it counts the request
//! and logs it. Handlers say what a request was about by a [`Seen`] in the answer's extensions.
//!
//! A log line holds parsed names and words from tables here, never a path or a header as it came,
//! so nobody can write lines of their own into it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use config::name::RepositoryName;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::route::Route;
use super::{Front, is_read};
use crate::metrics::{Answered, Asked, Metrics};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID: usize = 64;

/// What a request is called in the answer, in logs and in events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

/// Ids of one process begin alike, so those of two do not meet.
static PROCESS: LazyLock<String> =
    LazyLock::new(|| crate::store::blobs::random_hex().unwrap_or_default());
static COUNT: AtomicU64 = AtomicU64::new(1);

impl RequestId {
    /// The client's own, where it is 1 to 64 letters, digits, dots, underscores and hyphens; else
    /// a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(Self::new)
    }

    fn parse(text: &str) -> Option<Self> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let good = letters && (1..=MAX_ID).contains(&text.len());
        good.then(|| Self(text.into()))
    }

    fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = PROCESS.get(..12).unwrap_or_default();
        Self(format!("{process}-{count:x}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a request was about; left in the answer's extensions.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The kind of endpoint, for metrics.
    pub(super) endpoint: &'static str,
    pub(super) repository: Option<RepositoryName>,
    /// Who asked.
    pub(super) caller: String,
}

impl Seen {
    /// Of a request to the distribution API; `None` where its path is no endpoint.
    pub(super) fn of(route: Option<&Route>, caller: &str) -> Self {
        Self {
            endpoint: route.map_or("unknown", endpoint),
            repository: route.and_then(Route::repository).cloned(),
            caller: caller.to_owned(),
        }
    }
}

fn endpoint(route: &Route) -> &'static str {
    match route {
        Route::Ping => "ping",
        Route::Catalog => "catalog",
        Route::Blob(..) => "blob",
        Route::Uploads(_) | Route::Upload(..) => "upload",
        Route::Manifest(..) => "manifest",
        Route::Tags(_) => "tags",
        Route::Referrers(..) => "referrers",
    }
}

/// Where the door leaves who asks, and for what, while the request is served: all that is known of
/// one whose answer never comes. In a request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Told {
    template: &'static str,
    seen: Arc<OnceLock<Seen>>,
}

impl Told {
    /// Says it once; a request has one caller.
    pub(super) fn tell(extensions: &http::Extensions) {
        let Some(told) = extensions.get::<Self>() else {
            return;
        };
        let route = extensions.get::<Route>();
        let mut seen = Seen::of(route, super::actor(extensions));
        if route.is_none() {
            seen.endpoint = told.template;
        }
        let _ = told.seen.set(seen);
    }
}

/// Of routes that axum decides, by their template.
fn template(path: Option<&MatchedPath>) -> &'static str {
    match path.map(MatchedPath::as_str) {
        Some(path) if path.starts_with("/api/v1/") => "management",
        Some("/livez" | "/readyz") => "health",
        Some("/metrics") => "metrics",
        Some("/token") => "token",
        _ => "unknown",
    }
}

/// Counts, logs and names a request.
pub(super) async fn observe(
    State(front): State<Front>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let told = Told {
        template: template(request.extensions().get()),
        seen: Arc::default(),
    };
    request.extensions_mut().insert(told.clone());
    let mut record = Record {
        begun: Instant::now(),
        method: request.method().clone(),
        told,
        metrics: Arc::clone(&front.metrics),
        received: Arc::default(),
        sent: 0,
        status: gone(),
        seen: None,
        id,
    };
    if !is_read(request.method()) {
        let received = Arc::clone(&record.received);
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Received { body, received });
    }
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(record.id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    record.seen = response.extensions_mut().remove();
    record.status = response.status();
    follow(record, response)
}

/// The client went away before there was an answer; no status of HTTP says so, but nginx's does.
fn gone() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// An answer that is in memory is counted at once, another when its body ends.
fn follow(mut record: Record, response: Response) -> Response {
    let length = response.body().size_hint().exact();
    match length {
        Some(length) if length <= AT_ONCE => {
            record.sent = length;
            response
        }
        _ => response.map(|body| Body::new(Sent { body, record })),
    }
}

/// Bodies up to this size leave in one piece.
const AT_ONCE: u64 = 64 * 1024;

/// A request and its answer so far. Told when it is dropped: also when the client went away.
#[derive(Debug)]
struct Record {
    begun: Instant,
    method: Method,
    told: Told,
    metrics: Arc<Metrics>,
    received: Arc<AtomicU64>,
    sent: u64,
    status: StatusCode,
    seen: Option<Seen>,
    id: RequestId,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.count();
        self.log();
    }
}

impl Record {
    fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref().or_else(|| self.told.seen.get())
    }

    fn endpoint(&self) -> &'static str {
        self.seen().map_or(self.told.template, |seen| seen.endpoint)
    }

    fn count(&self) {
        let (endpoint, method) = (self.endpoint(), method_name(&self.method));
        let status = class(self.status);
        let answered = Answered {
            endpoint,
            method,
            status,
        };
        let metrics = &self.metrics;
        metrics.requests.get_or_create(&answered).inc();
        let asked = Asked { endpoint, method };
        let seconds = self.begun.elapsed().as_secs_f64();
        metrics.duration.get_or_create(&asked).observe(seconds);
        metrics
            .received
            .inc_by(self.received.load(Ordering::Relaxed));
        metrics.sent.inc_by(self.sent);
    }

    /// Changes and what was refused are of interest; reads, and looks for what is not there, are
    /// many.
    fn log(&self) {
        let milliseconds = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (seen, status) = (self.seen(), self.status.as_u16());
        let repository = seen
            .and_then(|seen| seen.repository.as_ref())
            .map(RepositoryName::as_str);
        macro_rules! tell {
            ($level:ident) => {{
                tracing::$level!(
                    request = self.id.as_str(),
                    method = method_name(&self.method),
                    endpoint = self.endpoint(),
                    repository,
                    status,
                    received = self.received.load(Ordering::Relaxed),
                    sent = self.sent,
                    milliseconds,
                    caller = ?seen.map_or("anonymous", |seen| seen.caller.as_str()),
                    "answered"
                );
            }};
        }
        match self.status {
            status if status.is_server_error() => tell!(warn),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED if is_read(&self.method) => {
                tell!(debug);
            }
            status if status.is_client_error() || !is_read(&self.method) => tell!(info),
            _ => tell!(debug),
        }
    }
}

/// A method for a label: clients can invent any number of them.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 | 2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// A request's body, counted.
struct Received {
    body: Body,
    received: Arc<AtomicU64>,
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.received.fetch_add(bytes, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, counted; its end is the request's end.
struct Sent {
    body: Body,
    record: Record,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_over_only_where_they_are_harmless() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                REQUEST_ID,
                HeaderValue::from_bytes(text.as_bytes()).unwrap(),
            );
            RequestId::of(&headers)
        };
        let long = "a".repeat(64);
        for good in ["a", "0f-1_2.X", &long] {
            assert_eq!(of(good).as_str(), good);
        }
        let longer = "a".repeat(65);
        for bad in ["", "a b", "a\tb", "a\"b", "ä", &longer] {
            assert_ne!(of(bad).as_str(), bad, "{bad:?}");
        }
        let (one, other) = (RequestId::new(), RequestId::new());
        assert_ne!(one, other);
        assert_eq!(RequestId::parse(one.as_str()), Some(one));
    }
}
