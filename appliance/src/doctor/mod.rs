//! What this host offers to us, what it withholds, and what would lift that.
//!
//! Looks at the host alone: no daemon is needed, and none is started. What only shows inside the
//! daemon's user namespace is looked at by a second process of ours, which enters one the way a
//! daemon does.

mod host;
mod inside;
mod network;

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::daemon::folder::DataFolder;
use crate::error::{Failure, Kind, Outcome};
use crate::options::Options;

/// How something stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// It works, but less well than it could.
    Reduced,
    /// It does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub what: String,
    pub state: State,
    /// What was seen.
    pub why: String,
    /// What would make it better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lift: Option<String>,
}

impl Finding {
    fn new(what: &str, state: State, why: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            state,
            why: why.into(),
            lift: None,
        }
    }

    fn ok(what: &str, why: impl Into<String>) -> Self {
        Self::new(what, State::Ok, why)
    }

    fn reduced(what: &str, why: impl Into<String>) -> Self {
        Self::new(what, State::Reduced, why)
    }

    fn missing(what: &str, why: impl Into<String>) -> Self {
        Self::new(what, State::Missing, why)
    }

    fn lift(mut self, lift: impl Into<String>) -> Self {
        self.lift = Some(lift.into());
        self
    }
}

/// Everything, in the order in which it matters.
pub fn look(options: &Options) -> Outcome<Vec<Finding>> {
    let folder = DataFolder::new(options.data.clone());
    let mut findings = vec![host::kernel(), host::user()];
    findings.extend(from_inside(options)?);
    findings.push(host::seccomp());
    findings.extend(host::data(&folder));
    findings.push(host::open_files());
    findings.push(host::clock());
    findings.push(network::registry(options, &folder));
    findings.extend(network::names());
    Ok(findings)
}

/// What [`look_inside`] finds in a process of its own.
fn from_inside(options: &Options) -> Outcome<Vec<Finding>> {
    let output = Command::new("/proc/self/exe")
        .arg("--data")
        .arg(&options.data)
        .args(["doctor", "--inside"])
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(|error| {
            Failure::because(
                Kind::Internal,
                "the second process said nothing clear",
                &error,
            )
        });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why: Vec<_> = said.lines().map(str::trim).collect();
    let remedies = unpacker::container::probe::userns_remedies();
    let finding = Finding::missing("user namespaces", why.join("; "));
    Ok(vec![match remedies.is_empty() {
        true => finding,
        false => finding.lift(format!("as root: {}", remedies.join("; "))),
    }])
}

/// The part of [`look`] that a daemon would see. The calling process has one thread, and is in a
/// user namespace afterwards.
pub fn look_inside(options: &Options) -> Outcome<Vec<Finding>> {
    let folder = DataFolder::new(options.data.clone());
    let scratch = host::scratch(&folder);
    unpacker::container::idmap::enter(&folder.sandboxes())
        .map_err(|error| Failure::from_error(Kind::Denied, &error))?;
    inside::look(&scratch)
}
