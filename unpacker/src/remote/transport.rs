//! HTTP clients: through a proxy or past it, and which certificates are trusted by and shown to whom.
//!
//! Loopback is never reached through a proxy: a proxy's loopback is not ours. A host with certificates
//! of its own, by the settings or in a `certs.d` folder, gets a client of its own, so that nobody else
//! sees its client certificate and its authority vouches for nobody else. Source of the folders'
//! layout: docker's "Verify repository client with certificates", containers-certs.d(5).

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use config::name::DOCKER_HUB;
use reqwest::{Certificate, Client, Identity, NoProxy, Proxy, Url};

use super::client::Options;
use super::endpoint::{DOCKER_HUB_API, is_loopback};
use super::error::SetupError;

/// A folder with more files than this holds something else.
const MAX_FILES: usize = 100;

/// Which proxies lead out. Their addresses may hold passwords, so they are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For TLS.
    pub https: Option<String>,
    /// Hosts, domains, addresses and networks (`10.0.0.0/8`) that are reached without one, with commas
    /// between them; `*` for all.
    pub except: Option<String>,
}

/// What is special about one registry's TLS.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// PEM files to trust beside all others.
    pub authorities: Vec<PathBuf>,
    /// PEM files: what is shown to the registry, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Proxies {
    /// As the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` say, in lower case
    /// before upper case.
    pub fn of(get: &dyn Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
            set(name).or_else(|| set(&name.to_ascii_uppercase()))
        };
        let all = either("all_proxy");
        Self {
            http: either("http_proxy").or_else(|| all.clone()),
            https: either("https_proxy").or(all),
            except: either("no_proxy"),
        }
    }

    /// What would not do is refused: to go past a proxy is not what its owner meant.
    fn list(&self) -> Result<Vec<Proxy>, SetupError> {
        for (kind, address) in [("http", &self.http), ("https", &self.https)] {
            let scheme = address
                .as_deref()
                .and_then(|address| address.split_once("://"));
            if scheme.is_some_and(|(scheme, _)| !matches!(scheme, "http" | "https")) {
                return Err(SetupError::Proxy { kind });
            }
        }
        let except = self.except.as_deref().and_then(NoProxy::from_string);
        let made = [
            ("http", self.http.as_deref().map(Proxy::http)),
            ("https", self.https.as_deref().map(Proxy::https)),
        ];
        let mut proxies = Vec::new();
        for (kind, proxy) in made {
            // The error's own text could quote a password.
            let proxy = proxy.transpose().map_err(|_| SetupError::Proxy { kind })?;
            proxies.extend(proxy.map(|proxy| proxy.no_proxy(except.clone())));
        }
        Ok(proxies)
    }
}

/// All clients of one [`Remote`](super::client::Remote).
pub(super) struct Transport {
    options: Options,
    authorities: Vec<Certificate>,
    /// Past all proxies.
    local: Client,
    /// A proxy that cannot be used is no reason not to reach loopback.
    wide: Result<Client, SetupError>,
    /// Hosts that were looked at; `None` for those with nothing of their own.
    hosts: Mutex<HashMap<String, Option<Client>>>,
}

impl Transport {
    pub(super) fn new(options: &Options) -> Result<Self, SetupError> {
        let authorities = read_authorities(&options.ca_files)?;
        Ok(Self {
            local: build(options, &authorities, None, Way::Past)?,
            wide: build(options, &authorities, None, Way::Out),
            authorities,
            options: options.clone(),
            hosts: Mutex::default(),
        })
    }

    /// The client for an address. Files of a host are read when it is asked for the first time.
    pub(super) fn client(&self, url: &Url) -> Result<Client, SetupError> {
        let way = match url.host_str().is_some_and(is_loopback) {
            true => Way::Past,
            false => Way::Out,
        };
        if let Some(own) = self.own(&address(url), way)? {
            return Ok(own);
        }
        match way {
            Way::Past => Ok(self.local.clone()),
            Way::Out => self.wide.clone(),
        }
    }

    fn own(&self, host: &str, way: Way) -> Result<Option<Client>, SetupError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host) {
            return Ok(known.clone());
        }
        let client = match self.certificates(host)? {
            None => None,
            Some(found) => {
                let mut authorities = self.authorities.clone();
                authorities.extend(read_authorities(&found.authorities)?);
                let identity = found.client.as_ref();
                let identity = identity.map(|(cert, key)| read_identity(cert, key));
                Some(build(
                    &self.options,
                    &authorities,
                    identity.transpose()?,
                    way,
                )?)
            }
        };
        hosts.insert(host.to_owned(), client.clone());
        Ok(client)
    }

    /// What the settings and the folders have for a host; the settings' client certificate wins.
    fn certificates(&self, host: &str) -> Result<Option<Certificates>, SetupError> {
        let mut found = Certificates::default();
        for name in names(host) {
            if let Some(set) = self.options.certificates.get(name) {
                found.authorities.extend(set.authorities.iter().cloned());
                found.client = found.client.or_else(|| set.client.clone());
            }
        }
        for folder in &self.options.certificate_folders {
            for name in names(host) {
                let own = look(&folder.join(name))?;
                found.authorities.extend(own.authorities);
                found.client = found.client.or(own.client);
            }
        }
        let nothing = found.authorities.is_empty() && found.client.is_none();
        Ok((!nothing).then_some(found))
    }
}

/// Whether proxies are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Past,
}

/// The host of an address as references write it.
fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The names that a host's certificates may be kept under.
fn names(host: &str) -> impl Iterator<Item = &str> {
    let hub = (host == DOCKER_HUB_API).then_some(DOCKER_HUB);
    std::iter::once(host).chain(hub)
}

/// The `*.crt`, `*.cert` and `*.key` of a folder; nothing where there is none.
fn look(folder: &Path) -> Result<Certificates, SetupError> {
    let failed = |source: io::Error| SetupError::Folder {
        path: folder.display().to_string(),
        source: source.into(),
    };
    let mut paths = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries.take(MAX_FILES) {
                paths.push(entry.map_err(failed)?.path());
            }
        }
        Err(error) if is_absent(&error) => return Ok(Certificates::default()),
        Err(error) => return Err(failed(error)),
    }
    paths.sort();
    let mut found = Certificates::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.push(path),
            Some("cert") if found.client.is_none() => {
                let key = path.with_extension("key");
                found.client = Some((path, key));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read_authorities(paths: &[PathBuf]) -> Result<Vec<Certificate>, SetupError> {
    let mut all = Vec::new();
    for path in paths {
        let pem = read(path)?;
        let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            let path = path.display().to_string();
            return Err(SetupError::CaPem { path });
        }
        all.extend(found);
    }
    Ok(all)
}

fn read_identity(certificate: &Path, key: &Path) -> Result<Identity, SetupError> {
    let mut pem = read(certificate)?;
    pem.push(b'\n');
    pem.extend(read(key)?);
    Identity::from_pem(&pem).map_err(|_| SetupError::Identity {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|source| SetupError::CaFile {
        path: path.display().to_string(),
        source: source.into(),
    })
}

/// Redirects are followed by `exchange`, where it is known who may see what.
fn build(
    options: &Options,
    authorities: &[Certificate],
    identity: Option<Identity>,
    way: Way,
) -> Result<Client, SetupError> {
    let proxies = match way {
        Way::Out => options.proxies.list()?,
        Way::Past => Vec::new(),
    };
    let builder = || {
        let mut builder = Client::builder()
            .user_agent(&options.user_agent)
            .connect_timeout(options.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy();
        for proxy in &proxies {
            builder = builder.proxy(proxy.clone());
        }
        match &identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    };
    let system = builder().tls_certs_merge(authorities.to_vec()).build();
    // An image without ca-certificates has no system store; the given files, and plain loopback,
    // must work there all the same.
    system
        .or_else(|_| builder().tls_certs_only(authorities.to_vec()).build())
        .map_err(|source| SetupError::Client {
            source: source.into(),
        })
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("except", &self.except)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_proxies() {
        let of = |pairs: &[(&str, &str)]| {
            Proxies::of(&|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[("PATH", "/bin")]), Proxies::default());
        let both = of(&[
            ("HTTP_PROXY", "upper"),
            ("http_proxy", "lower"),
            ("HTTPS_PROXY", "tls"),
            ("https_proxy", " "),
            ("NO_PROXY", "10.0.0.0/8,.lan"),
        ]);
        let expected = Proxies {
            http: some("lower"),
            https: some("tls"),
            except: some("10.0.0.0/8,.lan"),
        };
        assert_eq!(both, expected);
        let all = of(&[("ALL_PROXY", "all"), ("https_proxy", "tls")]);
        assert_eq!((all.http, all.https), (some("all"), some("tls")));
    }

    #[test]
    fn a_proxys_password_is_not_told() {
        let proxies = Proxies {
            http: Some("socks9://me:hush@proxy".to_owned()),
            ..Proxies::default()
        };
        let error = proxies.list().unwrap_err();
        assert!(!format!("{proxies:?} {error:?} {error}").contains("hush"));
    }

    #[test]
    fn folders_are_looked_through_as_docker_does() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.crt", "a.crt", "client.cert", "client.key", "README"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        let found = look(folder.path()).unwrap();
        let shown = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let authorities: Vec<_> = found.authorities.iter().map(shown).collect();
        assert_eq!(authorities, ["a.crt", "b.crt"]);
        let (certificate, key) = found.client.unwrap();
        assert_eq!(
            [shown(&certificate), shown(&key)],
            ["client.cert", "client.key"]
        );
        let nothing = look(&folder.path().join("absent")).unwrap();
        assert!(nothing.authorities.is_empty() && nothing.client.is_none());
    }
}
