//! The protocol of docker's credential helpers (docker/docker-credential-helpers): the server's
//! address goes to standard input, JSON comes from standard output.

use serde::Deserialize;

use super::{Credential, Secret};

/// The user that stands for "the secret is an identity token".
const TOKEN_USER: &str = "<token>";
/// What helpers print, with exit status 1, when they simply have nothing.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The `<name>` of `docker-credential-<name>`: never a path, so that a configuration file cannot
/// choose a program outside `PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperName(String);

impl HelperName {
    pub fn new(name: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (!name.is_empty() && name.bytes().all(good)).then(|| Self(name.to_owned()))
    }

    pub fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }
}

/// The standard input of `store`.
pub fn store_request(server: &str, username: &str, password: &Secret) -> Secret {
    let request = serde_json::json!({
        "ServerURL": server, "Username": username, "Secret": password.expose(),
    });
    Secret::new(request.to_string())
}

/// What a helper answered that is not of its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not JSON with Username and Secret")]
pub struct BadAnswer;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Parses the standard output of a successful `get`. An empty secret means that there is none.
pub fn parse_answer(stdout: &[u8]) -> Result<Option<Credential>, BadAnswer> {
    let answer: Answer = serde_json::from_slice(stdout).map_err(|_| BadAnswer)?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::IdentityToken(Secret::new(answer.secret))
    } else {
        Credential::basic(answer.username, answer.secret)
    }))
}

/// Whether the output of a failed `get` says "nothing stored" rather than "something broke".
pub fn says_not_found(output: &[u8]) -> bool {
    String::from_utf8_lossy(output).contains(NOT_FOUND)
}
