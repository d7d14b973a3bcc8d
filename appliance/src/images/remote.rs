//! How this host talks to other registries: settings and credentials.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use config::name::DOCKER_HUB;
use config::registry::upstream::{Address, BadAddress};
use config::settings::{Remote as Settings, Secret};
use unpacker::remote::client::{self, Remote};
use unpacker::remote::transport::{Certificates, Proxies};

use crate::error::{Failure, Kind, Outcome};
use crate::images::caller::Caller;
use crate::images::external::External;
use crate::options::Options;

/// Where docker's and podman's administrators put the certificates of single registries.
const CERTIFICATE_FOLDERS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
/// The user's own, below the home folder.
const HOME_CERTIFICATES: [&str; 2] = [".config/containers/certs.d", ".docker/certs.d"];

/// The client for all other registries, on the daemon's own behalf.
pub(crate) fn remote(options: &Options) -> Outcome<Remote> {
    let settings = settings(&options.settings.remote, &own);
    let credentials = Arc::new(External::new(options));
    Remote::new(settings, credentials).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// As [`remote`], on behalf of a command.
pub(crate) fn remote_of(options: &Options, caller: &Caller) -> Outcome<Remote> {
    let mut settings = settings(&options.settings.remote, &|name| caller.variable(name));
    let mirrors: Vec<Address> = (caller.mirrors.iter())
        .map(|text| text.parse())
        .collect::<Result<_, BadAddress>>()
        .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    if !mirrors.is_empty() {
        let known = settings.mirrors.entry(DOCKER_HUB.to_owned()).or_default();
        known.splice(..0, mirrors);
    }
    let credentials = Arc::new(External::of(options, caller.machine()));
    Remote::new(settings, credentials).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}

/// A variable of this process.
pub(crate) fn own(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What the settings say, and the environment where they say nothing.
pub(crate) fn settings(
    settings: &Settings,
    env: &dyn Fn(&str) -> Option<String>,
) -> client::Options {
    let mut mirrors = HashMap::new();
    let mut certificates = HashMap::new();
    let mut tls = Vec::new();
    for registry in &settings.registries {
        let host = registry.host.to_string();
        let client = registry.client.as_ref();
        let own = Certificates {
            authorities: registry.ca_file.iter().cloned().collect(),
            client: client.map(|client| (client.certificate.clone(), client.key.clone())),
        };
        if !own.authorities.is_empty() || own.client.is_some() {
            // Also where it is on loopback: certificates are of no use without.
            tls.push(host.clone());
        }
        certificates.insert(host.clone(), own);
        mirrors.insert(host, registry.mirrors.clone());
    }
    client::Options {
        plain_http: settings.plain_http.clone(),
        tls,
        ca_files: settings.ca_files.clone(),
        transfers: settings.concurrency,
        certificates,
        certificate_folders: certificate_folders(env),
        proxies: proxies(settings, env),
        mirrors,
        ..client::Options::default()
    }
}

/// The user's folders first.
fn certificate_folders(env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let home = env("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    let below = home.iter().flat_map(|home| {
        let folders = HOME_CERTIFICATES.iter();
        folders.map(|folder| home.join(folder))
    });
    below
        .chain(CERTIFICATE_FOLDERS.map(PathBuf::from))
        .collect()
}

fn proxies(settings: &Settings, env: &dyn Fn(&str) -> Option<String>) -> Proxies {
    let around = Proxies::of(env);
    let set = |secret: &Option<Secret>| secret.as_ref().map(|s| s.reveal().to_owned());
    Proxies {
        http: set(&settings.http_proxy).or(around.http),
        https: set(&settings.https_proxy).or(around.https),
        except: settings.no_proxy.clone().or(around.except),
    }
}
