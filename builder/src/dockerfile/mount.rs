//! `RUN --mount=…` (Dockerfile reference, "RUN --mount").
//!
//! Values may hold variables, so a flag is read twice: when the file is parsed, for its shape, and
//! by [`MountFlag::resolve`] when its step is solved.

/// One `--mount` as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    pub(super) text: String,
    pub(super) from: Option<String>,
}

impl MountFlag {
    /// The stage, context or image this mount needs: known before expansion, since `from` cannot
    /// hold variables.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref()
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The kind of a mount, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind,
    Cache {
        id: Option<String>,
        sharing: Sharing,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: Option<String>,
        required: bool,
        env: Option<String>,
    },
    Ssh {
        id: Option<String>,
        required: bool,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// A mount with its variables replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// A stage's name or number, a named context or an image; absent: the build context (bind) or
    /// an empty folder (cache).
    pub from: Option<String>,
    /// Path below `from`; for secrets the older spelling of the id.
    pub source: Option<String>,
    /// Absolute, or relative to WORKDIR; secrets and ssh have defaults.
    pub target: Option<String>,
    pub read_only: bool,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}
