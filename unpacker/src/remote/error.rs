//! What can go wrong with a remote registry, by class of what the user can do about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::LookupError;
use crate::digest::Digest;

/// `host` is the registry as the reference names it; `what` the thing asked for
/// (`library/alpine:latest`, `blob sha256:… of library/alpine`).
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot reach {host} for {what}")]
    Network {
        host: String,
        what: String,
        source: reqwest::Error,
    },
    #[error("{host} sent or took nothing of {what} for {} seconds", after.as_secs())]
    Stalled {
        host: String,
        what: String,
        after: Duration,
    },
    #[error("{host} closed the connection after {received} of {expected} bytes of {what}")]
    Interrupted {
        host: String,
        what: String,
        received: u64,
        expected: u64,
    },
    #[error(
        "{host} cannot answer for {what} now (status {status}){}",
        says(message)
    )]
    Busy {
        host: String,
        what: String,
        status: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    #[error(
        "{host} wants a login for {what}, or it does not exist there; looked for credentials in {}; \
         run `devpod login {host}`, or set DOCKER_USERNAME and DOCKER_PASSWORD (with \
         DOCKER_REGISTRY={host})",
        looked.join(", ")
    )]
    LoginNeeded {
        host: String,
        what: String,
        looked: Vec<String>,
    },
    #[error(
        "{host} refused the credentials of {from} for {what}{}; run `devpod login {host}`",
        says(message)
    )]
    LoginRefused {
        host: String,
        what: String,
        from: String,
        message: String,
    },
    #[error(
        "{host} denies {what}{}; the account has no right to it",
        says(message)
    )]
    Denied {
        host: String,
        what: String,
        message: String,
    },
    #[error("{what} does not exist on {host}")]
    NotFound { host: String, what: String },
    #[error("{host} sent other bytes for {what}: expected {expected}, got {actual}")]
    DigestMismatch {
        host: String,
        what: String,
        expected: Digest,
        actual: String,
    },
    #[error("{host} sends {actual} bytes for {what}, which has {expected}")]
    SizeMismatch {
        host: String,
        what: String,
        expected: u64,
        actual: u64,
    },
    #[error("{what} of {host} is larger than {limit} bytes")]
    TooLarge {
        host: String,
        what: String,
        limit: u64,
    },
    #[error("{host} refused {what} with status {status}{}", says(message))]
    Refused {
        host: String,
        what: String,
        status: u16,
        message: String,
    },
    #[error(
        "{what} of {host} is a manifest of docker's schema version 1, which is not supported; push the image \
         again with a current tool"
    )]
    SchemaOne { host: String, what: String },
    #[error("{host} breaks the distribution protocol: {problem}")]
    Protocol { host: String, problem: String },
    #[error("cannot look up credentials for {host}")]
    Credentials { host: String, source: LookupError },
    #[error("cannot connect to {host}")]
    Setup { host: String, source: SetupError },
    #[error("cannot use the content store for {what}")]
    Content { what: String, source: io::Error },
}

fn says(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// The client itself could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SetupError {
    #[error("cannot read the certificate or key {path}")]
    CaFile {
        path: String,
        source: Arc<io::Error>,
    },
    #[error("{path} holds no PEM certificate")]
    CaPem { path: String },
    #[error("cannot look into {path} for certificates")]
    Folder {
        path: String,
        source: Arc<io::Error>,
    },
    #[error("{certificate} and {key} are not a PEM certificate and its key")]
    Identity { certificate: String, key: String },
    #[error("the {kind} proxy is not an http or https address")]
    Proxy { kind: &'static str },
    #[error("cannot set up HTTPS")]
    Client { source: Arc<reqwest::Error> },
}

impl RemoteError {
    /// Whether the same request may well succeed a little later.
    pub fn retriable(&self) -> bool {
        match self {
            // A request that could not even be built will not be built the next time.
            Self::Network { source, .. } => !source.is_builder(),
            Self::Stalled { .. } | Self::Interrupted { .. } | Self::Busy { .. } => true,
            _ => false,
        }
    }

    /// What the server asked to wait at least.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
