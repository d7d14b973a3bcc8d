//! From a challenge to an `Authorization` header.
//!
//! Sources: distribution project's token specification (GET) and OAuth 2 (POST with a refresh
//! token). Headers are kept per host and scope until they expire; a host's kind of challenge is
//! kept too, so that only the first request to it is refused once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::credentials::{Credential, Secret};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::client::Remote;
use super::credentials::{Answer, Credentials};
use super::endpoint::Endpoint;
use super::error::RemoteError;
use super::exchange::{Call, Payload};

/// A token without `expires_in` lives this long (token specification).
const DEFAULT_LIFE: u64 = 60;
/// A token is renewed this long before its end, so that no request leaves with a dying one.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a password is used before the credentials are looked up again.
const PASSWORD_LIFE: Duration = Duration::from_secs(300);
const MAX_LIFE: u64 = 24 * 3600;
const MAX_TOKEN_ANSWER: u64 = 1024 * 1024;
/// One pull has a handful of scopes; a daemon that met more than this forgets and asks again.
const MAX_KEPT: usize = 1024;

/// What a request needs to be allowed: `pull` or `pull,push` on one repository, perhaps `pull` on
/// another to mount from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) repository: String,
    pub(super) push: bool,
    pub(super) mount_from: Option<String>,
}

impl Scope {
    fn texts(&self) -> Vec<String> {
        if self.repository.is_empty() {
            return Vec::new();
        }
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        let from = self.mount_from.as_ref();
        let from = from.map(|from| format!("repository:{from}:pull"));
        std::iter::once(own).chain(from).collect()
    }
}

/// The credentials' keeper of one client.
pub(super) struct Auth {
    credentials: Arc<dyn Credentials>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    challenges: HashMap<String, Challenge>,
    headers: HashMap<(String, Scope), Header>,
}

#[derive(Clone)]
struct Header {
    value: HeaderValue,
    until: Instant,
    /// Whether a credential stands behind it, and where that was found.
    from: Option<String>,
}

/// A header and whose it is: `None` is an anonymous token.
pub(super) struct Authorization {
    pub(super) value: HeaderValue,
    pub(super) from: Option<String>,
    /// The places that were asked, where this is fresh.
    pub(super) looked: Vec<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

struct Token {
    value: HeaderValue,
    life: Duration,
}

impl Auth {
    pub(super) fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            credentials,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change is one insertion or removal, so a poisoned map is still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header to start with: one kept, or one for the challenge that the host is known for.
    pub(super) async fn known(
        &self,
        remote: &Remote,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Authorization>, RemoteError> {
        let key = (endpoint.host.clone(), scope.clone());
        let now = remote.clock().now();
        let challenge = {
            let kept = self.kept();
            if let Some(header) = kept.headers.get(&key).filter(|h| h.until > now) {
                return Ok(Some(Authorization {
                    value: header.value.clone(),
                    from: header.from.clone(),
                    looked: Vec::new(),
                }));
            }
            kept.challenges.get(&endpoint.host).cloned()
        };
        match challenge {
            Some(challenge) => self
                .answer(remote, endpoint, scope, challenge)
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    /// What was kept for `scope` was refused.
    pub(super) fn forget(&self, endpoint: &Endpoint, scope: &Scope) {
        let key = (endpoint.host.clone(), scope.clone());
        self.kept().headers.remove(&key);
    }

    /// Makes the header that `challenge` asks for, and keeps it.
    pub(super) async fn answer(
        &self,
        remote: &Remote,
        endpoint: &Endpoint,
        scope: &Scope,
        challenge: Challenge,
    ) -> Result<Authorization, RemoteError> {
        let found = self.credentials.find(&endpoint.host, &scope.repository);
        let found = found.await.map_err(|source| RemoteError::Credentials {
            host: endpoint.host.clone(),
            source,
        })?;
        let from = found.credential.is_some().then(|| found.from.clone());
        let token = match &challenge {
            Challenge::Basic => basic(endpoint, scope, &found)?,
            Challenge::Bearer { realm, service, .. } => {
                let request = TokenRequest {
                    realm: realm_url(endpoint, realm)?,
                    service: service.as_deref(),
                    endpoint,
                    scope,
                };
                request.send(remote, &found).await?
            }
        };
        let header = Header {
            value: token.value.clone(),
            until: remote.clock().now() + token.life,
            from: from.clone(),
        };
        self.keep(endpoint, scope, challenge, header);
        Ok(Authorization {
            value: token.value,
            from,
            looked: found.looked,
        })
    }

    fn keep(&self, endpoint: &Endpoint, scope: &Scope, challenge: Challenge, header: Header) {
        let mut kept = self.kept();
        if kept.headers.len() >= MAX_KEPT {
            kept.headers.clear();
            kept.challenges.clear();
        }
        let host = endpoint.host.clone();
        kept.challenges.insert(host.clone(), challenge);
        kept.headers.insert((host, scope.clone()), header);
    }
}

fn what(scope: &Scope) -> String {
    match (&*scope.repository, scope.push) {
        ("", _) => "a login".to_owned(),
        (name, false) => format!("pulling {name}"),
        (name, true) => format!("pushing {name}"),
    }
}

fn login_needed(endpoint: &Endpoint, scope: &Scope, found: &Answer) -> RemoteError {
    RemoteError::LoginNeeded {
        host: endpoint.host.clone(),
        what: what(scope),
        looked: found.looked.clone(),
    }
}

fn protocol(endpoint: &Endpoint, problem: impl Into<String>) -> RemoteError {
    RemoteError::Protocol {
        host: endpoint.host.clone(),
        problem: problem.into(),
    }
}

fn basic(endpoint: &Endpoint, scope: &Scope, found: &Answer) -> Result<Token, RemoteError> {
    let value = match &found.credential {
        Some(Credential::Basic { username, password }) => basic_header(username, password),
        // A registry that asks for Basic has no token service to take this to.
        Some(Credential::IdentityToken(_)) | None => {
            return Err(login_needed(endpoint, scope, found));
        }
        Some(Credential::Bearer(token)) => bearer_header(token.expose()),
    };
    let value = value.ok_or_else(|| protocol(endpoint, "the credential makes no header"))?;
    let life = PASSWORD_LIFE;
    Ok(Token { value, life })
}

fn basic_header(username: &str, password: &Secret) -> Option<HeaderValue> {
    let text = config::credentials::basic_authorization(username, password);
    let mut value = HeaderValue::from_str(text.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer_header(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The token service's address. A registry reached by TLS may not have its users' passwords sent
/// in plain text, and a token service is on the web.
fn realm_url(endpoint: &Endpoint, realm: &str) -> Result<Url, RemoteError> {
    let bad = || {
        protocol(
            endpoint,
            format!("its token service {realm:?} is no usable URL"),
        )
    };
    let url = Url::parse(realm).map_err(|_| bad())?;
    if endpoint.may_lead_to(&url) {
        Ok(url)
    } else {
        Err(bad())
    }
}

/// One visit to a token service.
struct TokenRequest<'a> {
    realm: Url,
    service: Option<&'a str>,
    endpoint: &'a Endpoint,
    scope: &'a Scope,
}

impl TokenRequest<'_> {
    async fn send(&self, remote: &Remote, found: &Answer) -> Result<Token, RemoteError> {
        let call = match &found.credential {
            Some(Credential::Bearer(token)) => {
                let value = bearer_header(token.expose());
                let value =
                    value.ok_or_else(|| protocol(self.endpoint, "the token makes no header"))?;
                let life = PASSWORD_LIFE;
                return Ok(Token { value, life });
            }
            Some(Credential::IdentityToken(token)) => self.exchange(token),
            Some(Credential::Basic { username, password }) => {
                let value = basic_header(username, password);
                let value =
                    value.ok_or_else(|| protocol(self.endpoint, "the password makes no header"))?;
                let mut call = self.get(Some(username));
                call.headers.insert(AUTHORIZATION, value);
                call
            }
            None => self.get(None),
        };
        let what = format!("the token for {}", what(self.scope));
        let mut reply = remote.exchange(self.endpoint, &what, call).await?;
        if matches!(
            reply.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            return Err(self.refused(found, reply.message().await));
        }
        if !reply.status().is_success() {
            return Err(reply.into_error().await);
        }
        self.read(&reply.read(MAX_TOKEN_ANSWER).await?)
    }

    fn get(&self, account: Option<&str>) -> Call {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.service.map(|service| ("service", service)));
            query.extend_pairs(self.scope.texts().iter().map(|scope| ("scope", scope)));
            query.extend_pairs(account.map(|account| ("account", account)));
        }
        Call::new(Method::GET, url)
    }

    /// OAuth 2: the refresh token goes in the body, so that no log of URLs ever has it.
    fn exchange(&self, token: &Secret) -> Call {
        let mut form = self.realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "devpod")
            .append_pair("service", self.service.unwrap_or_default())
            .append_pair("scope", &self.scope.texts().join(" "))
            .append_pair("refresh_token", token.expose());
        let mut call = Call::new(Method::POST, self.realm.clone());
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        call.headers.insert(CONTENT_TYPE, form_type);
        call.payload = Payload::Bytes(form.query().unwrap_or_default().to_owned().into());
        call
    }

    fn refused(&self, found: &Answer, message: String) -> RemoteError {
        if found.credential.is_none() {
            return login_needed(self.endpoint, self.scope, found);
        }
        RemoteError::LoginRefused {
            host: self.endpoint.host.clone(),
            what: what(self.scope),
            from: found.from.clone(),
            message,
        }
    }

    fn read(&self, body: &[u8]) -> Result<Token, RemoteError> {
        let bad = || protocol(self.endpoint, "its token service answered no token");
        let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| bad())?;
        let token = if answer.token.is_empty() {
            answer.access_token
        } else {
            answer.token
        };
        if token.is_empty() {
            return Err(bad());
        }
        let life = answer.expires_in.unwrap_or(DEFAULT_LIFE);
        let life = Duration::from_secs(life.clamp(DEFAULT_LIFE, MAX_LIFE)) - MARGIN;
        let value = bearer_header(&token).ok_or_else(bad)?;
        Ok(Token { value, life })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}
