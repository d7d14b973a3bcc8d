//! Where a registry is reached: scheme, address and the URLs of its API. Pure.

use config::name::{DOCKER_HUB, Reference, RepositoryName};
use config::registry::upstream::Address;
use reqwest::Url;

use super::error::RemoteError;

/// Docker Hub's API does not live at the name that its images carry.
pub(super) const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// One registry.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// As references name it.
    pub(super) host: String,
    base: Url,
}

/// Which hosts speak plain HTTP.
#[derive(Debug, Clone, Default)]
pub(super) struct Schemes {
    pub(super) plain: Vec<String>,
    pub(super) tls: Vec<String>,
}

impl Schemes {
    /// An address that says its scheme is right about it.
    pub(super) fn learn<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        for address in addresses {
            let list = match address.plain_http {
                true => &mut self.plain,
                false => &mut self.tls,
            };
            list.push(address.host.to_string());
        }
    }

    /// Loopback is plain unless listed as TLS; everything else is TLS unless listed as plain.
    fn of(&self, host: &str) -> &'static str {
        let listed = |hosts: &[String]| hosts.iter().any(|h| h == host);
        let loopback = is_loopback(without_port(host)) && !listed(&self.tls);
        if loopback || listed(&self.plain) {
            "http"
        } else {
            "https"
        }
    }

    pub(super) fn endpoint(&self, host: &str) -> Result<Endpoint, RemoteError> {
        let api = if host == DOCKER_HUB {
            DOCKER_HUB_API
        } else {
            host
        };
        let base = Url::parse(&format!("{}://{api}/", self.of(host)));
        let base = base.map_err(|e| RemoteError::Protocol {
            host: host.to_owned(),
            problem: format!("its name makes no URL: {e}"),
        })?;
        Ok(Endpoint {
            host: host.to_owned(),
            base,
        })
    }
}

impl Endpoint {
    /// Whoever has a file at this address; its port is part of the name.
    pub(super) fn of_file(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        Self {
            host: match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            base: url.clone(),
        }
    }

    /// `tail` is made of checked names and digests only, so it needs no escaping.
    pub(super) fn url(&self, repository: &RepositoryName, tail: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("v2/{repository}/{tail}"));
        url
    }

    pub(super) fn ping(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path("v2/");
        url
    }

    /// Whether `url` is this registry itself: the only origin that may see its `Authorization`.
    pub(super) fn owns(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Whether a request to this registry may be sent on to `url`: never from TLS to plain text.
    pub(super) fn may_lead_to(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.base.scheme() == "http",
            _ => false,
        }
    }
}

/// Loopback by name or address. A name that merely resolves to it does not count.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn without_port(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// What an error calls a manifest: `library/alpine:latest`.
pub(super) fn manifest_name(reference: &Reference) -> String {
    let separator = match reference.digest() {
        Some(_) => '@',
        None => ':',
    };
    format!(
        "{}{separator}{}",
        reference.repository(),
        reference.target()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_addresses() {
        let schemes = Schemes {
            plain: vec!["reg.lan:5000".to_owned()],
            tls: vec!["localhost:8443".to_owned()],
        };
        for (host, url) in [
            ("docker.io", "https://registry-1.docker.io/v2/"),
            ("ghcr.io", "https://ghcr.io/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("localhost", "http://localhost/v2/"),
            ("127.0.0.9:1", "http://127.0.0.9:1/v2/"),
            ("localhost:8443", "https://localhost:8443/v2/"),
            ("reg.lan:5000", "http://reg.lan:5000/v2/"),
            ("reg.lan", "https://reg.lan/v2/"),
            (
                "localhost.evil.example",
                "https://localhost.evil.example/v2/",
            ),
        ] {
            let endpoint = schemes.endpoint(host).unwrap();
            assert_eq!(endpoint.ping().as_str(), url);
        }
    }

    #[test]
    fn other_origins() {
        let endpoint = Schemes::default().endpoint("ghcr.io").unwrap();
        for (url, owns, leads) in [
            ("https://ghcr.io/x", true, true),
            ("https://ghcr.io:443/x", true, true),
            ("https://ghcr.io:444/x", false, true),
            ("https://cdn.ghcr.io/x", false, true),
            ("http://ghcr.io/x", false, false),
            ("file:///etc/passwd", false, false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(endpoint.owns(&url), owns, "{url}");
            assert_eq!(endpoint.may_lead_to(&url), leads, "{url}");
        }
    }
}
