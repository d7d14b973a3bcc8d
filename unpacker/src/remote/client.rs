//! The registry client: its options, and a request with its authorization.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::registry::upstream::Address;
use reqwest::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use reqwest::{Client, Method, StatusCode, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::attempts::Attempts;
use super::auth::{Auth, Authorization, Scope};
use super::challenge;
use super::clock::{Clock, SystemClock};
use super::credentials::Credentials;
use super::endpoint::{Endpoint, Schemes};
use super::error::{RemoteError, SetupError};
use super::exchange::{Call, Reply};
use super::mirrors::Mirrors;
use super::transport::{Certificates, Proxies, Transport};
use crate::progress::Progress;

/// How to talk to registries. The defaults suit the internet and a registry on loopback.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts (with port) that speak plain HTTP. Loopback does without being listed.
    pub plain_http: Vec<String>,
    /// Loopback hosts (with port) that speak TLS nevertheless.
    pub tls: Vec<String>,
    /// PEM files with certificates to trust beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// Certificates of single hosts (with port).
    pub certificates: HashMap<String, Certificates>,
    /// Folders such as `/etc/docker/certs.d`, with a folder for each host that has certificates.
    pub certificate_folders: Vec<PathBuf>,
    pub proxies: Proxies,
    /// Places that are asked before a registry, by its host.
    pub mirrors: HashMap<String, Vec<Address>>,
    pub user_agent: String,
    /// Blobs on their way at the same time, over all pulls and pushes of this client.
    pub transfers: usize,
    /// A request is given up when nothing moves for so long.
    pub stall: Duration,
    pub connect_timeout: Duration,
    /// Attempts after the first one.
    pub retries: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            tls: Vec::new(),
            ca_files: Vec::new(),
            certificates: HashMap::new(),
            certificate_folders: Vec::new(),
            proxies: Proxies::default(),
            mirrors: HashMap::new(),
            user_agent: concat!("devpod/", env!("CARGO_PKG_VERSION")).to_owned(),
            transfers: 4,
            stall: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(30),
            retries: 3,
        }
    }
}

/// How a registry let us in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It asked who we are, and our credentials were good.
    Proved,
    /// It asked nothing.
    Open,
}

/// A client for all registries. Clones share connections, tokens and the transfer limit.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Transport,
    mirrors: Mirrors,
    schemes: Schemes,
    stall: Duration,
    retries: u32,
    auth: Auth,
    clock: Arc<dyn Clock>,
    transfers: Semaphore,
}

impl Remote {
    /// [`install_crypto`](super::install_crypto) must have been called before.
    pub fn new(options: Options, credentials: Arc<dyn Credentials>) -> Result<Self, SetupError> {
        Self::with_clock(options, credentials, Arc::new(SystemClock))
    }

    /// As [`Remote::new`], with another idea of time.
    pub fn with_clock(
        options: Options,
        credentials: Arc<dyn Credentials>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let mut schemes = Schemes {
            plain: options.plain_http.clone(),
            tls: options.tls.clone(),
        };
        schemes.learn(options.mirrors.values().flatten());
        let inner = Inner {
            transport: Transport::new(&options)?,
            mirrors: Mirrors::new(options.mirrors),
            stall: options.stall,
            retries: options.retries,
            auth: Auth::new(credentials),
            clock,
            transfers: Semaphore::new(options.transfers.max(1)),
            schemes,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether `host` is a registry that lets us in: what `devpod login` asks before it keeps anything
    /// (distribution-spec end-1).
    pub async fn ping(&self, host: &str, progress: &dyn Progress) -> Result<Entry, RemoteError> {
        let mut attempts = self.attempts(progress);
        loop {
            match self.enter(host).await {
                Ok(entry) => return Ok(entry),
                Err(error) => attempts.after(error).await?,
            }
        }
    }

    async fn enter(&self, host: &str) -> Result<Entry, RemoteError> {
        let endpoint = self.endpoint(host)?;
        let what = "its API";
        let call = Call::new(Method::GET, endpoint.ping());
        // First as a stranger: some let everybody in, and then nothing is known about a password.
        let reply = self.exchange(&endpoint, what, call.clone()).await?;
        if reply.status().is_success() {
            return Ok(Entry::Open);
        }
        let scope = Scope {
            repository: String::new(),
            push: false,
            mount_from: None,
        };
        self.request(&endpoint, &scope, what, call).await?;
        Ok(Entry::Proved)
    }

    /// The HTTP client for an address, on behalf of the registry `host`.
    pub(super) fn http(&self, host: &str, url: &Url) -> Result<Client, RemoteError> {
        let client = self.inner.transport.client(url);
        client.map_err(|source| RemoteError::Setup {
            host: host.to_owned(),
            source,
        })
    }

    pub(super) fn known_mirrors(&self) -> &Mirrors {
        &self.inner.mirrors
    }

    pub(super) fn stall(&self) -> Duration {
        self.inner.stall
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    pub(super) fn endpoint(&self, host: &str) -> Result<Endpoint, RemoteError> {
        self.inner.schemes.endpoint(host)
    }

    pub(super) fn attempts<'a>(&'a self, progress: &'a dyn Progress) -> Attempts<'a> {
        Attempts::new(self.clock(), progress, self.inner.retries)
    }

    /// The right to move one blob. The semaphore is never closed, so there is always one coming.
    pub(crate) async fn transfer(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.transfers.acquire().await.ok()
    }

    /// Sends with authorization. A status that is no success is an error.
    pub(super) async fn request(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        what: &str,
        call: Call,
    ) -> Result<Reply, RemoteError> {
        let reply = self.authorized(endpoint, scope, what, call).await?;
        if reply.status().is_success() {
            Ok(reply)
        } else {
            Err(reply.into_error().await)
        }
    }

    /// Sends, answers one challenge, and sends again.
    async fn authorized(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        what: &str,
        call: Call,
    ) -> Result<Reply, RemoteError> {
        if !endpoint.owns(&call.url) {
            return self.exchange(endpoint, what, call).await;
        }
        let auth = &self.inner.auth;
        let known = auth.known(self, endpoint, scope).await?;
        let reply = self
            .exchange(endpoint, what, with(&call, known.as_ref()))
            .await?;
        // A place that the registry sent us on to has no say about the registry's credentials.
        if reply.status() != StatusCode::UNAUTHORIZED || !reply.own {
            return Ok(reply);
        }
        auth.forget(endpoint, scope);
        let Some(challenge) = challenge_of(&reply) else {
            return Err(RemoteError::Protocol {
                host: endpoint.host.clone(),
                problem: "status 401 without a Basic or Bearer challenge".to_owned(),
            });
        };
        let authorization = auth.answer(self, endpoint, scope, challenge).await?;
        let call = with(&call, Some(&authorization));
        let reply = self.exchange(endpoint, what, call).await?;
        if reply.status() == StatusCode::UNAUTHORIZED && reply.own {
            auth.forget(endpoint, scope);
            return Err(refused(endpoint, what, authorization, reply).await);
        }
        Ok(reply)
    }
}

fn with(call: &Call, authorization: Option<&Authorization>) -> Call {
    let mut call = call.clone();
    if let Some(authorization) = authorization {
        let value = authorization.value.clone();
        call.headers.insert(AUTHORIZATION, value);
    }
    call
}

fn challenge_of(reply: &Reply) -> Option<challenge::Challenge> {
    let headers = reply.headers().get_all(WWW_AUTHENTICATE).iter();
    let headers = headers.filter_map(|value| value.to_str().ok());
    challenge::choose(headers.flat_map(challenge::parse).collect())
}

async fn refused(
    endpoint: &Endpoint,
    what: &str,
    authorization: Authorization,
    mut reply: Reply,
) -> RemoteError {
    let message = reply.message().await;
    let (host, what) = (endpoint.host.clone(), what.to_owned());
    match authorization.from {
        Some(from) => RemoteError::LoginRefused {
            host,
            what,
            from,
            message,
        },
        // An anonymous token was not enough.
        None => RemoteError::LoginNeeded {
            host,
            what,
            looked: authorization.looked,
        },
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("schemes", &self.inner.schemes)
            .field("auth", &self.inner.auth)
            .finish_non_exhaustive()
    }
}
