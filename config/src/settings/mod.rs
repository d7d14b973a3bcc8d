//! Settings of the product, complete and typed before anything is done with them.
//!
//! Layers, each over the one before: defaults, `/etc/devpod/config.toml`, `~/.devpod/config.json`,
//! `DEVPOD_*` of the environment, flags. All strings are handed in by [`Sources`]. One table
//! ([`keys`]) knows every key; each part of the program receives its own section only. An unknown key is
//! an error; so is a value that its part could not use.

mod access;
pub mod edit;
mod keys;
mod layer;
mod remote;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::jsonc::Located;
use crate::name::Reference;
use crate::pattern::Pattern;
use crate::quantity::{ByteSize, Cpu, Seconds};
use crate::range::Range;
use crate::registry::access::Access;
use crate::registry::quota::Quota;
use crate::registry::retention::Rule;
use crate::registry::upstream::Upstream;
use crate::registry::webhook::Webhook;
use crate::remote as remote_registries;
use crate::sandbox::{Destination, RegistryAccess};
use crate::subnet::Subnet;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where images, snapshots and state are kept.
    pub data: PathBuf,
    pub log: Log,
    pub layers: Layers,
    pub registry: Registry,
    pub remote: Remote,
    pub builder: Builder,
    pub sandbox: Sandbox,
    pub endpoint: Endpoint,
    pub workspace: Workspace,
    origins: BTreeMap<&'static str, Origin>,
    /// To be told once: variables that look like a mistyped setting.
    pub warnings: Vec<String>,
}

/// What the daemon tells of its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object for each event.
    Json,
}

/// What images are unpacked to, and steps of builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Of all of it, where the data folder takes no layers and they are held in memory.
    pub memory: Option<ByteSize>,
}

/// The embedded registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    pub listen: SocketAddr,
    /// Repositories that take manifests whose parts are not all there.
    pub sparse: Vec<Pattern>,
    /// PEM files: with both of them the port speaks TLS.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// PEM: who signs the certificates that clients must show.
    pub client_ca: Option<PathBuf>,
    /// How many bytes repositories may hold.
    pub quotas: Vec<Quota>,
    /// Who is told what happens.
    pub webhooks: Vec<Webhook>,
    /// Who may do what.
    pub access: Access,
    /// How many bytes all repositories together may hold.
    pub max_bytes: Option<ByteSize>,
    /// How long tags are kept.
    pub retention: Vec<Rule>,
    /// How long a manifest rests that no tag, index or subject names any more.
    pub untagged_keep: Seconds,
    /// Between two collections of garbage; zero for none.
    pub collect_every: Seconds,
    /// From one verification of all blobs to the next; zero for never.
    pub scrub_every: Seconds,
    /// Bytes per second that it reads; zero for no limit.
    pub scrub_rate: ByteSize,
    /// Registries that are mirrored.
    pub upstreams: Vec<Upstream>,
    /// How many bytes what is mirrored may hold.
    pub cache_max: Option<ByteSize>,
}

/// Other registries.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote {
    /// Hosts (with their port) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// PEM files with further certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// Transfers at the same time.
    pub concurrency: usize,
    /// What is special about single registries.
    pub registries: Vec<remote_registries::Registry>,
    /// Proxies, which may hold passwords; in place of the environment's.
    pub http_proxy: Option<Secret>,
    pub https_proxy: Option<Secret>,
    /// What is reached without them.
    pub no_proxy: Option<String>,
}

/// Builds (requirement B8).
#[derive(Debug, Clone, PartialEq)]
pub struct Builder {
    pub cpu: Option<Cpu>,
    pub memory: Option<ByteSize>,
    /// Of one build as a whole; zero for none.
    pub timeout: Seconds,
    pub compression: Compression,
    /// Steps of one build at the same time; as many as processors by default.
    pub parallel: Option<NonZeroUsize>,
}

/// How layers are packed when somebody pulls or pushes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Sandboxes (requirement D14).
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub cpu: Option<Cpu>,
    pub memory: Option<ByteSize>,
    /// Of inactivity; zero for none.
    pub timeout: Seconds,
    /// Destinations that a private network may not reach.
    pub deny: Vec<Destination>,
    /// Those that it may reach although they are denied or on the host's link.
    pub allow: Vec<Range>,
    /// What those of a private network may do in the embedded registry.
    pub registry: RegistryAccess,
    /// The addresses of those on a bridge; `None` for some that are free.
    pub subnet: Option<Subnet>,
}

/// A CodePod Server (requirements D2, D7).
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub url: Option<String>,
    pub api_key: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Workspace {
    /// For folders and repositories that have no `devcontainer.json`.
    pub fallback_image: Option<Reference>,
    /// Commits that a clone brings; zero for all.
    pub clone_depth: u32,
    /// What cloned repositories may mount of this host, with all that lies below.
    pub mounts: Vec<PathBuf>,
}

/// Text that must not appear in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: String, line: usize },
    Environment { name: String },
    Flag { name: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment { name } => write!(f, "environment {name}"),
            Self::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

/// Where the strings come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// `/etc/devpod/config.toml`.
    pub system: Option<SourceFile<'a>>,
    /// `~/.devpod/config.json`.
    pub user: Option<SourceFile<'a>>,
    /// Only names that begin with `DEVPOD_` are looked at.
    pub environment: &'a [(String, String)],
    /// Keys of the table with what was given for them, and the flag's name for messages.
    pub flags: &'a [Flag<'a>],
    pub home: Option<&'a Path>,
    pub euid: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct SourceFile<'a> {
    /// For messages.
    pub path: &'a str,
    pub text: &'a str,
}

#[derive(Debug, Clone, Copy)]
pub struct Flag<'a> {
    /// As it is called on the command line: `--data`.
    pub name: &'a str,
    /// A key such as `data` or `registry.listen`.
    pub key: &'a str,
    pub value: &'a str,
}

/// Why the settings are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{path}:{at}")]
    File { path: String, at: Located },
    #[error("environment variable {name}: {reason}")]
    Environment { name: String, reason: String },
    #[error("{name}: {reason}")]
    Flag { name: String, reason: String },
    #[error("no home folder is known: set HOME, or name a data folder with --data or DEVPOD_DATA")]
    NoHome,
    #[error("{key:?} is not a setting{hint}")]
    Unknown { key: String, hint: String },
}

/// One line of `config list`. A secret's value is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub key: &'static str,
    pub value: Option<String>,
    pub origin: Origin,
    pub help: &'static str,
}

impl Settings {
    /// All layers, one over the other.
    pub fn load(sources: &Sources<'_>) -> Result<Self, SettingsError> {
        let mut settings = Self::defaults(sources.home, sources.euid);
        if let Some(file) = sources.system {
            settings.apply_file(file, layer::toml(file)?)?;
        }
        if let Some(file) = sources.user {
            settings.apply_file(file, layer::json(file)?)?;
        }
        settings.apply_environment(sources.environment)?;
        for flag in sources.flags {
            settings.apply_flag(flag)?;
        }
        if settings.data.as_os_str().is_empty() {
            return Err(SettingsError::NoHome);
        }
        Ok(settings)
    }

    /// Root keeps its data in `/var/lib/devpod`, other people in `~/.local/share/devpod`. Without
    /// a home the folder is empty, and must be set.
    pub(crate) fn defaults(home: Option<&Path>, euid: u32) -> Self {
        let data = match home {
            _ if euid == 0 => PathBuf::from("/var/lib/devpod"),
            Some(home) => home.join(".local/share/devpod"),
            None => PathBuf::new(),
        };
        Self {
            data,
            log: Log {
                format: LogFormat::Text,
            },
            layers: Layers { memory: None },
            registry: Registry {
                listen: (Ipv4Addr::LOCALHOST, 5000).into(),
                sparse: Vec::new(),
                tls_certificate: None,
                tls_key: None,
                client_ca: None,
                quotas: Vec::new(),
                webhooks: Vec::new(),
                access: Access::default(),
                max_bytes: None,
                retention: Vec::new(),
                untagged_keep: Seconds(7 * 86_400),
                collect_every: Seconds(6 * 3600),
                scrub_every: Seconds(7 * 24 * 3600),
                // A terabyte in 15 hours, and a tenth of what the slowest disks in use can give.
                scrub_rate: ByteSize(20 << 20),
                upstreams: Vec::new(),
                cache_max: None,
            },
            remote: Remote {
                plain_http: Vec::new(),
                ca_files: Vec::new(),
                concurrency: 4,
                registries: Vec::new(),
                http_proxy: None,
                https_proxy: None,
                no_proxy: None,
            },
            builder: Builder {
                cpu: None,
                memory: None,
                timeout: Seconds(1800),
                compression: Compression::Gzip,
                parallel: None,
            },
            sandbox: Sandbox {
                cpu: None,
                memory: None,
                timeout: Seconds(0),
                deny: Vec::new(),
                allow: Vec::new(),
                registry: RegistryAccess::default(),
                subnet: None,
            },
            endpoint: Endpoint {
                url: None,
                api_key: None,
            },
            workspace: Workspace {
                fallback_image: None,
                clone_depth: 1,
                mounts: Vec::new(),
            },
            origins: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// Every setting, in the order of the table.
    pub fn list(&self) -> Vec<Shown> {
        let keys = keys::KEYS.iter().map(|key| self.show(key));
        let tables = tables::TABLES.iter().map(|table| self.show_table(table));
        keys.chain(tables).collect()
    }

    /// One setting; `endpoint` is short for `endpoint.url`.
    pub fn get(&self, name: &str) -> Result<Shown, SettingsError> {
        let table = tables::find(name).map(|table| self.show_table(table));
        keys::find(name)
            .map(|key| self.show(key))
            .or(table)
            .ok_or_else(|| SettingsError::Unknown {
                key: name.to_owned(),
                hint: keys::hint(name),
            })
    }

    fn show_table(&self, table: &'static tables::Table) -> Shown {
        let origin = self.origins.get(table.name).cloned();
        Shown {
            key: table.name,
            value: (table.show)(self),
            origin: origin.unwrap_or(Origin::Default),
            help: table.help,
        }
    }

    fn show(&self, key: &'static keys::Key) -> Shown {
        let value = (key.get)(self);
        Shown {
            key: key.name,
            value: if key.secret {
                value.map(|_| "********".to_owned())
            } else {
                value
            },
            origin: self
                .origins
                .get(key.name)
                .cloned()
                .unwrap_or(Origin::Default),
            help: key.help,
        }
    }
}
