//! `devcontainer.json`: how a repository describes the container that it is developed in.
//!
//! Bytes become a [`File`] (syntax, places), a file and the [`Variables`] become a
//! [`DevContainer`] (types). Everything that the specification knows is read or at least kept;
//! what a workspace does not honour yet is listed by name in [`DevContainer::unsupported`], so that
//! nothing is skipped in silence. Source: the Development Containers Specification,
//! `docs/specs/devcontainerjson-reference.md` and `devContainer.base.schema.json`.

pub mod command;
pub mod discover;
pub mod honour;
pub mod mount;
pub mod paths;
mod read;
pub mod substitute;

use std::collections::BTreeMap;

use crate::jsonc::{Document, Located};

pub use command::{Command, Lifecycle};
pub use honour::Unhonoured;
pub use mount::{Mount, MountKind};
pub use substitute::Variables;

/// A `devcontainer.json` whose syntax is good.
#[derive(Debug, Clone)]
pub struct File {
    document: Document,
}

impl File {
    pub fn parse(text: &str) -> Result<Self, Located> {
        let document = Document::parse(text)?;
        document.cursor()?;
        Ok(Self { document })
    }

    /// Substitutes the variables and reads the result. Called again with `container_env` once the
    /// container runs, for what refers to its environment.
    pub fn resolve(&self, variables: &Variables<'_>) -> Result<DevContainer, Located> {
        read::resolve(&self.document, variables)
    }

    /// The `name` as written, before any substitution.
    pub fn name(&self) -> Option<String> {
        self.document.cursor().ok()?.get("name")?.text().ok()
    }
}

/// What a workspace is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct DevContainer {
    pub name: Option<String>,
    pub source: Source,
    /// Where the source code stands inside the container; absolute. Given or
    /// `/workspaces/<basename of the local folder>`.
    pub workspace_folder: String,
    /// Replaces the mount of the source code; `None` for the usual one.
    pub workspace_mount: Option<Mount>,
    pub container_env: BTreeMap<String, String>,
    /// `None` unsets the variable.
    pub remote_env: BTreeMap<String, Option<String>>,
    pub container_user: Option<String>,
    pub remote_user: Option<String>,
    pub update_remote_user_uid: bool,
    pub mounts: Vec<Mount>,
    pub init: bool,
    pub override_command: bool,
    pub lifecycle: Lifecycle,
    /// As written; with the host's network every port is reachable as it is.
    pub forward_ports: Vec<String>,
    pub unsupported: Vec<Unhonoured>,
    /// Every key that has no field here, as it was written: `customizations` and the rest.
    pub kept: BTreeMap<String, serde_json::Value>,
}

/// The three shapes of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Image(String),
    Build(Build),
    /// Recognised, so that the refusal can name it.
    Compose {
        files: Vec<String>,
        service: Option<String>,
    },
}

/// `build`, or the older `dockerFile` and `context` at the top level. Paths are relative to the
/// folder of `devcontainer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Build {
    pub dockerfile: String,
    pub context: String,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
}

impl DevContainer {
    /// The first thing that makes an `up` impossible.
    pub fn refusal(&self) -> Option<&Unhonoured> {
        self.unsupported.iter().find(|it| it.refused)
    }

    /// Who works in the container (`remoteUser` defaults to `containerUser`); `None` for the
    /// image's user.
    pub fn user(&self) -> Option<&str> {
        self.remote_user
            .as_deref()
            .or(self.container_user.as_deref())
    }
}
