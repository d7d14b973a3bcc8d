//! What was presented becomes who it is.
//!
//! Wrong credentials are an error even where nobody needs any: a caller who meant to be somebody
//! must not be taken for nobody. Only a registry that is open to all does not look at them, but for
//! API tokens, which nothing else sends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use config::credentials::Secret;
use config::name::RepositoryName;
use config::registry::access::Action;

use super::api_token::{ApiToken, ApiTokens};
use super::caller::{Authority, Base, Caller, Presented, Verdict, Via};
use super::htpasswd::Candidate;
use super::jwt::{self, Grant};
use super::scope::Scope;
use super::token::{Purpose, Subject};
use super::{Access, limit};

/// Passwords beyond this are not looked at: bcrypt reads 72 bytes.
const MAX_PASSWORD: usize = 1024;
/// Whoever waits for a password check to begin waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nobody was logged in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("the credentials are not right")]
    Wrong {
        /// As it was claimed.
        name: String,
    },
    #[error("the token is not valid, or not any more")]
    BadToken,
    #[error("too many logins failed")]
    TooMany { wait: Duration },
}

impl Access {
    /// Who presented this, from that address.
    pub async fn identify(
        &self,
        presented: &Presented,
        address: IpAddr,
    ) -> Result<Authority, LoginError> {
        match presented {
            Presented::Nothing => Ok(Authority::anonymous()),
            Presented::Bearer(text) if ApiTokens::is_like(text) => {
                self.api_token(text).ok_or(LoginError::BadToken)
            }
            Presented::Basic { user, password } if ApiTokens::is_like(password) => {
                let name = user.clone();
                self.api_token(password).ok_or(LoginError::Wrong { name })
            }
            _ if self.is_open() => Ok(Authority::anonymous()),
            Presented::Bearer(text) => self.token(text.expose()).ok_or(LoginError::BadToken),
            Presented::Basic { user, password } => self.password(user, password, address).await,
            Presented::Unreadable => Err(LoginError::BadToken),
        }
    }

    fn api_token(&self, text: &Secret) -> Option<Authority> {
        let token = self.api_tokens.find(text, self.now())?;
        Some(by_api_token(token, Via::ApiToken))
    }

    /// A short-lived token, ours or the other issuer's.
    fn token(&self, text: &str) -> Option<Authority> {
        let token = jwt::parse(text)?;
        let now = self.now();
        if let Ok((subject, grants)) = self.tokens.verify(Purpose::Access, &token, now) {
            return self.owner(&subject, grants);
        }
        let (name, grants) = self.issuer.as_ref()?.verify(&token, now).ok()?;
        let caller = match name.as_str() {
            "" => Caller::Anonymous,
            _ => Caller::Named {
                name,
                via: Via::Issuer,
            },
        };
        Some(Authority::new(caller, Base::Issuer).narrowed(grants))
    }

    /// Whoever one of our tokens was made for, if that one still is somebody.
    fn owner(&self, subject: &Subject, grants: Vec<Grant>) -> Option<Authority> {
        let name = subject.name.as_str();
        let authority = match &subject.api_token {
            Some(id) => by_api_token(self.api_tokens.find_by_id(id, self.now())?, Via::Token),
            None if name.is_empty() => Authority::anonymous(),
            None if self.users.as_ref()?.get().contains(name) => {
                Authority::named(name, Via::Token, Base::Rules)
            }
            None => return None,
        };
        Some(authority.narrowed(grants))
    }

    async fn password(
        &self,
        user: &str,
        password: &Secret,
        address: IpAddr,
    ) -> Result<Authority, LoginError> {
        let wrong = || LoginError::Wrong {
            name: user.to_owned(),
        };
        let users = self.users.as_ref().ok_or_else(wrong)?.get();
        if password.expose().len() > MAX_PASSWORD {
            return Err(wrong());
        }
        let candidate = users.candidate(user);
        let remembered = &self.remembered;
        if !remembered.knows(user, password, &candidate, self.now()) {
            if !self.check(password, &candidate, address).await? {
                return Err(wrong());
            }
            remembered.remember(user, password, &candidate, self.now());
        }
        Ok(Authority::named(user, Via::Password, Base::Rules))
    }

    /// Checks a password on a blocking thread. What the address may still get wrong is taken
    /// before, so that many at once gain nothing, and given back to one who was right.
    async fn check(
        &self,
        password: &Secret,
        candidate: &Candidate,
        address: IpAddr,
    ) -> Result<bool, LoginError> {
        let network = limit::network(address);
        let taken = self.logins.take(network, self.now());
        taken.map_err(|wait| LoginError::TooMany { wait })?;
        let permit = tokio::time::timeout(PATIENCE, self.checks.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            self.logins.give_back(network, self.now());
            return Err(LoginError::TooMany { wait: PATIENCE });
        };
        let (candidate, password) = (candidate.clone(), password.clone());
        let right = tokio::task::spawn_blocking(move || candidate.verify(&password)).await;
        let right = right.unwrap_or(false);
        if right {
            self.logins.give_back(network, self.now());
        }
        Ok(right)
    }

    /// Looks after files that may have changed, where that is due. A few microseconds otherwise.
    pub async fn refresh(self: &Arc<Self>) {
        let now = self.now();
        let users = self.users.as_ref().is_some_and(|users| users.is_due(now));
        let keys = self.issuer.as_ref().is_some_and(|i| i.keys.is_due(now));
        if !(users || keys || self.api_tokens.is_due(now)) {
            return;
        }
        let access = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || access.look()).await;
        if let Err(error) = looked {
            tracing::error!(%error, "users and keys were not read again");
        }
    }

    /// Blocking.
    fn look(&self) {
        let now = self.now();
        if let Some(users) = &self.users {
            users.look(now);
        }
        if let Some(issuer) = &self.issuer {
            issuer.keys.look(now);
        }
        if let Err(error) = self.api_tokens.note_used(now) {
            tracing::warn!(%error, "when API tokens were last used is not kept");
        }
    }

    /// A token for the caller that grants what of `scopes` the caller may. Clients ask by the names
    /// that they use; `meanings` says what else these can be called here, which is what rules name.
    /// A grant is never more than what the rules say when it is used.
    pub fn issue(
        &self,
        authority: &Authority,
        scopes: &[Scope],
        meanings: impl Fn(&RepositoryName, Action) -> Vec<RepositoryName>,
    ) -> std::io::Result<Issued> {
        let allowed = |name: &_, action| self.may(authority, action, name) == Verdict::Allowed;
        let may = |name: &_, action| {
            let mut others = meanings(name, action).into_iter();
            allowed(name, action) || others.any(|other| allowed(&other, action))
        };
        let grants: Vec<Grant> = scopes.iter().filter_map(|s| s.granted(may)).collect();
        let api_token = authority.api_token().map(|token| token.id.clone());
        let subject = Subject {
            name: authority.caller().user().unwrap_or_default().to_owned(),
            api_token,
            fingerprint: None,
        };
        let now = self.now();
        let granted = grants.iter().map(shown).collect();
        let token = self.tokens.issue(Purpose::Access, &subject, grants, now)?;
        Ok(Issued {
            token: Secret::new(token),
            granted,
            at: now,
        })
    }

    /// A token that logs its user in again without the password, until that changes. Only users
    /// with a password get one: an API token serves as long as it should by itself.
    pub fn issue_refresh(&self, authority: &Authority) -> std::io::Result<Option<Secret>> {
        let by_password = matches!(
            authority.caller(),
            Caller::Named {
                via: Via::Password,
                ..
            }
        );
        let name = authority.caller().user().filter(|_| by_password);
        let (Some(name), Some(users)) = (name, &self.users) else {
            return Ok(None);
        };
        let subject = Subject {
            name: name.to_owned(),
            api_token: None,
            fingerprint: users.get().fingerprint(name),
        };
        let token = self
            .tokens
            .issue(Purpose::Refresh, &subject, Vec::new(), self.now())?;
        Ok(Some(Secret::new(token)))
    }

    /// Who a refresh token logs in.
    pub fn identify_refresh(&self, text: &Secret) -> Result<Authority, LoginError> {
        let user = || {
            let token = jwt::parse(text.expose())?;
            let verified = self.tokens.verify(Purpose::Refresh, &token, self.now());
            let (subject, _) = verified.ok()?;
            let current = self.users.as_ref()?.get().fingerprint(&subject.name)?;
            (subject.fingerprint == Some(current)).then_some(subject.name)
        };
        let name = user().ok_or(LoginError::BadToken)?;
        Ok(Authority::named(&name, Via::Password, Base::Rules))
    }
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    pub token: Secret,
    /// The scopes that it grants, as text.
    pub granted: Vec<String>,
    pub at: std::time::SystemTime,
}

fn shown(grant: &Grant) -> String {
    format!("{}:{}:{}", grant.kind, grant.name, grant.actions.join(","))
}

fn by_api_token(token: Arc<ApiToken>, via: Via) -> Authority {
    let name = format!("token:{}", token.name);
    Authority::named(&name, via, Base::ApiToken(token))
}
