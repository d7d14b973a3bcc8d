//! `[[remote.registries]]`: what is special about single registries that images are fetched from.

use std::path::PathBuf;

use crate::jsonc::{Cursor, Located};
use crate::registry::upstream::{Address, Host, addresses};
use crate::registry::{optional, required, tables};

/// One registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// What its images are called by.
    pub host: Host,
    /// Places that have its images too, asked before it in this order.
    pub mirrors: Vec<Address>,
    /// PEM: a further authority for it alone.
    pub ca_file: Option<PathBuf>,
    /// PEM: what is shown to it, and its key.
    pub client: Option<ClientCertificate>,
}

/// Files of a certificate that proves who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Reads the list; a host stands in it once.
pub(crate) fn read(cursor: &Cursor<'_>) -> Result<Vec<Registry>, Located> {
    let known = [
        "host",
        "mirrors",
        "ca_file",
        "client_certificate",
        "client_key",
    ];
    let mut found: Vec<Registry> = Vec::new();
    for item in tables(cursor, &known)? {
        let registry = one(&item)?;
        if found.iter().any(|other| other.host == registry.host) {
            let reason = format!("the host {} stands in the list twice", registry.host);
            return Err(item.error(reason));
        }
        found.push(registry);
    }
    Ok(found)
}

fn one(item: &Cursor<'_>) -> Result<Registry, Located> {
    let client = match (file(item, "client_certificate")?, file(item, "client_key")?) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (None, None) => None,
        _ => {
            let reason = "\"client_certificate\" and \"client_key\" belong together";
            return Err(item.error(reason));
        }
    };
    Ok(Registry {
        host: required(item, "host")?,
        mirrors: addresses(item, "mirrors")?,
        ca_file: file(item, "ca_file")?,
        client,
    })
}

fn file(item: &Cursor<'_>, key: &str) -> Result<Option<PathBuf>, Located> {
    let Some(text) = optional::<String>(item, key)? else {
        return Ok(None);
    };
    match text.starts_with('/') {
        true => Ok(Some(PathBuf::from(text))),
        false => Err(item.error(format!("\"{key}\" is not an absolute path"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonc::Document;

    fn load(text: &str) -> Result<Vec<Registry>, String> {
        let document = Document::parse(&format!("{{\"list\": {text}}}")).unwrap();
        let cursor = document.cursor().unwrap().get("list").unwrap();
        read(&cursor).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_registries() {
        let found = load(
            r#"[{"host": "docker.io", "mirrors": ["http://10.0.0.1:5000", "https://m.example/hub"]},
                {"host": "r.example:5000", "ca_file": "/ca.pem",
                 "client_certificate": "/c.pem", "client_key": "/k.pem"},
                {"host": "a.b", "mirrors": "https://c.d"}]"#,
        )
        .unwrap();
        assert!(found[0].mirrors[0].plain_http);
        assert_eq!(found[0].mirrors[1].host.as_str(), "m.example");
        assert_eq!(found[1].ca_file, Some(PathBuf::from("/ca.pem")));
        assert_eq!(
            found[1].client.as_ref().unwrap().key,
            PathBuf::from("/k.pem")
        );
        assert_eq!(found[2].mirrors.len(), 1);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            (r#"[{}]"#, "\"host\" is missing"),
            (r#"[{"host": "a.b"}, {"host": "A.b"}]"#, "twice"),
            (
                r#"[{"host": "a.b", "mirror": []}]"#,
                "did you mean \"mirrors\"",
            ),
            (
                r#"[{"host": "a.b", "mirrors": ["c.d"]}]"#,
                "not an http or https",
            ),
            (
                r#"[{"host": "a.b", "mirrors": ["https://u:pass@c.d"]}]"#,
                "not an http or https",
            ),
            (
                r#"[{"host": "a.b", "ca_file": "ca.pem"}]"#,
                "not an absolute path",
            ),
            (
                r#"[{"host": "a.b", "client_key": "/k"}]"#,
                "belong together",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("pass"), "{error}");
        }
    }
}
