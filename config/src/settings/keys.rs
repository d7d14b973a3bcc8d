//! The table of all settings: how each is called, read and shown.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Compression, LogFormat, Secret, Settings, access, remote, tables};
use crate::pattern::{Pattern, PatternError};
use crate::quantity::ByteSize;
use crate::suggest;

/// A value on its way in, whatever the layer wrote it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    List(Vec<String>),
}

/// How `config set` writes a value into the JSON file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A number where the value is one.
    Number,
    List,
}

pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) secret: bool,
    pub(super) set: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// `None` where nothing is set.
    pub(super) get: fn(&Settings) -> Option<String>,
}

/// Short names: those of CodePod's own `config.json`, whose sections are plain strings.
const ALIASES: &[(&str, &str)] = &[
    ("endpoint", "endpoint.url"),
    ("registry", "registry.listen"),
];

pub(super) const KEYS: &[Key] = &[
    Key {
        name: "data",
        help: "folder of images, snapshots and state",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| absolute(raw).map(|v| s.data = v),
        get: |s| Some(s.data.display().to_string()),
    },
    Key {
        name: "log.format",
        help: "of the daemon's log: text or json",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.log.format = v),
        get: |s| Some(s.log.format.to_string()),
    },
    Key {
        name: "layers.memory",
        help: "of unpacked layers, where they are held in memory: half of what there is by default",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| some_bytes(raw).map(|v| s.layers.memory = v),
        get: |s| s.layers.memory.map(|v| v.to_string()),
    },
    Key {
        name: "registry.listen",
        help: "address and port of the embedded registry",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| listen(raw).map(|v| s.registry.listen = v),
        get: |s| Some(s.registry.listen.to_string()),
    },
    access::ANONYMOUS,
    access::HTPASSWD,
    access::AUTH,
    access::TOKEN_REALM,
    access::TOKEN_SERVICE,
    access::TOKEN_ISSUER,
    access::TOKEN_KEYS,
    access::HOSTS,
    access::RATE_LIMIT,
    access::RATE_BURST,
    access::AUDIT_LOG,
    access::AUDIT_PULLS,
    Key {
        name: "registry.sparse",
        help: "repositories that take images of which parts are missing, such as mirror/**",
        kind: Kind::List,
        secret: false,
        set: |s, raw| patterns(raw).map(|v| s.registry.sparse = v),
        get: |s| {
            let patterns = s.registry.sparse.iter().map(Pattern::as_str);
            Some(patterns.collect::<Vec<_>>().join(","))
        },
    },
    Key {
        name: "registry.tls_certificate",
        help: "PEM file with the port's certificate; with tls_key the port speaks TLS",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| file(raw).map(|v| s.registry.tls_certificate = v),
        get: |s| shown_file(s.registry.tls_certificate.as_ref()),
    },
    Key {
        name: "registry.tls_key",
        help: "PEM file with the key of tls_certificate",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| file(raw).map(|v| s.registry.tls_key = v),
        get: |s| shown_file(s.registry.tls_key.as_ref()),
    },
    Key {
        name: "registry.client_ca",
        help: "PEM file with the authority of the certificates that clients must show",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| file(raw).map(|v| s.registry.client_ca = v),
        get: |s| shown_file(s.registry.client_ca.as_ref()),
    },
    Key {
        name: "registry.max_bytes",
        help: "bytes that the registry may hold, such as 100Gi; empty for no bound",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.registry.max_bytes = v),
        get: |s| s.registry.max_bytes.map(|v| v.to_string()),
    },
    Key {
        name: "registry.untagged_keep",
        help: "how long what lost its last tag is kept, such as 7d",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.registry.untagged_keep = v),
        get: |s| Some(s.registry.untagged_keep.to_string()),
    },
    Key {
        name: "registry.collect_every",
        help: "time between two collections of garbage, such as 6h, 0 for none",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.registry.collect_every = v),
        get: |s| Some(s.registry.collect_every.to_string()),
    },
    Key {
        name: "registry.scrub_every",
        help: "how often all blobs are verified, such as 7d; 0 for never",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.registry.scrub_every = v),
        get: |s| Some(s.registry.scrub_every.to_string()),
    },
    Key {
        name: "registry.scrub_rate",
        help: "bytes per second that are read for that, such as 20Mi; 0 for no limit",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.registry.scrub_rate = v),
        get: |s| Some(s.registry.scrub_rate.to_string()),
    },
    Key {
        name: "registry.cache_max",
        help: "bytes that mirrored images may hold, such as 50Gi; the longest unused go first",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.registry.cache_max = v),
        get: |s| s.registry.cache_max.map(|v| v.to_string()),
    },
    remote::PLAIN_HTTP,
    remote::CA_FILES,
    remote::CONCURRENCY,
    remote::HTTP_PROXY,
    remote::HTTPS_PROXY,
    remote::NO_PROXY,
    Key {
        name: "builder.cpu",
        help: "processors of a build",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.builder.cpu = v),
        get: |s| s.builder.cpu.map(|v| v.to_string()),
    },
    Key {
        name: "builder.memory",
        help: "memory of a build, such as 8Gi",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.builder.memory = v),
        get: |s| s.builder.memory.map(|v| v.to_string()),
    },
    Key {
        name: "builder.timeout",
        help: "seconds that a build may take, 0 for no limit",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.builder.timeout = v),
        get: |s| Some(s.builder.timeout.to_string()),
    },
    Key {
        name: "builder.compression",
        help: "of layers: none, gzip or zstd",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.builder.compression = v),
        get: |s| Some(s.builder.compression.to_string()),
    },
    Key {
        name: "builder.parallel",
        help: "steps of one build at the same time, 1 to 64; as many as processors by default",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| limit(raw, 64).map(|v| s.builder.parallel = v),
        get: |s| s.builder.parallel.map(|v| v.to_string()),
    },
    Key {
        name: "sandbox.cpu",
        help: "processors of a sandbox",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.sandbox.cpu = v),
        get: |s| s.sandbox.cpu.map(|v| v.to_string()),
    },
    Key {
        name: "sandbox.memory",
        help: "memory of a sandbox, such as 4Gi",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.sandbox.memory = v),
        get: |s| s.sandbox.memory.map(|v| v.to_string()),
    },
    Key {
        name: "sandbox.timeout",
        help: "seconds of inactivity after which a sandbox stops, 0 for never",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.sandbox.timeout = v),
        get: |s| Some(s.sandbox.timeout.to_string()),
    },
    Key {
        name: "sandbox.deny",
        help: "addresses and ranges that private networks may not reach; host for this host's own",
        kind: Kind::List,
        secret: false,
        set: |s, raw| parsed_all(raw).map(|v| s.sandbox.deny = v),
        get: |s| Some(joined(&s.sandbox.deny)),
    },
    Key {
        name: "sandbox.allow",
        help: "those that they may reach although they are denied or link-local",
        kind: Kind::List,
        secret: false,
        set: |s, raw| parsed_all(raw).map(|v| s.sandbox.allow = v),
        get: |s| Some(joined(&s.sandbox.allow)),
    },
    Key {
        name: "sandbox.registry",
        help: "what sandboxes on private networks may do in the embedded registry: none, read or write",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| parsed(raw).map(|v| s.sandbox.registry = v),
        get: |s| Some(s.sandbox.registry.to_string()),
    },
    Key {
        name: "sandbox.subnet",
        help: "addresses of sandboxes on a bridge, such as 10.187.7.0/24 [default: one that is free]",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.sandbox.subnet = v),
        get: |s| s.sandbox.subnet.map(|v| v.to_string()),
    },
    Key {
        name: "endpoint.url",
        help: "address of a CodePod Server",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| url(raw).map(|v| s.endpoint.url = v),
        get: |s| s.endpoint.url.clone(),
    },
    Key {
        name: "endpoint.api_key",
        help: "API key of the CodePod Server",
        kind: Kind::Text,
        secret: true,
        set: |s, raw| secret(raw).map(|v| s.endpoint.api_key = v),
        get: |s| {
            s.endpoint
                .api_key
                .as_ref()
                .map(|key| key.reveal().to_owned())
        },
    },
    Key {
        name: "workspace.fallback_image",
        help: "image for repositories without a devcontainer.json",
        kind: Kind::Text,
        secret: false,
        set: |s, raw| optional(raw).map(|v| s.workspace.fallback_image = v),
        get: |s| s.workspace.fallback_image.as_ref().map(ToString::to_string),
    },
    Key {
        name: "workspace.clone_depth",
        help: "commits that a clone brings, 0 for all",
        kind: Kind::Number,
        secret: false,
        set: |s, raw| number(raw, 0, 1_000_000).map(|v| s.workspace.clone_depth = v as u32),
        get: |s| Some(s.workspace.clone_depth.to_string()),
    },
    Key {
        name: "workspace.mounts",
        help: "files and folders of this host that cloned repositories may mount",
        kind: Kind::List,
        secret: false,
        set: |s, raw| files(raw).map(|v| s.workspace.mounts = v),
        get: |s| {
            let shown = s
                .workspace
                .mounts
                .iter()
                .map(|path| path.display().to_string());
            Some(shown.collect::<Vec<_>>().join(","))
        },
    },
];

/// A key by its name or short name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    let name = alias(name).unwrap_or(name);
    KEYS.iter().find(|key| key.name == name)
}

pub(super) fn alias(name: &str) -> Option<&'static str> {
    ALIASES
        .iter()
        .find(|(short, _)| *short == name)
        .map(|(_, name)| *name)
}

pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

pub(super) fn hint(name: &str) -> String {
    let tables = tables::TABLES.iter().map(|table| table.name);
    suggest::hint(name, KEYS.iter().map(|key| key.name).chain(tables))
}

pub(super) fn one(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Text(text) => Ok(text.trim()),
        Raw::List(_) => Err("a list stands where one value is expected".to_owned()),
    }
}

/// A list, or text with commas between its items.
fn many(raw: &Raw) -> Vec<String> {
    let items: Vec<&str> = match raw {
        Raw::Text(text) => text.split(',').collect(),
        Raw::List(items) => items.iter().map(String::as_str).collect(),
    };
    items
        .into_iter()
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

fn parsed_all<T: FromStr<Err: ToString>>(raw: &Raw) -> Result<Vec<T>, String> {
    let parse = |item: &String| item.parse().map_err(|error: T::Err| error.to_string());
    many(raw).iter().map(parse).collect()
}

fn joined(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn parsed<T: FromStr<Err: ToString>>(raw: &Raw) -> Result<T, String> {
    one(raw)?.parse().map_err(|error: T::Err| error.to_string())
}

/// Empty text takes the value away.
pub(super) fn optional<T: FromStr<Err: ToString>>(raw: &Raw) -> Result<Option<T>, String> {
    match one(raw)? {
        "" => Ok(None),
        _ => parsed(raw).map(Some),
    }
}

/// A size that is more than nothing; empty text takes it away.
fn some_bytes(raw: &Raw) -> Result<Option<ByteSize>, String> {
    match optional(raw)? {
        Some(ByteSize(0)) => Err("must be more than nothing".to_owned()),
        size => Ok(size),
    }
}

/// A number from one on; empty text takes it away.
fn limit(raw: &Raw, most: u64) -> Result<Option<NonZeroUsize>, String> {
    match one(raw)? {
        "" => Ok(None),
        _ => number(raw, 1, most).map(|v| NonZeroUsize::new(v as usize)),
    }
}

pub(super) fn number(raw: &Raw, least: u64, most: u64) -> Result<u64, String> {
    let text = one(raw)?;
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number from {least} to {most}")),
    }
}

pub(super) fn absolute(raw: &Raw) -> Result<PathBuf, String> {
    let text = one(raw)?;
    if text.starts_with('/') {
        Ok(PathBuf::from(text))
    } else {
        Err(format!("{text:?} is not an absolute path"))
    }
}

fn patterns(raw: &Raw) -> Result<Vec<Pattern>, String> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|error: PatternError| error.to_string())
    };
    many(raw).iter().map(parse).collect()
}

/// A file by its absolute path; empty text takes it away.
fn file(raw: &Raw) -> Result<Option<PathBuf>, String> {
    match one(raw)? {
        "" => Ok(None),
        _ => absolute(raw).map(Some),
    }
}

fn shown_file(path: Option<&PathBuf>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

pub(super) fn files(raw: &Raw) -> Result<Vec<PathBuf>, String> {
    many(raw)
        .into_iter()
        .map(|file| absolute(&Raw::Text(file)))
        .collect()
}

/// `localhost` is looked up nowhere: it means 127.0.0.1.
fn listen(raw: &Raw) -> Result<SocketAddr, String> {
    let text = one(raw)?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric
        .parse()
        .map_err(|_| format!("{text:?} is not an address and port, such as 127.0.0.1:5000"))
}

pub(super) fn hosts(raw: &Raw) -> Result<Vec<String>, String> {
    let hosts = many(raw);
    for host in &hosts {
        // A reference's own rule decides what a host is.
        if format!("{host}/x")
            .parse::<crate::name::Reference>()
            .map(|r| r.host() == host)
            != Ok(true)
        {
            return Err(format!("{host:?} is not a registry host"));
        }
    }
    Ok(hosts)
}

fn url(raw: &Raw) -> Result<Option<String>, String> {
    let text = one(raw)?.trim_end_matches('/');
    if text.is_empty() {
        return Ok(None);
    }
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && !text.contains([' ', '@']) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(format!(
            "{text:?} is not an http or https address without credentials"
        )),
    }
}

/// The text itself never enters a message.
fn secret(raw: &Raw) -> Result<Option<Secret>, String> {
    let text = one(raw)?;
    if text.contains(char::is_control) {
        return Err("the key contains a control character".to_owned());
    }
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(format!("{text:?} is not a compression: none, gzip or zstd")),
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not a format of the log: text or json")),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}
