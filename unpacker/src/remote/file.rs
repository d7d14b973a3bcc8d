//! A file by its address, as a Dockerfile's ADD names it: no registry, no credentials.
//!
//! Proxies, authorities, redirects and the stall timeout are those of every other request. What comes
//! is not verified here.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, StatusCode, Url};

use super::client::Remote;
use super::endpoint::Endpoint;
use super::error::RemoteError;
use super::exchange::{Call, Reply};

/// What is known of an earlier answer, so that the server may say that nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    /// An HTTP date, as the server wrote it.
    pub last_modified: Option<String>,
}

/// A file's body, not yet read.
pub struct OpenFile {
    pub validators: Validators,
    reply: Reply,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("validators", &self.validators)
            .finish_non_exhaustive()
    }
}

impl OpenFile {
    /// The next bytes, `None` at the end. Silence is an error after the client's stall time.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        self.reply.chunk().await
    }
}

impl Remote {
    /// Asks for a file once; `None` where the server says that nothing changed since `known`.
    pub async fn open_file(
        &self,
        address: &str,
        known: &Validators,
    ) -> Result<Option<OpenFile>, RemoteError> {
        let url = Url::parse(address).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = url.ok_or_else(|| RemoteError::Protocol {
            host: "ADD".to_owned(),
            // It may hold a password, wherever it is wrong.
            problem: "this is not an address of http or https".to_owned(),
        })?;
        let endpoint = Endpoint::of_file(&url);
        // Without the query, which may be as good as a password.
        let what = url.path().to_owned();
        let mut call = Call::new(Method::GET, url);
        // Archives are to come as they are.
        let identity = HeaderValue::from_static("identity");
        call.headers.insert(ACCEPT_ENCODING, identity);
        let conditions = [
            (IF_NONE_MATCH, &known.etag),
            (IF_MODIFIED_SINCE, &known.last_modified),
        ];
        for (name, value) in conditions {
            let value = value.as_deref().map(HeaderValue::from_str);
            if let Some(Ok(value)) = value {
                call.headers.insert(name, value);
            }
        }
        let reply = self.exchange(&endpoint, &what, call).await?;
        match reply.status() {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => Ok(Some(opened(reply))),
            _ => Err(reply.into_error().await),
        }
    }
}

fn opened(reply: Reply) -> OpenFile {
    let text = |name: HeaderName| reply.header(name).map(str::to_owned);
    OpenFile {
        validators: Validators {
            etag: text(ETAG),
            last_modified: text(LAST_MODIFIED),
        },
        reply,
    }
}
