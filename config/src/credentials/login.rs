//! Logging in and out: docker's `config.json` rewritten, everything else in it kept.

use serde_json::{Map, Value};

use super::docker::HUB_SERVER;
use super::{CredentialsError, Secret, base64, canonical_host};
use crate::name::DOCKER_HUB;

/// The text of the file with a password for `host` (an earlier entry of that host is replaced).
/// A credential store that the file names goes on to be asked first: see [`note`].
pub fn log_in(
    from: &str,
    text: &str,
    host: &str,
    username: &str,
    password: &Secret,
) -> Result<Secret, CredentialsError> {
    let pair = format!("{username}:{}", password.expose());
    let entry = serde_json::json!({"auth": base64::encode(pair.as_bytes())});
    with_entry(from, text, host, entry)
}

/// The text of the file with the trace that docker leaves of a login which a helper keeps: an entry
/// without any secret.
pub fn note(from: &str, text: &str, host: &str) -> Result<Secret, CredentialsError> {
    with_entry(from, text, host, serde_json::json!({}))
}

fn with_entry(
    from: &str,
    text: &str,
    host: &str,
    entry: Value,
) -> Result<Secret, CredentialsError> {
    let (mut file, mut auths) = parse(from, text)?;
    let host = canonical_host(host);
    auths.retain(|key, _| !is_of(key, host));
    let key = match host {
        DOCKER_HUB => HUB_SERVER,
        host => host,
    };
    auths.insert(key.to_owned(), entry);
    file.insert("auths".to_owned(), Value::Object(auths));
    Ok(print(file))
}

/// The text of the file without any entry for `host`; `None` where it has none.
pub fn log_out(from: &str, text: &str, host: &str) -> Result<Option<Secret>, CredentialsError> {
    let (mut file, mut auths) = parse(from, text)?;
    let before = auths.len();
    let host = canonical_host(host);
    auths.retain(|key, _| !is_of(key, host));
    if auths.len() == before {
        return Ok(None);
    }
    file.insert("auths".to_owned(), Value::Object(auths));
    Ok(Some(print(file)))
}

/// An entry for the whole host; those for namespaces (`quay.io/org`) are somebody's own choice.
fn is_of(key: &str, host: &str) -> bool {
    let path = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let whole = matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    whole && canonical_host(key) == host
}

type Parsed = (Map<String, Value>, Map<String, Value>);

/// The whole file and its `auths`.
fn parse(from: &str, text: &str) -> Result<Parsed, CredentialsError> {
    let wrong = |line, column| CredentialsError::Json {
        from: from.to_owned(),
        line,
        column,
    };
    if text.trim().is_empty() {
        return Ok(Parsed::default());
    }
    let file: Value = serde_json::from_str(text).map_err(|e| wrong(e.line(), e.column()))?;
    let Value::Object(mut file) = file else {
        return Err(wrong(1, 1));
    };
    match file.remove("auths") {
        None | Some(Value::Null) => Ok((file, Map::new())),
        Some(Value::Object(auths)) => Ok((file, auths)),
        Some(_) => Err(wrong(1, 1)),
    }
}

fn print(file: Map<String, Value>) -> Secret {
    Secret::new(format!("{:#}\n", Value::Object(file)))
}

#[cfg(test)]
mod tests {
    use super::super::docker::AuthFile;
    use super::super::{Credential, CredentialsError};
    use super::*;

    fn credential(text: &Secret, host: &str) -> Option<Credential> {
        let file = AuthFile::parse("f", text.expose()).unwrap();
        file.credential(host, "a").unwrap()
    }

    #[test]
    fn a_login_is_found_again_and_the_rest_stays() {
        let password = Secret::new("p:w");
        let old = r#"{"HttpHeaders": {"X": "y"}, "auths": {
            "https://index.docker.io/v1/": {"auth": "eDp5"}, "quay.io/org": {"auth": "eDp5"}}}"#;
        let mut text = Secret::new(old);
        for host in ["docker.io", "localhost:5000", "quay.io", "localhost:5000"] {
            text = log_in("f", text.expose(), host, "me", &password).unwrap();
            let expected = Credential::basic("me", "p:w");
            assert_eq!(credential(&text, host), Some(expected), "{host}");
        }
        let file: Value = serde_json::from_str(text.expose()).unwrap();
        assert_eq!(file["HttpHeaders"]["X"], "y");
        let keys: Vec<_> = file["auths"].as_object().unwrap().keys().collect();
        let expected = [HUB_SERVER, "localhost:5000", "quay.io", "quay.io/org"];
        assert_eq!(keys, expected);

        let out = log_out("f", text.expose(), "https://quay.io/").unwrap();
        let out = out.expect("a change");
        assert_eq!(credential(&out, "quay.io"), None);
        assert!(out.expose().contains("quay.io/org"));
        assert_eq!(log_out("f", out.expose(), "quay.io"), Ok(None));
    }

    #[test]
    fn a_file_that_is_not_understood_is_not_rewritten() {
        let password = Secret::new("p");
        assert!(log_in("f", "", "a.b", "u", &password).is_ok());
        for text in ["[]", "{", r#"{"auths": 1}"#] {
            let refused = log_in("f", text, "a.b", "u", &password);
            assert!(
                matches!(refused, Err(CredentialsError::Json { .. })),
                "{text}"
            );
        }
    }
}
