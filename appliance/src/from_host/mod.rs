//! `devpod image from-host`: a first image from nothing.
//!
//! An air-gapped machine has no base image to start from, but it has a shell, coreutils and git. This
//! room makes a small root file system of them: programs, the libraries that they load (a closure
//! over ELF and `#!` lines), certificates, terminal descriptions and a few text files. It reads the
//! host through one reader, executes nothing, and writes into a content store only. Arrows inside:
//! write, plan -> tree, closure -> search, elf -> host; lists and system_files are plain data.

pub mod closure;
pub mod elf;
pub mod host;
mod lists;
pub mod plan;
mod search;
mod system_files;
pub mod tree;
pub mod write;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::image::config::{Execution, History, ImageConfig, RootFs};
use unpacker::progress::{Cancel, Event, Progress};

use host::Host;
use plan::Plan;
use write::{Clock, Layer};

/// Media types of image-spec v1.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// `/`, except in tests.
    pub root: PathBuf,
    /// More programs, by name or by path.
    pub include: Vec<String>,
    pub git: bool,
    /// An ordinary user beside root.
    pub user: Option<User>,
    /// SOURCE_DATE_EPOCH: no time in the image is later. Without it, the newest file's time.
    pub source_date_epoch: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            include: Vec::new(),
            git: true,
            user: None,
            source_date_epoch: None,
        }
    }
}

/// An account of the image. The name is one that useradd(8) would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// The image; its blobs are in the store.
#[derive(Debug, Clone)]
pub struct HostImage {
    /// What a registry must keep, byte for byte.
    pub manifest: Vec<u8>,
    /// Of the manifest.
    pub digest: Digest,
    pub config: Digest,
    pub layers: Vec<Layer>,
    /// Programs that can be called by name, sorted.
    pub programs: Vec<String>,
    /// What the host has but could not come along, a line each.
    pub left_out: Vec<String>,
    /// Bytes of all blobs together, with the manifest.
    pub size: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum FromHostError {
    #[error("cannot open {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("{name:?} is not a user name")]
    BadUser { name: String },
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    #[error(transparent)]
    Write(#[from] write::WriteError),
    #[error("cannot store the image configuration")]
    Store(#[source] io::Error),
    #[error("cannot write the image configuration")]
    Encode(#[from] serde_json::Error),
}

/// Makes an image of the host's programs. What is left out is told as warnings.
pub fn from_host(
    options: &Options,
    content: &dyn Content,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<HostImage, FromHostError> {
    check_user(options.user.as_ref())?;
    let host = Host::open(&options.root).map_err(|source| FromHostError::Root {
        path: options.root.clone(),
        source,
    })?;
    let mut plan = plan::plan(&host, options)?;
    add_home(&mut plan, options.user.as_ref());
    for text in &plan.left_out {
        progress.event(Event::Warning { text: text.clone() });
    }
    let clock = Clock::new(options.source_date_epoch, &plan.tree);
    let layer = write::write(&host, &plan.tree, clock, content, progress, cancel)?;
    let config = serde_json::to_vec(&configuration(&plan, &layer, clock, options))?;
    let (config_digest, config_size) = content.put(&config).map_err(FromHostError::Store)?;
    let manifest = manifest(&layer, &config_digest, config_size)?;
    Ok(HostImage {
        digest: unpacker::digest::sha256(&manifest),
        config: config_digest,
        size: layer.size + config_size + manifest.len() as u64,
        layers: vec![layer],
        programs: plan.programs.into_iter().collect(),
        left_out: plan.left_out,
        manifest,
    })
}

/// Anything else could write lines of its own into `/etc/passwd`.
fn check_user(user: Option<&User>) -> Result<(), FromHostError> {
    let Some(User { name, .. }) = user else {
        return Ok(());
    };
    let usual =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    // useradd(8): 32 characters.
    if starts && name.len() <= 32 && name.bytes().all(usual) {
        return Ok(());
    }
    Err(FromHostError::BadUser { name: name.clone() })
}

/// The home stays root's, like everything in the layer: whoever starts as the user gives it away.
fn add_home(plan: &mut Plan, user: Option<&User>) {
    if let Some(user) = user {
        plan.tree
            .add_directory(&format!("/home/{}", user.name), 0o755);
    }
}

fn configuration(plan: &Plan, layer: &Layer, clock: Clock, options: &Options) -> ImageConfig {
    let created = OffsetDateTime::from_unix_timestamp(clock.latest)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok());
    let mut config = Execution {
        cmd: Some(vec![plan.shell.clone()]),
        user: options
            .user
            .as_ref()
            .map_or_else(String::new, |user| user.name.clone()),
        ..Execution::default()
    };
    config.set_variable("PATH", system_files::PATH);
    let locale = lists::TREES
        .iter()
        .any(|tree| plan.tree.get(Path::new(tree)).is_some());
    if locale {
        config.set_variable("LANG", "C.UTF-8");
    }
    let labels = [
        ("org.opencontainers.image.title", "devpod/host".to_owned()),
        (
            "org.opencontainers.image.description",
            format!("programs of {}", plan.system),
        ),
    ];
    config
        .labels
        .extend(labels.map(|(key, value)| (key.to_owned(), value)));
    ImageConfig {
        created: created.clone(),
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config,
        rootfs: RootFs {
            diff_ids: vec![layer.diff_id.to_string()],
            ..RootFs::default()
        },
        history: vec![History {
            created,
            created_by: Some("devpod image from-host".to_owned()),
            ..History::default()
        }],
        ..ImageConfig::default()
    }
}

/// GOARCH of this build, as image-spec config.md wants it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn manifest(
    layer: &Layer,
    config: &Digest,
    config_size: u64,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": config.to_string(),
            "size": config_size,
        },
        "layers": [{
            "mediaType": LAYER_TYPE,
            "digest": layer.digest.to_string(),
            "size": layer.size,
        }],
    }))
}

#[cfg(test)]
mod tests;
