//! `[[registry.rules]]`, `[[registry.immutable]]` and the one-word settings of who may do what.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{required, tables};
use crate::jsonc::{Cursor, Located, Value};
use crate::pattern::Pattern;

/// What a caller may do to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Upload blobs, mount them, put manifests and tags.
    Push,
    /// Delete manifests, tags and blobs.
    Delete,
    /// Change things by the management API, and delete immutable tags.
    Admin,
}

/// What people without credentials may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    None,
    Pull,
    /// Pull, push and delete.
    Push,
}

/// How a client is told to bring its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// With every request (RFC 7617).
    Basic,
    /// In exchange for a short-lived token (Docker token specification).
    Token,
}

/// Users who may do something to some repositories. All rules that match add up.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub repositories: Pattern,
    pub users: Vec<User>,
    pub actions: Vec<Action>,
}

/// Whom a rule means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// `*`: everybody who has logged in.
    AnyNamed,
    /// `anonymous`: everybody.
    Anonymous,
    Named(String),
}

/// Tags that neither move nor go once they are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Immutable {
    pub repositories: Pattern,
    pub tags: Vec<Pattern>,
}

/// Who may do what in the embedded registry. The default sets nothing: everybody who reaches the
/// port may pull, push and delete.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    pub anonymous: Option<Anonymous>,
    /// Absolute path of an htpasswd file with bcrypt hashes.
    pub htpasswd: Option<PathBuf>,
    pub challenge: Option<Challenge>,
    /// Where clients get tokens; by default from this registry itself.
    pub token_realm: Option<String>,
    pub token_service: Option<String>,
    pub token_issuer: Option<String>,
    /// Absolute path of another issuer's public keys: PEM or a JWK set.
    pub token_keys: Option<PathBuf>,
    /// Requests per second of one caller; zero for no limit.
    pub rate_limit: u32,
    /// Requests that one caller may send at once; zero for twice the limit.
    pub rate_burst: u32,
    /// Absolute path of the file that gets a line of JSON for each change and refusal.
    pub audit_log: Option<PathBuf>,
    pub audit_pulls: bool,
    /// Further names of this registry, by which programs of its machine may call it.
    pub hosts: Vec<String>,
    pub rules: Vec<Rule>,
    pub immutable: Vec<Immutable>,
}

impl Access {
    /// Whether anything here names people, or says what nameless ones may do.
    pub fn is_decided(&self) -> bool {
        self.anonymous.is_some() || self.names_people()
    }

    /// Whether there are people with names, or rules about them.
    pub fn names_people(&self) -> bool {
        self.htpasswd.is_some() || self.token_keys.is_some() || !self.rules.is_empty()
    }
}

/// Reads the rules.
pub(crate) fn read_rules(cursor: &Cursor<'_>) -> Result<Vec<Rule>, Located> {
    let items = tables(cursor, &["repositories", "users", "actions"])?;
    let rules = items.iter().map(|item| {
        Ok(Rule {
            repositories: required(item, "repositories")?,
            users: one_or_many(item, "users")?,
            actions: one_or_many(item, "actions")?,
        })
    });
    rules.collect()
}

/// Reads which tags are immutable.
pub(crate) fn read_immutable(cursor: &Cursor<'_>) -> Result<Vec<Immutable>, Located> {
    let items = tables(cursor, &["repositories", "tags"])?;
    let immutable = items.iter().map(|item| {
        Ok(Immutable {
            repositories: required(item, "repositories")?,
            tags: one_or_many(item, "tags")?,
        })
    });
    immutable.collect()
}

/// The member `key`: one word, or a list of words with at least one in it.
fn one_or_many<T>(item: &Cursor<'_>, key: &str) -> Result<Vec<T>, Located>
where
    T: FromStr<Err: fmt::Display>,
{
    let Some(cursor) = item.get(key) else {
        return Err(item.error(format!("\"{key}\" is missing")));
    };
    if !matches!(cursor.node.value, Value::List(_)) {
        return Ok(vec![cursor.parse()?]);
    }
    let words = cursor.list()?;
    if words.is_empty() {
        return Err(cursor.error(format!("\"{}\" is empty", cursor.name())));
    }
    words.iter().map(Cursor::parse).collect()
}

/// A word that is none of those that are meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("{0:?} is not an action: pull, push, delete or admin")]
    Action(String),
    #[error("{0:?} is not one of none, pull and push")]
    Anonymous(String),
    #[error("{0:?} is not one of basic and token")]
    Challenge(String),
    #[error("{0:?} is not a user's name")]
    User(String),
}

impl FromStr for Action {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            "delete" => Ok(Self::Delete),
            "admin" => Ok(Self::Admin),
            _ => Err(WordError::Action(text.to_owned())),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        })
    }
}

impl FromStr for Anonymous {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "none" => Ok(Self::None),
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            _ => Err(WordError::Anonymous(text.to_owned())),
        }
    }
}

impl fmt::Display for Anonymous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Pull => "pull",
            Self::Push => "push",
        })
    }
}

impl FromStr for Challenge {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "basic" => Ok(Self::Basic),
            "token" => Ok(Self::Token),
            _ => Err(WordError::Challenge(text.to_owned())),
        }
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "basic",
            Self::Token => "token",
        })
    }
}

impl FromStr for User {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "*" => Ok(Self::AnyNamed),
            "anonymous" => Ok(Self::Anonymous),
            _ if text.is_empty() || text.contains(char::is_control) => {
                Err(WordError::User(text.to_owned()))
            }
            _ => Ok(Self::Named(text.to_owned())),
        }
    }
}
