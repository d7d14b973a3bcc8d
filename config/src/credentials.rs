//! Registry credentials: where they may be written, and in which order the places are asked.
//!
//! Pure: the caller hands in the environment and the texts of the files, [`find`] answers the
//! candidates in order. A candidate that is a program (a docker credential helper, the AWS CLI) or
//! a file is only named here; `unpacker::remote::credentials` runs or reads it. No secret ever
//! appears in `Debug` output or in an error.
//!
//! | order | place | for which host |
//! |---|---|---|
//! | 1 | `DOCKER_USERNAME` and `DOCKER_PASSWORD` of the environment | `DOCKER_REGISTRY`, else docker.io |
//! | 2 | the same in `.env.local`, then `.env` | the same |
//! | 3 | docker's `config.json`, containers' `auth.json`: `credHelpers`, `credsStore`, `auths` | as written there |
//! | 4 | `GITHUB_TOKEN` | ghcr.io |
//! | 5 | `aws ecr get-login-password` | `<account>.dkr.ecr.<region>.amazonaws.com` |
//! | 6 | the file of `GOOGLE_APPLICATION_CREDENTIALS` | gcr.io, `*-docker.pkg.dev` |

pub(crate) mod base64;
pub mod docker;
pub mod dotenv;
pub mod helper;
pub mod login;

use std::fmt;

use crate::name::DOCKER_HUB;

/// A text that must not be shown. `Debug` prints a placeholder and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What proves to a registry who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    Basic {
        username: String,
        password: Secret,
    },
    /// An OAuth 2 refresh token, to be exchanged at the registry's token service.
    IdentityToken(Secret),
    /// A token to be sent as it is (docker's `registrytoken`).
    Bearer(Secret),
}

/// A file's text together with the name that errors and hints call it by.
#[derive(Debug, Clone)]
pub struct Document {
    pub from: String,
    pub text: Secret,
}

/// Everything that credentials may be read from.
pub struct Sources<'a> {
    /// One variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// `.env.local` before `.env`.
    pub dotenv: &'a [Document],
    /// docker's `config.json` and containers' `auth.json`, the first asked first.
    pub files: &'a [Document],
}

/// One place that has, or can be asked for, a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    Ready {
        credential: Credential,
        from: String,
    },
    /// Run `docker-credential-<name> get` with `server` on its standard input.
    Helper {
        name: helper::HelperName,
        server: String,
        from: String,
    },
    /// Run `aws ecr get-login-password --region <region>`; the user is `AWS`.
    EcrLogin { region: String },
    /// The user is `_json_key`, the password this file's content.
    JsonKey { path: String },
}

/// The answer of [`find`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// To be tried in this order until one yields a credential.
    pub candidates: Vec<Candidate>,
    /// Every place that was asked, for the hint of an error.
    pub looked: Vec<String>,
}

/// A credentials file that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("{from} is not JSON of docker's form (line {line}, column {column})")]
    Json {
        from: String,
        line: usize,
        column: usize,
    },
    #[error("the entry {key:?} of {from} has an auth field that is not base64 of user:password")]
    Auth { from: String, key: String },
    #[error("{name:?} in {from} is not the name of a credential helper")]
    HelperName { from: String, name: String },
}

/// The places that know a credential for `host` (`ghcr.io`, `localhost:5000`) and, where a file
/// distinguishes them, `repository`.
pub fn find(
    host: &str,
    repository: &str,
    sources: &Sources<'_>,
) -> Result<Search, CredentialsError> {
    let host = canonical_host(host);
    let mut search = Search::default();
    search.variables(host, "the environment", sources.env);
    for document in sources.dotenv {
        let variables = dotenv::parse(document.text.expose());
        search.variables(host, &document.from, &|name| {
            let found = variables.iter().rev().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        });
    }
    for document in sources.files {
        search.file(host, repository, document)?;
    }
    search.clouds(host, sources.env);
    Ok(search)
}

/// The host of a server address as docker's files write it: no scheme, no path, and one name for
/// Docker Hub.
pub fn canonical_host(server: &str) -> &str {
    let rest = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// The value of an `Authorization` header of RFC 7617.
pub fn basic_authorization(username: &str, password: &Secret) -> Secret {
    let pair = format!("{username}:{}", password.expose());
    Secret::new(format!("Basic {}", base64::encode(pair.as_bytes())))
}

impl Search {
    /// `DOCKER_USERNAME`/`DOCKER_PASSWORD` are for one registry only: a password is never offered
    /// to a host that its owner did not name.
    fn variables(&mut self, host: &str, from: &str, get: &dyn Fn(&str) -> Option<String>) {
        self.looked
            .push(format!("DOCKER_USERNAME and DOCKER_PASSWORD of {from}"));
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let registry = set("DOCKER_REGISTRY").unwrap_or_else(|| DOCKER_HUB.to_owned());
        if canonical_host(&registry) != host {
            return;
        }
        if let (Some(username), Some(password)) = (set("DOCKER_USERNAME"), set("DOCKER_PASSWORD")) {
            self.ready(Credential::basic(username, password), from);
        }
    }

    fn file(
        &mut self,
        host: &str,
        repository: &str,
        document: &Document,
    ) -> Result<(), CredentialsError> {
        self.looked.push(document.from.clone());
        let file = docker::AuthFile::parse(&document.from, document.text.expose())?;
        if let Some(name) = file.helper(host)? {
            self.candidates.push(Candidate::Helper {
                name,
                server: file.server(host),
                from: document.from.clone(),
            });
        }
        if let Some(credential) = file.credential(host, repository)? {
            self.ready(credential, &document.from);
        }
        Ok(())
    }

    fn clouds(&mut self, host: &str, env: &dyn Fn(&str) -> Option<String>) {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        if host == "ghcr.io" {
            self.looked.push("GITHUB_TOKEN".to_owned());
            if let Some(token) = set("GITHUB_TOKEN") {
                // The registry reads the token only; the user must merely not be empty.
                let username = set("GITHUB_ACTOR").unwrap_or_else(|| "x-access-token".to_owned());
                self.ready(Credential::basic(username, token), "GITHUB_TOKEN");
            }
        }
        if let Some(region) = ecr_region(host) {
            self.looked.push("the AWS CLI".to_owned());
            let region = region.to_owned();
            self.candidates.push(Candidate::EcrLogin { region });
        }
        if host == "gcr.io" || host.ends_with(".gcr.io") || host.ends_with("-docker.pkg.dev") {
            self.looked
                .push("GOOGLE_APPLICATION_CREDENTIALS".to_owned());
            if let Some(path) = set("GOOGLE_APPLICATION_CREDENTIALS") {
                self.candidates.push(Candidate::JsonKey { path });
            }
        }
    }

    fn ready(&mut self, credential: Credential, from: &str) {
        let from = from.to_owned();
        self.candidates.push(Candidate::Ready { credential, from });
    }
}

/// `123456789012.dkr.ecr.eu-west-1.amazonaws.com` -> `eu-west-1`.
fn ecr_region(host: &str) -> Option<&str> {
    let rest = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let (account, region) = rest.split_once(".dkr.ecr.")?;
    let digits = account.bytes().all(|b| b.is_ascii_digit());
    // The region becomes an argument of a program.
    let plain = region
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (digits && plain && !region.is_empty() && !region.starts_with('-')).then_some(region)
}

impl Credential {
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic {
            username: username.into(),
            password: Secret::new(password),
        }
    }
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("dotenv", &self.dotenv)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
