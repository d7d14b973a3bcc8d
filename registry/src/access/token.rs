//! Our own short-lived tokens (Docker token specification): made after a login, verified on every
//! request.
//!
//! HS256 with a key that never leaves the data folder: only this registry verifies them, and a MAC
//! costs a request a microsecond where a signature costs fifty. Their claims only narrow what their
//! owner may do by then: a user who was removed loses them at once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::jwt::{self, Grant, Header};
use super::watched::FileError;
use crate::digest::hex;

/// How long a token lasts. Longer than a pull takes between two requests, short enough that a
/// leaked one is soon worth nothing.
pub const LIFE: Duration = Duration::from_secs(300);
/// How long a login without its password lasts (`docker login` keeps it instead of the password).
pub(super) const REFRESH_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

const ALGORITHM: &str = "HS256";
const ISSUER: &str = "devpod";

/// What a token is good for. A refresh token opens nothing by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Access,
    Refresh,
}

impl Purpose {
    /// The header's `typ`, so that one cannot pass for the other.
    fn typ(self) -> &'static str {
        match self {
            Self::Access => "JWT",
            Self::Refresh => "refresh+jwt",
        }
    }

    fn life(self) -> Duration {
        match self {
            Self::Access => LIFE,
            Self::Refresh => REFRESH_LIFE,
        }
    }
}

/// Whom a token is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subject {
    /// Empty for a nameless caller.
    pub name: String,
    /// The API token that stands behind it.
    pub api_token: Option<String>,
    /// Of the password that a refresh token was made for.
    pub fingerprint: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    access: Vec<Grant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fpr: Option<String>,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("token is not one of this registry's")]
    Foreign,
    #[error("token is damaged")]
    Damaged,
    #[error("token has expired or is not valid yet")]
    Time,
}

/// Makes and verifies tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    key: hmac::Key,
    kid: String,
    service: String,
    random: SystemRandom,
}

impl Tokens {
    /// `service` is what the tokens are for: this registry's name.
    pub(super) fn new(secret: &[u8; 32], service: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, secret);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            kid: hex(&digest.as_ref()[..8]),
            service: service.to_owned(),
            random: SystemRandom::new(),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// A token for `subject` that grants `access` and nothing else.
    pub(super) fn issue(
        &self,
        purpose: Purpose,
        subject: &Subject,
        access: Vec<Grant>,
        now: SystemTime,
    ) -> io::Result<String> {
        let mut id = [0; 16];
        let random = self.random.fill(&mut id);
        random.map_err(|_| io::Error::other("no random bytes"))?;
        let now = seconds(now);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: self.service.clone(),
            sub: subject.name.clone(),
            iat: now,
            nbf: now,
            exp: now + purpose.life().as_secs(),
            jti: hex(&id),
            access,
            tid: subject.api_token.clone(),
            fpr: subject.fingerprint.clone(),
        };
        let header = Header {
            alg: ALGORITHM.to_owned(),
            typ: Some(purpose.typ().to_owned()),
            kid: Some(self.kid.clone()),
            crit: None,
        };
        let signed = jwt::to_sign(&header, &claims)?;
        let signature = hmac::sign(&self.key, signed.as_bytes());
        Ok(format!("{signed}.{}", jwt::encode(signature.as_ref())))
    }

    /// Whom a token is about and what it grants.
    pub(super) fn verify(
        &self,
        purpose: Purpose,
        token: &jwt::Unverified<'_>,
        now: SystemTime,
    ) -> Result<(Subject, Vec<Grant>), TokenError> {
        let header = &token.header;
        let ours = header.alg == ALGORITHM
            && header.kid.as_ref() == Some(&self.kid)
            && header.typ.as_deref() == Some(purpose.typ());
        if !ours {
            return Err(TokenError::Foreign);
        }
        hmac::verify(&self.key, token.signed.as_bytes(), &token.signature)
            .map_err(|_| TokenError::Damaged)?;
        let claims: Claims =
            serde_json::from_slice(&token.payload).map_err(|_| TokenError::Damaged)?;
        if claims.iss != ISSUER || claims.aud != self.service {
            return Err(TokenError::Foreign);
        }
        if !(claims.nbf..claims.exp).contains(&seconds(now)) {
            return Err(TokenError::Time);
        }
        let subject = Subject {
            name: claims.sub,
            api_token: claims.tid,
            fingerprint: claims.fpr,
        };
        Ok((subject, claims.access))
    }
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Reads the key, or makes it: once, readable by its owner only, durable before it is used.
pub(super) fn key(path: &Path) -> Result<[u8; 32], FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(33).read_to_end(&mut bytes).map_err(failed)?;
            bytes.try_into().map_err(|_| FileError::Content {
                path: path.to_owned(),
                reason: "a key has 32 bytes; remove the file to have a new one made".to_owned(),
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

fn make_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    let random = SystemRandom::new().fill(&mut secret);
    random.map_err(|_| io::Error::other("no random bytes"))?;
    write_private(path, &secret)?;
    Ok(secret)
}

/// Puts a file in place whole and durable, with mode 0600.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn ann() -> Subject {
        Subject {
            name: "ann".to_owned(),
            ..Subject::default()
        }
    }

    fn grants() -> Vec<Grant> {
        vec![Grant {
            kind: "repository".to_owned(),
            name: "a/b".to_owned(),
            actions: vec!["pull".to_owned()],
        }]
    }

    fn check(
        tokens: &Tokens,
        text: &str,
        seconds: u64,
    ) -> Result<(Subject, Vec<Grant>), TokenError> {
        let token = jwt::parse(text).unwrap();
        tokens.verify(Purpose::Access, &token, at(seconds))
    }

    #[test]
    fn a_token_lasts_its_life() {
        let tokens = Tokens::new(&[1; 32], "s");
        let text = tokens
            .issue(Purpose::Access, &ann(), grants(), at(0))
            .unwrap();
        for second in [0, 299] {
            assert_eq!(check(&tokens, &text, second), Ok((ann(), grants())));
        }
        assert_eq!(check(&tokens, &text, 300), Err(TokenError::Time));
        let token = jwt::parse(&text).unwrap();
        let early = tokens.verify(Purpose::Access, &token, UNIX_EPOCH);
        assert_eq!(early, Err(TokenError::Time));
    }

    #[test]
    fn only_what_this_registry_made_for_this_purpose_counts() {
        let tokens = Tokens::new(&[1; 32], "s");
        let text = tokens
            .issue(Purpose::Access, &ann(), grants(), at(0))
            .unwrap();
        // Another key, another registry with the same key.
        let other = Tokens::new(&[2; 32], "s");
        assert_eq!(check(&other, &text, 0), Err(TokenError::Foreign));
        let other = Tokens::new(&[1; 32], "t");
        assert_eq!(check(&other, &text, 0), Err(TokenError::Foreign));
        // A refresh token opens nothing, and an access token refreshes nothing.
        let refresh = tokens
            .issue(Purpose::Refresh, &ann(), Vec::new(), at(0))
            .unwrap();
        assert_eq!(check(&tokens, &refresh, 0), Err(TokenError::Foreign));
        let token = jwt::parse(&text).unwrap();
        let crossed = tokens.verify(Purpose::Refresh, &token, at(0));
        assert_eq!(crossed, Err(TokenError::Foreign));
    }

    #[test]
    fn a_changed_token_is_refused_whatever_its_header_says() {
        let tokens = Tokens::new(&[1; 32], "s");
        let text = tokens
            .issue(Purpose::Access, &ann(), grants(), at(0))
            .unwrap();
        let [header, payload, signature]: [&str; 3] =
            text.split('.').collect::<Vec<_>>().try_into().unwrap();
        let changed = String::from_utf8(jwt::decode(payload).unwrap()).unwrap();
        let changed = jwt::encode(changed.replace("pull", "push").as_bytes());
        let with = |alg: &str| {
            let header = serde_json::json!({"alg": alg, "typ": "JWT", "kid": tokens.kid});
            jwt::encode(header.to_string().as_bytes())
        };
        for (text, expected) in [
            (
                format!("{header}.{changed}.{signature}"),
                TokenError::Damaged,
            ),
            (format!("{header}.{payload}."), TokenError::Damaged),
            (format!("{}.{changed}.", with("none")), TokenError::Foreign),
            (format!("{}.{changed}.", with("None")), TokenError::Foreign),
            (
                format!("{}.{payload}.{signature}", with("RS256")),
                TokenError::Foreign,
            ),
            (format!("{}.{changed}.", with("HS256")), TokenError::Damaged),
        ] {
            assert_eq!(check(&tokens, &text, 0), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let made = key(&path).unwrap();
        assert_eq!(key(&path).unwrap(), made);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(made, [0; 32]);
        std::fs::write(&path, "short").unwrap();
        assert!(key(&path).unwrap_err().to_string().contains("32 bytes"));
    }
}
