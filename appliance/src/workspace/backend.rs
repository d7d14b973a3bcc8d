//! What workspaces need of images and sandboxes, and of the world.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use config::project::Limits;
use time::OffsetDateTime;
use unpacker::container::spec::{Mount, Process};
use unpacker::progress::Cancel;

use super::failure::Fault;
use crate::progress::Reporter;

/// Images, sandboxes and volumes of one host. Sandboxes go by the name that they were created with.
/// Every method may be called again after it failed or was interrupted.
pub trait Backend: Send + Sync {
    /// Builds and keeps the image under every one of its tags. Reports the steps, not the end. `ready` is
    /// told of the image as soon as sandboxes can be made from it, which may be long before it is kept:
    /// until then its digest is not known.
    fn build(
        &self,
        build: &ImageBuild,
        progress: &Reporter,
        cancel: &Cancel,
        ready: &(dyn Fn(ImageFacts) + Sync),
    ) -> Result<ImageFacts, Fault>;

    /// The image as it is here, fetched first when it is not.
    fn pull(
        &self,
        reference: &str,
        progress: &Reporter,
        cancel: &Cancel,
    ) -> Result<ImageFacts, Fault>;

    /// Forgets every tag of the repository that `reference` names; a missing one is no fault.
    fn remove_images(&self, reference: &str) -> Result<(), Fault>;

    fn sandbox(&self, name: &str) -> Result<SandboxState, Fault>;

    /// Makes a sandbox without starting it, and answers its id. All or nothing: after a crash the
    /// name is either unknown or that of a whole sandbox. After a crash of the host that may be the
    /// former until [`Backend::rely_on`].
    fn create_sandbox(&self, plan: &SandboxPlan, cancel: &Cancel) -> Result<String, Fault>;

    /// Makes durable what of a sandbox is not, and notes its image where it was made before that had a
    /// digest.
    fn rely_on(&self, name: &str, image_digest: Option<&str>) -> Result<(), Fault>;

    /// A running one is no fault.
    fn start_sandbox(&self, name: &str) -> Result<(), Fault>;

    /// SIGTERM, and SIGKILL after `grace`. A stopped or missing one is no fault.
    fn stop_sandbox(&self, name: &str, grace: Duration) -> Result<(), Fault>;

    /// Also a running one; a missing one is no fault.
    fn remove_sandbox(&self, name: &str) -> Result<(), Fault>;

    /// `user[:group]` by the sandbox's own /etc/passwd.
    fn person(&self, sandbox: &str, user: &str) -> Result<Person, Fault>;

    /// Runs a process in a running sandbox until it ends, and answers its exit code (128 + signal).
    /// `output` gets standard error with `true`.
    fn exec(
        &self,
        sandbox: &str,
        process: &Process,
        output: &mut dyn FnMut(bool, &[u8]),
        cancel: &Cancel,
    ) -> Result<i32, Fault>;

    /// A folder that lives until it is removed; the same one for the same name.
    fn create_volume(&self, name: &str) -> Result<PathBuf, Fault>;

    /// A missing one is no fault.
    fn remove_volume(&self, name: &str) -> Result<(), Fault>;
}

/// An image to be built. Paths below `root` are resolved beneath it, never joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBuild {
    /// The root of the repository on this host.
    pub root: PathBuf,
    /// Relative to `root`.
    pub dockerfile: String,
    /// Relative to `root`; `.` for the root itself.
    pub context: String,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
    /// Complete names, the first the one to run: `localhost:5000/workspace/<id>:latest`.
    pub tags: Vec<String>,
    /// Run every step again.
    pub no_cache: bool,
    /// Over the settings of builds.
    pub limits: Limits,
}

/// What must be known of an image to work in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// The complete name that sandboxes are made from.
    pub reference: String,
    /// `None` while it is not kept yet.
    pub digest: Option<String>,
    /// `USER`; empty for root.
    pub user: String,
    /// `ENV`, as `NAME=value`.
    pub env: Vec<String>,
}

/// A sandbox to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxPlan {
    /// Unique on this host.
    pub name: String,
    pub hostname: String,
    pub image: String,
    pub mounts: Vec<Mount>,
    /// Over the image's own.
    pub env: Vec<String>,
    /// The first process' user; `None` for the image's.
    pub user: Option<String>,
    /// Run below an init that reaps.
    pub init: bool,
    /// Replace the image's command by one that only waits.
    pub override_command: bool,
    /// Over the settings of sandboxes.
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    Missing,
    Stopped,
    Running,
}

/// Somebody inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub name: String,
    pub home: String,
    pub shell: String,
}

/// Time and chance.
pub trait Clock: Send + Sync {
    /// UTC.
    fn now(&self) -> OffsetDateTime;
    fn sleep(&self, time: Duration);
    /// Different at every call.
    fn random(&self) -> u64;
}

/// The world's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn random(&self) -> u64 {
        // Seeded by the operating system for every `RandomState`.
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(self.now().unix_timestamp_nanos())
    }
}
