//! Who a request comes from, and what stands behind it.

use std::sync::Arc;

use config::credentials::Secret;

use super::api_token::ApiToken;
use super::jwt::Grant;

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
    Named { name: String, via: Via },
}

/// How a caller proved the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A user of the htpasswd file.
    Password,
    /// An API token; the name is `token:` and the token's.
    ApiToken,
    /// A short-lived token of this registry.
    Token,
    /// A token of another issuer.
    Issuer,
    /// A certificate that the connection was made with.
    Certificate,
}

impl Caller {
    /// The name for logs and events; `anonymous` where there is none.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Named { name, .. } => name,
        }
    }

    /// Whether nobody in particular asks. A name may be the word as well.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// The name, where there is one.
    pub(super) fn user(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Named { name, .. } => Some(name),
        }
    }
}

/// What a request brought to prove who sends it.
#[derive(Debug, Clone)]
pub enum Presented {
    Nothing,
    Basic {
        user: String,
        password: Secret,
    },
    Bearer(Secret),
    /// Something that is neither.
    Unreadable,
}

/// A caller with what bounds the caller's rights.
#[derive(Debug, Clone)]
pub struct Authority {
    caller: Caller,
    pub(super) base: Base,
    /// What a short-lived token narrows the rights to.
    pub(super) grants: Option<Arc<[Grant]>>,
    /// Nothing but pulling, whatever the name may do; why.
    reads_only: Option<&'static str>,
}

/// Where rights come from.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// The rules about the caller's name.
    Rules,
    /// The API token alone.
    ApiToken(Arc<ApiToken>),
    /// Another issuer's word, narrowed by the rules where there are any.
    Issuer,
}

impl Authority {
    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self::new(Caller::Anonymous, Base::Rules)
    }

    /// Somebody whose certificate the port's TLS has verified.
    pub fn by_certificate(name: &str) -> Self {
        Self::named(name, Via::Certificate, Base::Rules)
    }

    pub(super) fn new(caller: Caller, base: Base) -> Self {
        Self {
            caller,
            base,
            grants: None,
            reads_only: None,
        }
    }

    pub(super) fn named(name: &str, via: Via, base: Base) -> Self {
        let name = name.to_owned();
        Self::new(Caller::Named { name, via }, base)
    }

    pub(super) fn narrowed(mut self, grants: Vec<Grant>) -> Self {
        self.grants = Some(grants.into());
        self
    }

    /// Somebody who may pull and nothing more, where the name would allow more.
    pub fn reading(mut self, why: &'static str) -> Self {
        self.reads_only = Some(why);
        self
    }

    /// Why the caller may pull and nothing more, if that is so.
    pub fn reads_only(&self) -> Option<&'static str> {
        self.reads_only
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether a short-lived token stands behind this.
    pub fn is_narrowed(&self) -> bool {
        self.grants.is_some()
    }

    /// The API token that stands behind this.
    pub(super) fn api_token(&self) -> Option<&ApiToken> {
        match &self.base {
            Base::ApiToken(token) => Some(token),
            _ => None,
        }
    }
}

/// What a decision can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// The caller may, but the short-lived token was not asked for with that.
    TokenTooNarrow,
    Forbidden,
}
