//! One request and its answer: redirects followed by hand, a timeout that only silence triggers,
//! and the one table from status codes to errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use super::attempts::parse_retry_after;
use super::client::Remote;
use super::endpoint::Endpoint;
use super::error::RemoteError;
use super::upload::BlobBody;

const MAX_REDIRECTS: usize = 10;
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// What of a server's words is passed on to people.
const MAX_MESSAGE: usize = 300;

/// What to send. Sending consumes it; whoever may send again keeps a clone.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

#[derive(Debug, Clone)]
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    /// Streamed from the content store; every send starts at the first byte.
    Blob(BlobBody),
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(super) struct Reply {
    response: Response,
    host: String,
    what: String,
    stall: Duration,
    retry_after: Option<Duration>,
    /// Whether the answer is the registry's own and not that of a place it sent us on to.
    pub(super) own: bool,
}

impl Call {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        }
    }

    fn may_be_redirected(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

impl Remote {
    /// Sends `call`, for `endpoint` and `what` in the words of errors. Any status is an answer.
    pub(super) async fn exchange(
        &self,
        endpoint: &Endpoint,
        what: &str,
        mut call: Call,
    ) -> Result<Reply, RemoteError> {
        let first = call.url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(endpoint, what, call.clone()).await?;
            let Some(next) = redirect(endpoint, &call, &response)? else {
                let own = call.url.origin() == first;
                return Ok(self.reply(endpoint, what, response, own));
            };
            if next.origin() != call.url.origin() {
                // Gone for good: a redirect back must not bring it out again.
                call.headers.remove(AUTHORIZATION);
            }
            call.url = next;
        }
        Err(RemoteError::Protocol {
            host: endpoint.host.clone(),
            problem: format!("more than {MAX_REDIRECTS} redirects for {what}"),
        })
    }

    async fn send_once(
        &self,
        endpoint: &Endpoint,
        what: &str,
        call: Call,
    ) -> Result<Response, RemoteError> {
        let http = self.http(&endpoint.host, &call.url)?;
        let request = http.request(call.method, call.url);
        let request = request.headers(call.headers);
        let (request, sent) = match call.payload {
            Payload::Empty => (request, Arc::default()),
            Payload::Bytes(bytes) => (request.body(bytes), Arc::default()),
            Payload::Blob(blob) => {
                let body = blob.stream().await;
                let body = body.map_err(|source| RemoteError::Content {
                    what: what.to_owned(),
                    source,
                })?;
                let request = request.header(CONTENT_LENGTH, blob.name.size);
                (request.body(body), blob.sent)
            }
        };
        let stall = self.stall();
        match unless_silent(request.send(), &sent, stall).await {
            Some(response) => response.map_err(|source| network(&endpoint.host, what, source)),
            None => Err(stalled(&endpoint.host, what, stall)),
        }
    }

    fn reply(&self, endpoint: &Endpoint, what: &str, response: Response, own: bool) -> Reply {
        let header = response.headers().get(RETRY_AFTER);
        let header = header.and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|text| parse_retry_after(text, self.clock().wall()));
        Reply {
            response,
            host: endpoint.host.clone(),
            what: what.to_owned(),
            stall: self.stall(),
            retry_after,
            own,
        }
    }
}

/// Where a redirect leads, or `None` when the response is the answer.
fn redirect(
    endpoint: &Endpoint,
    call: &Call,
    response: &Response,
) -> Result<Option<Url>, RemoteError> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !redirects || !call.may_be_redirected() {
        return Ok(None);
    }
    let problem = |problem: String| RemoteError::Protocol {
        host: endpoint.host.clone(),
        problem,
    };
    let location = response.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| call.url.join(location).ok());
    let next = next.ok_or_else(|| problem("a redirect that leads nowhere".to_owned()))?;
    let stays_safe = next.scheme() == "https" || call.url.scheme() == "http";
    if !endpoint.may_lead_to(&next) || !stays_safe {
        let host = next.host_str().unwrap_or_default();
        return Err(problem(format!(
            "a redirect from https to {} ({host})",
            next.scheme()
        )));
    }
    Ok(Some(next))
}

/// `None` when `stall` passed without an answer and without `moved` moving.
async fn unless_silent<T>(
    future: impl Future<Output = T>,
    moved: &AtomicU64,
    stall: Duration,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        if let Ok(output) = tokio::time::timeout(stall, &mut future).await {
            return Some(output);
        }
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return None;
        }
        seen = now;
    }
}

fn network(host: &str, what: &str, source: reqwest::Error) -> RemoteError {
    RemoteError::Network {
        host: host.to_owned(),
        what: what.to_owned(),
        // Upload and redirect addresses carry signatures that are as good as passwords.
        source: source.without_url(),
    }
}

fn stalled(host: &str, what: &str, after: Duration) -> RemoteError {
    RemoteError::Stalled {
        host: host.to_owned(),
        what: what.to_owned(),
        after,
    }
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; one that is not text counts as absent.
    pub(super) fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        let value = self.response.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    }

    /// The address that answered, for a relative `Location`.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece of the body, `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RemoteError> {
        match tokio::time::timeout(self.stall, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|source| network(&self.host, &self.what, source)),
            Err(_) => Err(stalled(&self.host, &self.what, self.stall)),
        }
    }

    /// The whole body, which may not be longer than `limit`.
    pub(super) async fn read(&mut self, limit: u64) -> Result<Vec<u8>, RemoteError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(RemoteError::TooLarge {
                    host: self.host.clone(),
                    what: self.what.clone(),
                    limit,
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The server's own words about an error, cut and cleaned for a terminal.
    pub(super) async fn message(&mut self) -> String {
        let body = self.read(MAX_ERROR_BODY).await.unwrap_or_default();
        message_of(&body)
    }

    /// What a status that is no success means.
    pub(super) async fn into_error(mut self) -> RemoteError {
        let status = self.status();
        let message = self.message().await;
        let (host, what) = (self.host, self.what);
        match status.as_u16() {
            401 | 403 => RemoteError::Denied {
                host,
                what,
                message,
            },
            404 => RemoteError::NotFound { host, what },
            408 | 429 | 500..=599 => RemoteError::Busy {
                host,
                what,
                status: status.as_u16(),
                message,
                retry_after: self.retry_after,
            },
            status => RemoteError::Refused {
                host,
                what,
                status,
                message,
            },
        }
    }
}

/// `errors[].message` of the distribution specification ("Error Codes"), else nothing: an HTML
/// page helps nobody.
fn message_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let texts = body.errors.into_iter().map(|entry| {
        if entry.message.is_empty() {
            entry.code
        } else {
            entry.message
        }
    });
    let text: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
    let clean = text.join("; ");
    let clean = clean.chars().filter(|c| !c.is_control());
    clean.take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_server_are_cut_and_cleaned() {
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(1000));
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"},{"code":"X"}]}"#,
                "no[31m way; X".to_owned(),
            ),
            ("<html>", String::new()),
            (r#"{"errors":[]}"#, String::new()),
            (&*long, "x".repeat(MAX_MESSAGE)),
        ] {
            assert_eq!(message_of(body.as_bytes()), expected);
        }
    }
}
