//! What crosses the control API, and what `--output json` prints. Fields are only ever added.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unpacker::container::network::spec::Protocol;
use unpacker::container::resources::{Resources, Standing};
use unpacker::container::spec::Surroundings;
use unpacker::progress::Event;

use crate::api::build_inputs::BuildInputs;
use crate::error::Failure;
use crate::sandbox::options::RunOptions;

/// One line of a long verb's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News<T> {
    Event(Event),
    Result(T),
    Failure(Failure),
}

/// `devpod daemon status`, and the `daemon.json` that a ready daemon leaves in its data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonStatus {
    pub pid: u32,
    pub version: String,
    /// The registry's address as bound: `127.0.0.1:5000`.
    pub registry: String,
    pub socket: PathBuf,
    pub data: PathBuf,
    /// RFC 3339.
    pub started_at: String,
    /// How identities are mapped: "root", "range" or "single".
    pub identity: String,
}

/// A row of `devpod images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageRow {
    /// `localhost:5000/demo` or `docker.io/library/alpine`.
    pub repository: String,
    /// `<none>` for an image that goes by its digest only.
    pub tag: String,
    /// Of the manifest or index.
    pub digest: String,
    /// Of the configuration, docker's image id; of an index, its own digest.
    #[serde(default)]
    pub id: String,
    /// `linux/amd64`; several for an index.
    pub platforms: Vec<String>,
    /// Bytes of the blobs.
    pub size: u64,
    /// Bytes on disk that something else needs too, and those that would be free without it; told
    /// where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_size: Option<u64>,
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The index that an image without a tag belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
}

/// `devpod images`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ListImages {
    /// Images without a tag too.
    #[serde(default)]
    pub all: bool,
    /// With shared and unique sizes, which take some more time.
    #[serde(default)]
    pub sizes: bool,
}

/// `devpod rmi`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveImage {
    /// A name, or the beginning of an id.
    pub reference: String,
    #[serde(default)]
    pub force: bool,
}

/// What `devpod rmi` took away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub reference: String,
    pub digest: String,
    /// Names.
    pub untagged: Vec<String>,
    /// Manifests that no name is left of.
    pub deleted: Vec<String>,
}

/// `devpod inspect --raw` and `--config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RawImage {
    pub reference: String,
    /// The configuration's bytes instead of the manifest's.
    #[serde(default)]
    pub config: bool,
}

/// `devpod image history`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryRequest {
    pub reference: String,
    pub platform: Option<String>,
}

/// A step of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRow {
    pub created: Option<String>,
    pub created_by: String,
    pub comment: String,
    /// Bytes of the layer's blob; 0 for a step without one.
    pub size: u64,
    /// The blob.
    pub layer: Option<String>,
    pub diff_id: Option<String>,
}

/// `devpod image check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedImage {
    pub reference: String,
    pub digest: String,
    #[serde(flatten)]
    pub report: unpacker::image::check::Report,
}

/// The format of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveFormat {
    #[default]
    Oci,
    Docker,
}

/// `devpod save`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaveRequest {
    /// Names or ids.
    pub images: Vec<String>,
    pub format: ArchiveFormat,
    pub platform: Option<String>,
    /// Whole indexes.
    pub all_platforms: bool,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    pub images: Vec<Moved>,
    /// Of the archive.
    pub bytes: u64,
}

/// `devpod load`, in the query.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LoadRequest {
    /// In place of the names in the archive.
    pub name: Option<String>,
    /// Only this one of an index.
    pub platform: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PullRequest {
    pub reference: String,
    pub platform: Option<String>,
    /// The whole index, where the name means one.
    #[serde(default)]
    pub all_platforms: bool,
    /// Leave an image of this host's platform ready to be run.
    #[serde(default)]
    pub unpack: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushRequest {
    pub reference: String,
}

/// Where a pull or push ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub reference: String,
    pub digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRequest {
    /// The build cache too.
    pub all: bool,
    pub dry_run: bool,
}

/// What `devpod image prune` removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    pub blobs: u64,
    pub snapshots: u64,
    /// Remembered build steps and packed layers.
    pub cache_entries: u64,
    /// On disk, of all of them.
    pub bytes: u64,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TagRequest {
    pub source: String,
    pub target: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UnpackRequest {
    pub reference: String,
    pub destination: PathBuf,
    pub platform: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FromHostRequest {
    pub reference: Option<String>,
    pub include: Vec<String>,
    pub without_git: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BuildRequest {
    pub context: PathBuf,
    /// Absolute; default `<context>/Dockerfile`.
    pub dockerfile: Option<PathBuf>,
    pub tags: Vec<String>,
    pub build_args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    pub platform: Option<String>,
    pub base_image: Option<String>,
    pub no_cache: bool,
    /// Stages whose steps run again.
    #[serde(default)]
    pub no_cache_filter: Vec<String>,
    /// Push each tag to its remote registry afterwards.
    pub push: bool,
    /// "gzip", "zstd" or "none".
    pub compression: Option<String>,
    #[serde(default)]
    pub compression_level: Option<i32>,
    /// Of RUN: "host", "private" or "none"; the host's by default.
    #[serde(default)]
    pub network: Option<String>,
    #[serde(default)]
    pub inputs: BuildInputs,
    /// The Dockerfile itself, in place of a file's.
    #[serde(default)]
    pub dockerfile_text: Option<String>,
    /// Fetch base images again, although they are here.
    #[serde(default)]
    pub pull: bool,
    /// Of the manifest.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Of each RUN; the settings' where it says nothing.
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub surroundings: Surroundings,
    /// "min" or "max": attest how the image was built.
    #[serde(default)]
    pub provenance: Option<String>,
    /// Attest what is in it.
    #[serde(default)]
    pub sbom: bool,
    /// Addresses of registries that images of docker.io are asked for first.
    #[serde(default)]
    pub registry_mirrors: Vec<String>,
    /// Seconds for the whole build.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Seconds since the epoch: no time in the image is later.
    #[serde(default)]
    pub source_date_epoch: Option<i64>,
}

impl BuildRequest {
    /// The time that nothing of the image is later than: docker's command line takes it as a build
    /// argument, which counts before the environment.
    pub fn epoch(&self) -> Option<i64> {
        let argument = self.build_args.get("SOURCE_DATE_EPOCH");
        match argument {
            Some(text) => text.parse().ok(),
            None => self.source_date_epoch,
        }
    }
}

/// `devpod build -o type=local` and `type=tar`: an image's file system as a tar.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FilesRequest {
    pub reference: String,
    pub platform: Option<String>,
    /// Seconds since the epoch: no time of a file is later.
    pub source_date_epoch: Option<i64>,
}

/// What was sent of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrote {
    pub entries: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildResult {
    pub digest: String,
    /// Docker's image id.
    #[serde(default)]
    pub config_digest: String,
    #[serde(default)]
    pub media_type: String,
    /// Bytes of the manifest.
    #[serde(default)]
    pub size: u64,
    /// Of the image's own manifest, where `digest` is an index's.
    #[serde(default)]
    pub manifest_digest: String,
    /// The image by its digest: nobody can move that.
    #[serde(default)]
    pub kept: String,
    pub names: Vec<String>,
    pub steps: usize,
    pub cached: usize,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxRequest {
    pub image: String,
    pub name: Option<String>,
    pub command: Vec<String>,
    pub env: Vec<String>,
    /// `user[:group]`; the image's by default.
    pub user: Option<String>,
    pub cwd: Option<String>,
    pub hostname: Option<String>,
    pub mounts: Vec<MountRequest>,
    /// "private", "bridge", "host" or "none"; the host's by default.
    pub network: Option<String>,
    /// Ports of the host that lead into a private network or to a bridge.
    #[serde(default)]
    pub publish: Vec<PortRow>,
    /// Every port that the image exposes, too, on free ones of the host.
    #[serde(default)]
    pub publish_all: bool,
    /// The host's loopback is `host.devpod.internal` inside.
    #[serde(default)]
    pub host_loopback: bool,
    pub terminal: bool,
    pub entrypoint: Option<String>,
    /// Remove it when its process ends.
    pub remove: bool,
    /// The caller will attach at once and wants all output.
    pub attach: bool,
    #[serde(default)]
    pub options: RunOptions,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRequest {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

/// A port of the host that leads to one inside; the host's is 0 where any free one will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRow {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub port: u16,
    /// "tcp" or "udp".
    pub protocol: Protocol,
}

/// A row of `devpod sandbox ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxRow {
    pub id: String,
    pub name: String,
    pub image: String,
    pub command: Vec<String>,
    /// "running", "exited", "stopped" (with the host) or "lost".
    pub status: String,
    pub exit_code: Option<i32>,
    pub pid: Option<u32>,
    /// RFC 3339.
    pub created_at: String,
    /// The kernel killed a process of it, because there was no memory left.
    #[serde(default)]
    pub out_of_memory: bool,
    /// What became of each limit that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Standing>,
    /// What whoever runs it should know; sentence fragments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The host's ports that lead into it, while it runs.
    #[serde(default)]
    pub ports: Vec<PortRow>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub cwd: Option<String>,
    pub terminal: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StopRequest {
    /// Seconds between the stop signal and SIGKILL.
    pub grace: Option<u64>,
}

/// `devpod up`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UpRequest {
    /// A folder (absolute), or the name of a workspace that exists.
    pub source: UpSource,
    pub name: Option<String>,
    pub branch: Option<String>,
    pub recreate: bool,
    /// What a cloned repository may mount of this host; absolute.
    #[serde(default)]
    pub allowed_mounts: Vec<PathBuf>,
    /// The caller's environment, for `${localEnv:…}` and for git's credentials. Never stored.
    pub env: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpSource {
    #[default]
    Unset,
    Folder(PathBuf),
    Repo(String),
    Name(String),
}

/// `devpod registry token create`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenRequest {
    pub name: String,
    /// Patterns.
    pub repositories: Vec<String>,
    /// "pull", "push", "delete", "admin".
    pub actions: Vec<String>,
    /// Seconds; absent for a token without an end.
    pub life: Option<u64>,
}

/// An API token of the registry, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRow {
    pub id: String,
    pub name: String,
    pub repositories: Vec<String>,
    pub actions: Vec<String>,
    /// RFC 3339, as the others.
    pub created: String,
    pub expires: Option<String>,
    pub last_used: Option<String>,
}

/// A token that was just made: the only time that its text is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    #[serde(flatten)]
    pub token: TokenRow,
    /// The text to log in with.
    pub secret: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
