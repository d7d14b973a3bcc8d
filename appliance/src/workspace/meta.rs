//! What is remembered of a workspace: `~/.devpod/workspaces/NAME.json`.
//!
//! The nine keys of requirement D4 are always there; the further ones are in the same style. A key that
//! is not known, written by a later version, is kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::devcontainer::Lifecycle;
use config::repository::RepoUrl;
use serde::{Deserialize, Serialize};

use super::failure::FailureRecord;
use super::lifecycle::Hook;
use super::session::Session;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub name: String,
    /// Eight hexadecimal digits; part of the image's and the sandbox's name.
    pub id: String,
    /// RFC 3339.
    pub created_at: String,
    pub status: Status,
    pub dev_sandbox_id: Option<String>,
    /// Set while a build runs.
    pub builder_sandbox_id: Option<String>,
    pub volume_id: Option<String>,
    pub image_ref: Option<String>,
    /// Of `devcontainer.json`, relative to the source's root.
    pub config_path: Option<String>,

    pub source: Source,
    /// Where the source stands on this host, once it does.
    #[serde(default)]
    pub local_folder: Option<PathBuf>,
    /// The same inside the sandbox.
    #[serde(default)]
    pub workspace_folder: Option<String>,
    #[serde(default)]
    pub remote_user: Option<String>,
    #[serde(default)]
    pub image_digest: Option<String>,
    /// SHA-256 of `devcontainer.json` when the sandbox was made.
    #[serde(default)]
    pub config_digest: Option<String>,
    /// Who works in the sandbox and how; set when it was first started.
    #[serde(default)]
    pub session: Option<Session>,
    /// With every variable substituted.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// The once-only commands that succeeded in this sandbox.
    #[serde(default)]
    pub completed: Vec<Hook>,
    /// `uid:gid` that the volume was given to.
    #[serde(default)]
    pub volume_owner: Option<String>,
    /// Anonymous volumes, which live as long as the workspace.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// A sandbox once ran: somebody may have worked in the clone, so it is never thrown away.
    #[serde(default)]
    pub entered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureRecord>,
    #[serde(flatten)]
    pub further: BTreeMap<String, serde_json::Value>,
}

/// Where the source comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Source {
    /// A folder of the person; never changed or deleted by us.
    Folder { path: PathBuf },
    /// Cloned into the volume; the address has no password and, of HTTP's, no user in it. Records of earlier
    /// versions may have a user.
    Repository {
        url: String,
        #[serde(default)]
        branch: Option<String>,
    },
}

impl Source {
    /// Whether both are of the same files, whoever asks for them.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Repository { url, branch },
                Self::Repository {
                    url: other,
                    branch: of_other,
                },
            ) => branch == of_other && without_user(url) == without_user(other),
            _ => self == other,
        }
    }
}

/// An address as it is recorded today.
pub(super) fn without_user(url: &str) -> String {
    let parsed = url.parse::<RepoUrl>();
    parsed.map_or_else(|_| url.to_owned(), |url| url.address().to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Cloning,
    Building,
    Starting,
    Running,
    Stopped,
    Failed,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Cloning => "cloning",
            Self::Building => "building",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        })
    }
}

impl Meta {
    pub fn new(name: &str, id: String, created_at: String, source: Source) -> Self {
        let local_folder = match &source {
            Source::Folder { path } => Some(path.clone()),
            Source::Repository { .. } => None,
        };
        Self {
            name: name.to_owned(),
            id,
            created_at,
            status: Status::Creating,
            dev_sandbox_id: None,
            builder_sandbox_id: None,
            volume_id: None,
            image_ref: None,
            config_path: None,
            source,
            local_folder,
            workspace_folder: None,
            remote_user: None,
            image_digest: None,
            config_digest: None,
            session: None,
            lifecycle: Lifecycle::default(),
            completed: Vec::new(),
            volume_owner: None,
            volumes: Vec::new(),
            entered: false,
            failure: None,
            further: BTreeMap::new(),
        }
    }

    /// How the sandbox is called; the id keeps it apart from a namesake of an earlier life.
    pub fn sandbox_name(&self) -> String {
        format!("{}-{}", self.name, self.id)
    }

    pub fn volume_name(&self) -> String {
        format!("workspace-{}", self.id)
    }

    /// What the sandbox knew is gone with it.
    pub fn forget_sandbox(&mut self) {
        self.dev_sandbox_id = None;
        self.image_ref = None;
        self.image_digest = None;
        self.session = None;
        self.completed.clear();
    }
}
