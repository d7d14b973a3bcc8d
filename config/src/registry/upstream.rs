//! `[[registry.upstreams]]`: other registries whose repositories are kept here when somebody asks
//! for them.

use std::fmt;
use std::str::FromStr;

use super::{optional, required, tables};
use crate::jsonc::{Cursor, Located};
use crate::name::{DOCKER_HUB, Reference, RepositoryName};
use crate::quantity::Seconds;

/// How long a tag is believed without being asked for again, where nothing else is set.
const TAGS_TTL: Seconds = Seconds(600);
/// Mirrors that stand behind each other in one upstream; a client waits for all of them.
const MAX_ADDRESSES: usize = 8;

/// One other registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// What its images are called by.
    pub host: Host,
    /// Where it, or mirrors of it, are reached, to be tried in this order. Never empty.
    pub addresses: Vec<Address>,
    /// Names of ours below this one are its repositories.
    pub prefix: Option<RepositoryName>,
    /// Names that no repository of ours has are looked for there.
    pub default: bool,
    pub tags_ttl: Seconds,
    /// The external registry whose stored credentials are used, where it is not the address itself.
    pub credentials: Option<Host>,
}

/// A registry's host, in lower case and with its port where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

/// The text is no registry's host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a registry host")]
pub struct BadHost {
    pub text: String,
}

impl Host {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = BadHost;

    /// What a reference takes for a host is one.
    fn from_str(text: &str) -> Result<Self, BadHost> {
        let host = match text.to_ascii_lowercase().as_str() {
            // Docker Hub's other names.
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
            host => host.to_owned(),
        };
        match format!("{host}/x").parse::<Reference>() {
            Ok(reference) if reference.host() == host => Ok(Self(host)),
            _ => Err(BadHost {
                text: text.chars().take(100).collect(),
            }),
        }
    }
}

/// Where a registry is reached: `https://registry.example:5000/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub plain_http: bool,
    pub host: Host,
    /// Stands before every repository there: some registries keep others below a path.
    pub path: Option<RepositoryName>,
}

/// The text is no address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an http or https address such as https://registry.example:5000")]
pub struct BadAddress {
    pub text: String,
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress {
            // What stands before an @ may be a password.
            text: text.rsplit('@').next().unwrap_or(text).to_owned(),
        };
        let (plain_http, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://"))
        {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(bad()),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = match path.trim_end_matches('/') {
            "" => None,
            path => Some(path.parse().map_err(|_| bad())?),
        };
        Ok(Self {
            plain_http,
            host: host.parse().map_err(|_| bad())?,
            path,
        })
    }
}

/// Reads the list. No two upstreams may be meant by the same name, and one at most is the default.
pub(crate) fn read(cursor: &Cursor<'_>) -> Result<Vec<Upstream>, Located> {
    let known = [
        "host",
        "url",
        "prefix",
        "default",
        "tags_ttl",
        "plain_http",
        "credentials",
    ];
    let mut found: Vec<Upstream> = Vec::new();
    for item in tables(cursor, &known)? {
        let upstream = one(&item)?;
        let clash = |what: &str| Err(item.error(format!("{what} stands in the list twice")));
        if found.iter().any(|other| other.host == upstream.host) {
            return clash(&format!("the host {}", upstream.host));
        }
        if found.iter().any(|other| other.default && upstream.default) {
            return clash("an upstream that is the default");
        }
        if let Some(prefix) = &upstream.prefix
            && found
                .iter()
                .any(|other| other.prefix.as_ref() == Some(prefix))
        {
            return clash(&format!("the prefix {prefix}"));
        }
        found.push(upstream);
    }
    Ok(found)
}

fn one(item: &Cursor<'_>) -> Result<Upstream, Located> {
    let host: Host = required(item, "host")?;
    let plain_http = flag(item, "plain_http")?;
    let mut addresses = addresses(item, "url")?;
    if item.get("url").is_some() && addresses.is_empty() {
        return Err(item.error("\"url\" has 0 addresses"));
    }
    if addresses.is_empty() {
        addresses.push(Address {
            plain_http,
            host: host.clone(),
            path: None,
        });
    } else if plain_http {
        let reason = "\"plain_http\" is for an upstream without \"url\", which says it itself";
        return Err(item.error(reason));
    }
    let prefix: Option<RepositoryName> = optional(item, "prefix")?;
    if let Some(prefix) = &prefix
        && looks_like_host(prefix)
    {
        return Err(item.error(format!("the prefix {prefix} looks like a registry's host")));
    }
    Ok(Upstream {
        host,
        addresses,
        prefix,
        default: flag(item, "default")?,
        tags_ttl: optional(item, "tags_ttl")?.unwrap_or(TAGS_TTL),
        credentials: optional(item, "credentials")?,
    })
}

/// Such names belong to kept copies: see `registry::mirror::names`.
fn looks_like_host(prefix: &RepositoryName) -> bool {
    let first = prefix.as_str().split('/').next().unwrap_or_default();
    let port = first.rsplit_once('_').map(|(_, port)| port);
    first.contains('.')
        || first == "localhost"
        || port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn flag(item: &Cursor<'_>, key: &str) -> Result<bool, Located> {
    item.get(key).map_or(Ok(false), |cursor| cursor.boolean())
}

/// One address, or a list of them; none where the key is absent.
pub(crate) fn addresses(item: &Cursor<'_>, key: &str) -> Result<Vec<Address>, Located> {
    let Some(cursor) = item.get(key) else {
        return Ok(Vec::new());
    };
    let cursors = match cursor.text() {
        Ok(_) => vec![cursor],
        Err(_) => cursor.list()?,
    };
    if cursors.len() > MAX_ADDRESSES {
        let count = cursors.len();
        let reason = format!("\"{key}\" has {count} addresses, not 1 to {MAX_ADDRESSES}");
        return Err(item.error(reason));
    }
    let parsed = cursors.iter().map(Cursor::parse);
    parsed
        .map(|address| address.map_err(without_password))
        .collect()
}

/// The line may hold a password that has no place there, nor in a message.
fn without_password(mut error: Located) -> Located {
    if error.excerpt.contains('@') {
        error.excerpt = "(not shown)".to_owned();
        error.marker = 0;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jsonc::Document;

    fn load(text: &str) -> Result<Vec<Upstream>, String> {
        let document = Document::parse(&format!("{{\"list\": {text}}}")).unwrap();
        let cursor = document.cursor().unwrap().get("list").unwrap();
        read(&cursor).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_upstreams() {
        let found = load(
            r#"[{"host": "docker.io", "default": true, "prefix": "hub", "tags_ttl": "1h",
                 "url": ["http://127.0.0.1:5001", "https://m.example/hub/"], "credentials": "m.example"},
                {"host": "Other.example:5000", "plain_http": true}]"#,
        )
        .unwrap();
        assert_eq!(found[0].tags_ttl, Seconds(3600));
        assert!(found[0].addresses[0].plain_http);
        assert_eq!(found[0].addresses[1].path.as_ref().unwrap().as_str(), "hub");
        let own = Address {
            plain_http: true,
            host: "other.example:5000".parse().unwrap(),
            path: None,
        };
        assert_eq!(found[1].addresses, [own]);
        assert_eq!(found[1].tags_ttl, Seconds(600));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expected) in [
            (r#"[{}]"#, "\"host\" is missing"),
            (r#"[{"host": "x"}]"#, "not a registry host"),
            (
                r#"[{"host": "a.b", "hots": 1}]"#,
                "\"hots\" is not known here",
            ),
            (r#"[{"host": "a.b"}, {"host": "A.b"}]"#, "twice"),
            (
                r#"[{"host": "a.b", "default": true}, {"host": "c.d", "default": true}]"#,
                "twice",
            ),
            (
                r#"[{"host": "a.b", "prefix": "p"}, {"host": "c.d", "prefix": "p"}]"#,
                "twice",
            ),
            (r#"[{"host": "a.b", "prefix": "c.d"}]"#, "looks like"),
            (r#"[{"host": "a.b", "url": []}]"#, "0 addresses"),
            (
                r#"[{"host": "a.b", "url": "ftp://x.y"}]"#,
                "not an http or https",
            ),
            (
                r#"[{"host": "a.b", "url": "https://me:pass@x.y"}]"#,
                "not an http or https",
            ),
            (
                r#"[{"host": "a.b", "url": "https://x.y/?q"}]"#,
                "not an http or https",
            ),
            (
                r#"[{"host": "a.b", "url": "http://x.y", "plain_http": true}]"#,
                "says it itself",
            ),
            (r#"[{"host": "a.b", "tags_ttl": "soon"}]"#, "soon"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("pass"), "{error}");
        }
    }
}
