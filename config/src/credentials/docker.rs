//! docker's `config.json` and containers' `auth.json`, as far as they hold credentials.
//!
//! Sources: docker/cli `cli/config/configfile/file.go`; containers-auth.json(5). Keys of `auths`
//! are hosts, URLs (`https://index.docker.io/v1/`) or, in containers' files, `host/namespace`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::helper::HelperName;
use super::{Credential, CredentialsError, base64, canonical_host};
use crate::name::DOCKER_HUB;

/// What docker asks its helpers for when it means Docker Hub.
pub(super) const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// One parsed file.
#[derive(Debug)]
pub struct AuthFile {
    from: String,
    body: Body,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Body {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthFile {
    /// An empty text is an empty file: docker writes one before the first login.
    pub fn parse(from: &str, text: &str) -> Result<Self, CredentialsError> {
        let body = if text.trim().is_empty() {
            Body::default()
        } else {
            // The source's own text could quote a secret, so only the position is kept.
            serde_json::from_str(text).map_err(|e| CredentialsError::Json {
                from: from.to_owned(),
                line: e.line(),
                column: e.column(),
            })?
        };
        Ok(Self {
            from: from.to_owned(),
            body,
        })
    }

    /// The helper for `host`: its own one before the store for all.
    pub fn helper(&self, host: &str) -> Result<Option<HelperName>, CredentialsError> {
        let own = self.body.cred_helpers.iter();
        let own = own.filter(|(key, _)| canonical_host(key) == host);
        let name = own.map(|(_, name)| name).next();
        let name = name.or(self.body.creds_store.as_ref());
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let bad = || CredentialsError::HelperName {
            from: self.from.clone(),
            name: name.clone(),
        };
        HelperName::new(name).ok_or_else(bad).map(Some)
    }

    /// The address that a helper knows `host` by: as the file writes it, else docker's habit.
    pub fn server(&self, host: &str) -> String {
        let mut keys = self.body.cred_helpers.keys().chain(self.body.auths.keys());
        match keys.find(|key| canonical_host(key) == host) {
            Some(key) => key.clone(),
            None if host == DOCKER_HUB => HUB_SERVER.to_owned(),
            None => host.to_owned(),
        }
    }

    /// The entry of `auths` that is nearest to `host/repository`. An entry without any secret (the
    /// trace of a login through a helper) counts as none.
    pub fn credential(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        let matching = self.body.auths.iter();
        let matching = matching.filter_map(|(key, entry)| {
            let score = nearness(key, host, repository)?;
            Some((score, key, entry))
        });
        let mut matching: Vec<_> = matching.collect();
        matching.sort_by_key(|(score, _, _)| std::cmp::Reverse(*score));
        for (_, key, entry) in matching {
            let bad = || CredentialsError::Auth {
                from: self.from.clone(),
                key: key.clone(),
            };
            if let Some(credential) = entry.credential().map_err(|NotBase64| bad())? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

/// How many bytes of path a key shares with the repository; `None` where it is for another one.
fn nearness(key: &str, host: &str, repository: &str) -> Option<usize> {
    if canonical_host(key) != host {
        return None;
    }
    if key.contains("://") {
        return Some(0);
    }
    let Some((_, path)) = key.split_once('/') else {
        return Some(0);
    };
    let path = path.trim_end_matches('/');
    // docker's `host/v1/` names the API, not a namespace.
    if matches!(path, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

struct NotBase64;

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, NotBase64> {
        if !self.registrytoken.is_empty() {
            let token = super::Secret::new(&*self.registrytoken);
            return Ok(Some(Credential::Bearer(token)));
        }
        if !self.identitytoken.is_empty() {
            let token = super::Secret::new(&*self.identitytoken);
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if !self.auth.is_empty() {
            return user_and_password(&self.auth).ok_or(NotBase64).map(Some);
        }
        let whole = !self.username.is_empty() && !self.password.is_empty();
        Ok(whole.then(|| Credential::basic(&*self.username, &*self.password)))
    }
}

fn user_and_password(auth: &str) -> Option<Credential> {
    let text = String::from_utf8(base64::decode(auth.trim())?).ok()?;
    let (username, password) = text.split_once(':')?;
    // docker's own writer padded with NUL for a while and its reader still trims it.
    let password = password.trim_end_matches('\0');
    Some(Credential::basic(username, password))
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("auths", &self.auths.keys().collect::<Vec<_>>())
            .field("creds_store", &self.creds_store)
            .field("cred_helpers", &self.cred_helpers)
            .finish()
    }
}
