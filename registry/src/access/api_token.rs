//! API tokens: credentials for programs, each with a scope and an end of its own.
//!
//! `dpt_<id>_<secret>`, shown once. What is kept of the secret is its SHA-256: it has 256 random
//! bits, so there is nothing that a slow hash would make harder to guess, and comparing digests in
//! variable time tells nothing of use. A token may do exactly what it was made for: rules about
//! users neither widen nor narrow it.
//!
//! Kept in a small JSON file of its own rather than in the index: the few tokens are read whole at
//! start, and a change is one atomic, durable replacement that waits for no push.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use config::credentials::Secret;
use config::name::RepositoryName;
use config::pattern::Pattern;
use config::registry::access::Action;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::token::{seconds, write_private};
use super::watched::FileError;
use crate::digest::hex;

const PREFIX: &str = "dpt_";
/// More than people look after.
const MAX_TOKENS: usize = 1000;
const MAX_NAME: usize = 64;
const MAX_PATTERNS: usize = 32;
/// When a token was last used is written at most so often.
const USED_PERIOD: u64 = 60;

/// A token as it is kept: everything but its secret.
#[derive(Debug)]
pub struct ApiToken {
    pub id: String,
    pub name: String,
    pub repositories: Vec<Pattern>,
    pub actions: Vec<Action>,
    /// Seconds since 1970, as the others.
    pub created: u64,
    pub expires: Option<u64>,
    hash: String,
    used: AtomicU64,
}

impl ApiToken {
    /// When it was last used, to the minute after a restart.
    pub fn last_used(&self) -> Option<u64> {
        Some(self.used.load(Ordering::Relaxed)).filter(|used| *used > 0)
    }

    pub fn allows(&self, action: Action, repository: &RepositoryName) -> bool {
        let matches = |pattern: &Pattern| pattern.matches(repository.as_str());
        self.actions.contains(&action) && self.repositories.iter().any(matches)
    }

    /// Whether it is for the registry as a whole.
    pub fn allows_everywhere(&self, action: Action) -> bool {
        let whole = |pattern: &Pattern| pattern.as_str() == "**";
        self.actions.contains(&action) && self.repositories.iter().any(whole)
    }
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Unique among the tokens: letters, digits, `.`, `_` and `-`.
    pub name: String,
    pub repositories: Vec<Pattern>,
    pub actions: Vec<Action>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}

/// Why a token was not made or revoked. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApiTokenError {
    #[error("{name:?} is no name for a token: 1 to {MAX_NAME} letters, digits, '.', '_' and '-'")]
    Name { name: String },
    #[error("a token is called {name:?} already")]
    Taken { name: String },
    #[error("a token needs 1 to {MAX_PATTERNS} patterns of repositories and an action")]
    Empty,
    #[error("the token would have expired already")]
    Expired,
    #[error("there are {MAX_TOKENS} tokens already")]
    TooMany,
    #[error("tokens cannot be kept")]
    Keep(#[from] io::Error),
}

/// All tokens.
#[derive(Debug)]
pub struct ApiTokens {
    /// `None` where nothing is kept: then there are none.
    path: Option<PathBuf>,
    tokens: RwLock<Vec<Arc<ApiToken>>>,
    /// One change at a time; when the file was last written.
    writing: Mutex<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    id: String,
    name: String,
    hash: String,
    repositories: Vec<String>,
    actions: Vec<String>,
    created: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used: Option<u64>,
}

impl ApiTokens {
    /// No tokens, and no place for any.
    pub fn none() -> Self {
        Self {
            path: None,
            tokens: RwLock::default(),
            writing: Mutex::default(),
        }
    }

    /// Reads the file; an absent one is an empty one.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(source) => {
                let path = path.to_owned();
                return Err(FileError::Read { path, source });
            }
        };
        let rows: Result<Vec<Row>, String> =
            serde_json::from_slice(&bytes).map_err(|error| error.to_string());
        let tokens = rows.and_then(|rows| rows.into_iter().map(read).collect());
        let tokens: Vec<_> = tokens.map_err(|reason| FileError::Content {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: Some(path.to_owned()),
            tokens: RwLock::new(tokens),
            writing: Mutex::default(),
        })
    }

    /// All tokens, in the order in which they were made.
    pub fn list(&self) -> Vec<Arc<ApiToken>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.clone()
    }

    /// Makes a token and answers it with its text. Returns when it is durable. Blocking.
    pub fn create(
        &self,
        new: NewToken,
        now: SystemTime,
    ) -> Result<(Arc<ApiToken>, Secret), ApiTokenError> {
        let now = seconds(now);
        check(&new, now)?;
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = self.list();
        if tokens.iter().any(|token| token.name == new.name) {
            return Err(ApiTokenError::Taken { name: new.name });
        }
        if tokens.len() >= MAX_TOKENS {
            return Err(ApiTokenError::TooMany);
        }
        let (id, secret) = (random::<8>()?, random::<32>()?);
        let token = Arc::new(ApiToken {
            hash: hash(&secret),
            id,
            name: new.name,
            repositories: new.repositories,
            actions: new.actions,
            created: now,
            expires: new.expires,
            used: AtomicU64::new(0),
        });
        tokens.push(Arc::clone(&token));
        self.replace(tokens)?;
        *written = now;
        let text = Secret::new(format!("{PREFIX}{}_{secret}", token.id));
        Ok((token, text))
    }

    /// Removes the token of that name or id; answers it. Returns when that is durable. Blocking.
    pub fn revoke(&self, name: &str) -> Result<Option<Arc<ApiToken>>, ApiTokenError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = self.list();
        // A name first: somebody may call a token as another one's id is.
        let at = tokens
            .iter()
            .position(|token| token.name == name)
            .or_else(|| tokens.iter().position(|token| token.id == name));
        let Some(at) = at else {
            return Ok(None);
        };
        let revoked = tokens.remove(at);
        self.replace(tokens)?;
        Ok(Some(revoked))
    }

    /// Whether the text could be one of ours, good or not.
    pub fn is_like(text: &Secret) -> bool {
        text.expose().starts_with(PREFIX)
    }

    /// The token with this text, unless it has expired or was revoked.
    pub fn find(&self, text: &Secret, now: SystemTime) -> Option<Arc<ApiToken>> {
        let (id, secret) = text.expose().strip_prefix(PREFIX)?.split_once('_')?;
        let token = self.find_by_id(id, now)?;
        (token.hash == hash(secret)).then_some(token)
    }

    /// The token with this id, unless it has expired or was revoked. It is used then.
    pub fn find_by_id(&self, id: &str, now: SystemTime) -> Option<Arc<ApiToken>> {
        let now = seconds(now);
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.iter().find(|token| token.id == id)?;
        if token.expires.is_some_and(|expires| expires <= now) {
            return None;
        }
        token.used.store(now, Ordering::Relaxed);
        Some(Arc::clone(token))
    }

    /// Whether [`ApiTokens::note_used`] would do something.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let Ok(written) = self.writing.try_lock() else {
            return false;
        };
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let used = tokens
            .iter()
            .map(|token| token.used.load(Ordering::Relaxed));
        seconds(now) >= *written + USED_PERIOD && used.max().unwrap_or(0) > *written
    }

    /// Writes when tokens were last used, if that is due. Blocking.
    pub fn note_used(&self, now: SystemTime) -> io::Result<()> {
        if !self.is_due(now) {
            return Ok(());
        }
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Failed or not, the next try is a minute away.
        *written = seconds(now);
        self.write(&self.list())
    }

    /// The caller holds `writing`. The file first: what is told has happened.
    fn replace(&self, tokens: Vec<Arc<ApiToken>>) -> io::Result<()> {
        self.write(&tokens)?;
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
        Ok(())
    }

    fn write(&self, tokens: &[Arc<ApiToken>]) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let rows: Vec<Row> = tokens.iter().map(|token| row(token)).collect();
        write_private(path, &serde_json::to_vec_pretty(&rows)?)
    }
}

fn check(new: &NewToken, now: u64) -> Result<(), ApiTokenError> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let name = &new.name;
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(letter) {
        return Err(ApiTokenError::Name { name: name.clone() });
    }
    if !(1..=MAX_PATTERNS).contains(&new.repositories.len()) || new.actions.is_empty() {
        return Err(ApiTokenError::Empty);
    }
    if new.expires.is_some_and(|expires| expires <= now) {
        return Err(ApiTokenError::Expired);
    }
    Ok(())
}

fn random<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("no random bytes"))?;
    Ok(hex(&bytes))
}

fn hash(secret: &str) -> String {
    hex(digest(&SHA256, secret.as_bytes()).as_ref())
}

fn row(token: &ApiToken) -> Row {
    Row {
        id: token.id.clone(),
        name: token.name.clone(),
        hash: token.hash.clone(),
        repositories: token.repositories.iter().map(Pattern::to_string).collect(),
        actions: token.actions.iter().map(Action::to_string).collect(),
        created: token.created,
        expires: token.expires,
        last_used: token.last_used(),
    }
}

fn read(row: Row) -> Result<Arc<ApiToken>, String> {
    let bad = |error: &dyn std::fmt::Display| format!("token {:?}: {error}", row.name);
    let patterns = row.repositories.iter().map(|text| text.parse());
    let actions = row.actions.iter().map(|text| text.parse());
    Ok(Arc::new(ApiToken {
        repositories: patterns
            .collect::<Result<_, config::pattern::PatternError>>()
            .map_err(|error| bad(&error))?,
        actions: actions
            .collect::<Result<_, config::registry::access::WordError>>()
            .map_err(|error| bad(&error))?,
        id: row.id,
        name: row.name,
        hash: row.hash,
        created: row.created,
        expires: row.expires,
        used: AtomicU64::new(row.last_used.unwrap_or(0)),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1000 + seconds)
    }

    fn new(name: &str, expires: Option<u64>) -> NewToken {
        NewToken {
            name: name.to_owned(),
            repositories: vec!["team/**".parse().unwrap()],
            actions: vec![Action::Pull],
            expires,
        }
    }

    #[test]
    fn a_token_outlives_a_restart_and_not_its_revocation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let tokens = ApiTokens::open(&path).unwrap();
        let (token, text) = tokens.create(new("ci", None), at(0)).unwrap();
        assert!(text.expose().starts_with("dpt_") && text.expose().len() == 4 + 16 + 1 + 64);
        let file = std::fs::read_to_string(&path).unwrap();
        let secret = text.expose().rsplit_once('_').unwrap().1;
        assert!(!file.contains(secret), "the secret is on the disk");
        assert!(!format!("{text:?} {token:?}").contains(secret));
        let tokens = ApiTokens::open(&path).unwrap();
        let found = tokens.find(&text, at(1)).unwrap();
        assert_eq!((&found.id, found.last_used()), (&token.id, Some(1001)));
        assert!(found.allows(Action::Pull, &"team/a".parse().unwrap()));
        assert!(!found.allows(Action::Push, &"team/a".parse().unwrap()));
        assert!(!found.allows(Action::Pull, &"other".parse().unwrap()));
        assert!(tokens.revoke("nobody").unwrap().is_none());
        assert!(tokens.revoke("ci").unwrap().is_some());
        assert!(tokens.find(&text, at(1)).is_none());
        assert!(ApiTokens::open(&path).unwrap().list().is_empty());
    }

    #[test]
    fn only_the_whole_text_counts_and_only_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = ApiTokens::open(&folder.path().join("t")).unwrap();
        let (_, text) = tokens.create(new("ci", Some(1010)), at(0)).unwrap();
        let other = tokens.create(new("other", None), at(0)).unwrap().1;
        assert!(tokens.find(&text, at(9)).is_some());
        assert!(tokens.find(&text, at(10)).is_none(), "expired");
        let (head, _) = text.expose().rsplit_once('_').unwrap();
        let (_, tail) = other.expose().rsplit_once('_').unwrap();
        for wrong in [
            format!("{head}_{tail}"),
            format!("{head}_"),
            head.to_owned(),
            "dpt_".to_owned(),
            String::new(),
        ] {
            assert!(tokens.find(&Secret::new(wrong), at(0)).is_none());
        }
    }

    #[test]
    fn refuses_what_makes_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = ApiTokens::open(&folder.path().join("t")).unwrap();
        tokens.create(new("ci", None), at(0)).unwrap();
        let refused = |new: NewToken| tokens.create(new, at(0)).unwrap_err().to_string();
        assert!(refused(new("ci", None)).contains("already"));
        assert!(refused(new("a b", None)).contains("no name"));
        assert!(refused(new("", None)).contains("no name"));
        assert!(refused(new("x", Some(1000))).contains("expired"));
        let empty = NewToken {
            actions: Vec::new(),
            ..new("x", None)
        };
        assert!(refused(empty).contains("needs"));
        let nowhere = ApiTokens::none().create(new("x", None), at(0));
        assert!(matches!(nowhere, Err(ApiTokenError::Keep(_))));
        assert_eq!(tokens.list().len(), 1);
    }

    #[test]
    fn last_use_is_written_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let tokens = ApiTokens::open(&path).unwrap();
        let (token, text) = tokens.create(new("ci", None), at(0)).unwrap();
        tokens.find(&text, at(30)).unwrap();
        assert!(!tokens.is_due(at(30)));
        tokens.note_used(at(61)).unwrap();
        let kept = ApiTokens::open(&path).unwrap().list();
        assert_eq!(kept[0].last_used(), Some(1030));
        assert!(!tokens.is_due(at(200)), "nothing was used since");
        assert_eq!(token.last_used(), Some(1030));
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        std::fs::write(&path, "[{]").unwrap();
        assert!(ApiTokens::open(&path).is_err());
    }
}
