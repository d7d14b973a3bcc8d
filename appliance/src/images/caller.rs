//! Whose command it is: what a command brings of its own environment for the work that the daemon does
//! on its behalf with other registries.
//!
//! The daemon was started by some earlier command, perhaps days ago. Credentials (requirement F4) and
//! proxies are those of the command that runs now: its variables, its `.env.local` and `.env`, its
//! docker configuration, its helper programs. They cross the control socket, which only its owner may
//! open, and are never written down or logged. What the daemon does by itself (mirroring, webhooks)
//! goes by the daemon's own environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use unpacker::remote::client::Remote;
use unpacker::remote::credentials::Machine;

use crate::error::Outcome;
use crate::options::Options;

/// So many commands' clients are kept, with their connections and tokens.
const KEPT: usize = 8;

/// What a command brings.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Variables for credentials, helper programs and proxies.
    pub variables: BTreeMap<String, String>,
    /// Where it was called.
    pub folder: Option<PathBuf>,
    /// When its credential files were last changed: after a login or logout nothing older counts.
    #[serde(default)]
    pub changed: Vec<String>,
    /// Addresses that images of docker.io are asked for first, before the mirrors of the settings.
    #[serde(default)]
    pub mirrors: Vec<String>,
}

impl Caller {
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    /// Notes how the credential files are now.
    pub(crate) fn stamped(mut self) -> Self {
        let machine = self.machine();
        let project = machine.dotenv_folders.iter();
        let project = project.flat_map(|folder| [folder.join(".env.local"), folder.join(".env")]);
        let stamp = |path: PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            let at = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some(format!("{}.{}", at.as_nanos(), found.len()))
        };
        let files = machine.files.iter().cloned().chain(project);
        self.changed = files.map(|path| stamp(path).unwrap_or_default()).collect();
        self
    }

    /// The places where its credentials are.
    pub(crate) fn machine(&self) -> Machine {
        let variables = self.variables.clone();
        let env = Arc::new(move |name: &str| variables.get(name).cloned());
        let folders = self.folder.iter().cloned().collect();
        let mut machine = Machine::with_env(env, folders);
        machine.program_env = Some(self.variables.clone().into_iter().collect());
        machine
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("variables", &self.variables.keys())
            .field("folder", &self.folder)
            .finish()
    }
}

/// The clients of the last commands. A command like an earlier one gets that one's.
pub(crate) struct Remotes {
    options: Options,
    kept: Mutex<Vec<(Caller, Remote)>>,
}

impl Remotes {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, caller: &Caller) -> Outcome<Remote> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|(known, _)| known == caller) {
            let known = kept.remove(at);
            let remote = known.1.clone();
            kept.push(known);
            return Ok(remote);
        }
        let remote = super::remote::remote_of(&self.options, caller)?;
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((caller.clone(), remote.clone()));
        Ok(remote)
    }
}

impl fmt::Debug for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remotes").finish_non_exhaustive()
    }
}
