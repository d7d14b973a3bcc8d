//! Who may do what.
//!
//! ```text
//! rules       what the settings allow whom; pure
//! htpasswd    users and passwords
//! api_token   credentials of programs
//! token       our own short-lived tokens, from the token service
//! external    another issuer's tokens
//! scope       what is asked of the token service, and granted; pure
//! immutable   tags that neither move nor go; pure
//! limit       how often somebody may come
//! audit       the log of changes and refusals
//! login       what was presented -> who it is
//! jwt, der, watched   forms of tokens and keys, and files that change
//! ```
//!
//! Knows nothing of HTTP: `http::access` reads the headers and words the refusals. In-process users
//! of the registry do not come by here; whoever owns the data folder may do everything.
//!
//! What holds: rights are looked up when they are used, so a user, rule or token that is gone is
//! gone at once. A token of any kind can only narrow them. Secrets are never logged.

pub mod api_token;
pub mod audit;
mod caller;
mod der;
mod external;
mod htpasswd;
pub mod immutable;
mod jwt;
pub(crate) mod limit;
mod login;
mod rules;
mod scope;
mod token;
mod watched;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use config::name::RepositoryName;
use config::registry::access::Challenge;
pub use config::registry::access::{Access as Settings, Action};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Semaphore;

use self::api_token::ApiTokens;
use self::audit::Audit;
use self::caller::Base;
pub use self::caller::{Authority, Caller, Presented, Verdict, Via};
use self::external::{External, Keys};
use self::htpasswd::{Remembered, Users};
use self::immutable::Immutable;
use self::limit::{Limiter, Rate};
pub use self::login::LoginError;
use self::rules::Rules;
pub use self::scope::{CATALOG_SCOPE, MAX_SCOPES, Scope, needed};
pub use self::token::LIFE as TOKEN_LIFE;
use self::token::Tokens;
pub use self::watched::FileError;
use self::watched::Watched;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Passwords that are checked at the same time: each takes a processor for milliseconds.
const CHECKS: usize = 2;
/// Passwords that one address may get wrong at once, and then per second. Faster than anybody
/// types, too slow to guess.
const LOGINS: Rate = Rate {
    refill: 0.5,
    burst: 20.0,
};
/// Lines about failed logins and exceeded limits of one address: the log must not grow as fast as a
/// stranger can be refused.
const REFUSALS: Rate = Rate {
    refill: 3.0,
    burst: 30.0,
};
/// What this registry is called in tokens.
const SERVICE: &str = "devpod";

/// Why access cannot be decided, at start.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("registry.token_keys needs registry.token_realm and registry.token_issuer beside it")]
    Issuer,
    #[error("registry.token_issuer means nothing without registry.token_keys")]
    Keys,
    #[error("cannot open the audit log {}", path.display())]
    Audit {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
    #[error("no random bytes")]
    Random,
}

/// Who may do what, ready to be asked.
pub struct Access {
    clock: Clock,
    rules: Rules,
    immutable: Immutable,
    users: Option<Watched<Users>>,
    remembered: Remembered,
    checks: Semaphore,
    hosts: Vec<String>,
    tokens: Tokens,
    issuer: Option<External>,
    api_tokens: ApiTokens,
    challenge: Challenge,
    realm: Option<String>,
    logins: Limiter<IpAddr>,
    requests: Option<Limiter<Client>>,
    refusals: Limiter<IpAddr>,
    /// Lines that were left out since the last of their kind.
    suppressed: AtomicU64,
    audit: Option<Audit>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Named(String),
    Network(IpAddr),
}

impl Access {
    /// Everybody may do everything, and nothing is kept: a registry with nothing before it.
    pub fn open_to_all() -> Self {
        let parts = Parts {
            key: [0; 32],
            api_tokens: ApiTokens::none(),
            users: None,
            issuer: None,
            audit: None,
        };
        Self::new(&Settings::default(), parts, Arc::new(SystemTime::now))
    }

    /// As the settings say. Keeps its key and API tokens in `data`: `registry-token.key`,
    /// `registry-tokens.json`.
    pub fn open(settings: &Settings, data: &Path, clock: Clock) -> Result<Self, AccessError> {
        let now = clock();
        let users = settings.htpasswd.as_deref();
        let users = users.map(|path| Watched::open(path, Users::parse, now));
        let parts = Parts {
            key: token::key(&data.join("registry-token.key"))?,
            api_tokens: ApiTokens::open(&data.join("registry-tokens.json"))?,
            users: users.transpose()?,
            issuer: issuer(settings, now)?,
            audit: open_audit(settings, now)?,
        };
        // Remembered passwords have a key of their own, which no other process knows.
        let mut access = Self::new(settings, parts, clock);
        let mut key = [0; 32];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| AccessError::Random)?;
        access.remembered = Remembered::new(&key);
        Ok(access)
    }

    fn new(settings: &Settings, parts: Parts, clock: Clock) -> Self {
        let rules = Rules::new(settings);
        // Clients that log in to somebody who may also stay nameless need the token service: with
        // Basic, docker either never sends its password or does nothing without one.
        let mixed = rules.knows_anonymous() || parts.issuer.is_some();
        let default = if mixed {
            Challenge::Token
        } else {
            Challenge::Basic
        };
        let service = settings.token_service.as_deref().unwrap_or(SERVICE);
        Self {
            clock,
            immutable: Immutable::new(&settings.immutable),
            users: parts.users,
            remembered: Remembered::new(&parts.key),
            checks: Semaphore::new(CHECKS),
            hosts: settings.hosts.clone(),
            tokens: Tokens::new(&parts.key, service),
            issuer: parts.issuer,
            api_tokens: parts.api_tokens,
            challenge: settings.challenge.unwrap_or(default),
            realm: settings.token_realm.clone(),
            logins: Limiter::new(LOGINS),
            requests: rate(settings).map(Limiter::new),
            refusals: Limiter::new(REFUSALS),
            suppressed: AtomicU64::new(0),
            audit: parts.audit,
            rules,
        }
    }

    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Whether everybody may do everything, so that nobody is asked for credentials.
    pub fn is_open(&self) -> bool {
        self.rules.is_open()
    }

    /// Whether nameless callers may do anything at all.
    pub fn knows_anonymous(&self) -> bool {
        self.rules.knows_anonymous()
    }

    /// Whether nameless callers may push everywhere: then a web page that reaches the port may too.
    pub fn takes_nameless_pushes(&self) -> bool {
        self.rules.allow_everywhere(None, Action::Push)
    }

    /// Names of this registry beside those that every machine has.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// How callers are asked for credentials.
    pub fn challenge(&self) -> Challenge {
        self.challenge
    }

    /// Where clients get tokens, if not from `/token` of this registry's own address.
    pub fn realm(&self) -> Option<&str> {
        self.realm.as_deref()
    }

    /// What this registry is called in tokens.
    pub fn service(&self) -> &str {
        self.tokens.service()
    }

    /// Whether tokens are another issuer's business.
    pub fn has_issuer(&self) -> bool {
        self.issuer.is_some()
    }

    pub fn immutable(&self) -> &Immutable {
        &self.immutable
    }

    pub fn api_tokens(&self) -> &ApiTokens {
        &self.api_tokens
    }

    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Whether the caller may do this to the repository.
    pub fn may(
        &self,
        authority: &Authority,
        action: Action,
        repository: &RepositoryName,
    ) -> Verdict {
        if is_beyond(authority, action) || !self.allows(authority, action, repository) {
            return Verdict::Forbidden;
        }
        match &authority.grants {
            Some(grants) if !scope::allows(grants, action, repository) => Verdict::TokenTooNarrow,
            _ => Verdict::Allowed,
        }
    }

    /// As [`Access::may`] for a repository that the request calls `asked`: a mirrored image has
    /// another name here than its client knows, and a token that was asked for with that one will
    /// do. What the caller may is decided by the name here; so another issuer's word, which is all
    /// that its callers have, must name that.
    pub fn may_as(
        &self,
        authority: &Authority,
        action: Action,
        repository: &RepositoryName,
        asked: &RepositoryName,
    ) -> Verdict {
        let verdict = self.may(authority, action, repository);
        let aliased = |grants: &Arc<[_]>| scope::allows(grants, action, asked);
        match verdict {
            Verdict::TokenTooNarrow if matches!(authority.base, Base::Issuer) => verdict,
            Verdict::TokenTooNarrow if authority.grants.as_ref().is_some_and(aliased) => {
                Verdict::Allowed
            }
            _ => verdict,
        }
    }

    /// As [`Access::may`], before a short-lived token narrows it.
    fn allows(&self, authority: &Authority, action: Action, repository: &RepositoryName) -> bool {
        let user = authority.caller().user();
        match &authority.base {
            Base::Rules => self.rules.allow(user, action, repository),
            Base::ApiToken(token) => token.allows(action, repository),
            Base::Issuer if self.rules.has_rules() => self.rules.allow(user, action, repository),
            Base::Issuer => action != Action::Admin,
        }
    }

    /// Whether the caller may do this to the registry as a whole. Short-lived tokens never may.
    pub fn may_everywhere(&self, authority: &Authority, action: Action) -> bool {
        if is_beyond(authority, action) {
            return false;
        }
        if self.is_open() {
            return true;
        }
        let user = authority.caller().user();
        authority.grants.is_none()
            && match &authority.base {
                Base::Rules => self.rules.allow_everywhere(user, action),
                Base::ApiToken(token) => token.allows_everywhere(action),
                Base::Issuer => false,
            }
    }

    /// Whether the caller may list repositories at all; which, [`Access::shows`] tells.
    pub fn may_list(&self, authority: &Authority) -> Verdict {
        match &authority.grants {
            Some(grants) if !scope::allows_catalog(grants) => Verdict::TokenTooNarrow,
            _ => Verdict::Allowed,
        }
    }

    /// Whether the catalog shows the repository to the caller. The issuer's token alone says
    /// nothing about repositories that it does not name.
    pub fn shows(&self, authority: &Authority, repository: &RepositoryName) -> bool {
        match &authority.base {
            Base::Issuer if !self.rules.has_rules() => {
                self.may(authority, Action::Pull, repository) == Verdict::Allowed
            }
            _ => self.allows(authority, Action::Pull, repository),
        }
    }

    /// Whether the caller may delete tags that are immutable: somebody with a name who is an admin
    /// of the repository.
    pub fn may_delete_immutable(&self, authority: &Authority, repository: &RepositoryName) -> bool {
        authority.caller().user().is_some()
            && self.may(authority, Action::Admin, repository) == Verdict::Allowed
    }

    /// Appends a line to the audit log, if there is one. Blocking.
    pub fn note(&self, line: &audit::Line) {
        if let Some(audit) = &self.audit {
            audit.write(line, self.now());
        }
    }

    /// The line as it is to be written, unless its address has had enough of its kind.
    pub fn spare(&self, mut line: audit::Line) -> Option<audit::Line> {
        if !matches!(
            line.event,
            audit::Event::LoginFailed | audit::Event::Limited
        ) {
            return Some(line);
        }
        let address = line.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let taken = self.refusals.take(limit::network(address), self.now());
        if taken.is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let before = self.suppressed.swap(0, Ordering::Relaxed);
        line.suppressed = (before > 0).then_some(before);
        Some(line)
    }

    /// Counts a login that failed against its address, whoever it claimed to be.
    pub fn count_failure(&self, address: IpAddr) -> Result<(), Duration> {
        let client = Client::Network(limit::network(address));
        match &self.requests {
            Some(requests) => requests.take(client, self.now()),
            None => Ok(()),
        }
    }

    /// Counts a request of the caller, or says how long the caller has to wait.
    pub fn count(&self, authority: &Authority, address: IpAddr) -> Result<(), Duration> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        let client = match authority.caller().user() {
            Some(name) => Client::Named(name.to_owned()),
            None => Client::Network(limit::network(address)),
        };
        requests.take(client, self.now())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("rules", &self.rules)
            .field("challenge", &self.challenge)
            .finish_non_exhaustive()
    }
}

/// Whether the action is more than pulling, and the caller may do no more.
fn is_beyond(authority: &Authority, action: Action) -> bool {
    authority.reads_only().is_some() && action != Action::Pull
}

/// What is opened before the rest can be put together.
struct Parts {
    key: [u8; 32],
    api_tokens: ApiTokens,
    users: Option<Watched<Users>>,
    issuer: Option<External>,
    audit: Option<Audit>,
}

fn issuer(settings: &Settings, now: SystemTime) -> Result<Option<External>, AccessError> {
    let Some(path) = &settings.token_keys else {
        return match settings.token_issuer {
            Some(_) => Err(AccessError::Keys),
            None => Ok(None),
        };
    };
    let (Some(issuer), Some(_)) = (&settings.token_issuer, &settings.token_realm) else {
        return Err(AccessError::Issuer);
    };
    Ok(Some(External {
        issuer: issuer.clone(),
        service: settings
            .token_service
            .clone()
            .unwrap_or_else(|| SERVICE.to_owned()),
        keys: Watched::open(path, Keys::parse, now)?,
    }))
}

fn open_audit(settings: &Settings, now: SystemTime) -> Result<Option<Audit>, AccessError> {
    let Some(path) = &settings.audit_log else {
        return Ok(None);
    };
    let opened = Audit::open(path, settings.audit_pulls, now);
    let audit = opened.map_err(|source| AccessError::Audit {
        path: path.clone(),
        source,
    })?;
    Ok(Some(audit))
}

fn rate(settings: &Settings) -> Option<Rate> {
    let (limit, burst) = (settings.rate_limit, settings.rate_burst);
    (limit > 0).then(|| Rate {
        refill: f64::from(limit),
        burst: f64::from(if burst == 0 { limit * 2 } else { burst }),
    })
}
