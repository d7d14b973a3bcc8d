//! Keys of `remote.*`: how other registries are reached.

use super::keys::{Key, Kind, Raw, files, hosts, number, one};
use super::{Secret, Settings};

pub(super) const PLAIN_HTTP: Key = Key {
    name: "remote.plain_http",
    help: "registry hosts that are spoken to without TLS",
    kind: Kind::List,
    secret: false,
    set: |s, raw| hosts(raw).map(|v| s.remote.plain_http = v),
    get: |s| Some(s.remote.plain_http.join(",")),
};

pub(super) const CA_FILES: Key = Key {
    name: "remote.ca_files",
    help: "PEM files with further certificate authorities",
    kind: Kind::List,
    secret: false,
    set: |s, raw| files(raw).map(|v| s.remote.ca_files = v),
    get: |s| {
        let files = s.remote.ca_files.iter();
        let shown: Vec<String> = files.map(|f| f.display().to_string()).collect();
        Some(shown.join(","))
    },
};

pub(super) const CONCURRENCY: Key = Key {
    name: "remote.concurrency",
    help: "transfers at the same time, 1 to 64",
    kind: Kind::Number,
    secret: false,
    set: |s, raw| number(raw, 1, 64).map(|v| s.remote.concurrency = v as usize),
    get: |s| Some(s.remote.concurrency.to_string()),
};

pub(super) const HTTP_PROXY: Key = Key {
    name: "remote.http_proxy",
    help: "proxy to plain http registries, in place of the environment's http_proxy",
    kind: Kind::Text,
    secret: true,
    set: |s, raw| proxy(raw).map(|v| s.remote.http_proxy = v),
    get: |s| revealed(s, |s| s.remote.http_proxy.as_ref()),
};

pub(super) const HTTPS_PROXY: Key = Key {
    name: "remote.https_proxy",
    help: "proxy to https registries, in place of the environment's https_proxy",
    kind: Kind::Text,
    secret: true,
    set: |s, raw| proxy(raw).map(|v| s.remote.https_proxy = v),
    get: |s| revealed(s, |s| s.remote.https_proxy.as_ref()),
};

pub(super) const NO_PROXY: Key = Key {
    name: "remote.no_proxy",
    help: "hosts, domains and networks such as 10.0.0.0/8 that are reached without a proxy",
    kind: Kind::Text,
    secret: false,
    set: |s, raw| {
        let text = one(raw)?;
        s.remote.no_proxy = (!text.is_empty()).then(|| text.to_owned());
        Ok(())
    },
    get: |s| s.remote.no_proxy.clone(),
};

fn revealed(s: &Settings, get: fn(&Settings) -> Option<&Secret>) -> Option<String> {
    get(s).map(|secret| secret.reveal().to_owned())
}

/// An address, which may hold a password and so never enters a message.
fn proxy(raw: &Raw) -> Result<Option<Secret>, String> {
    let text = one(raw)?;
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !text.contains(char::is_whitespace) => {
            Ok(Some(Secret::new(text)))
        }
        _ => Err("this is not an http or https address".to_owned()),
    }
}
