//! What can be asked of a sandbox beyond its image and command.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unpacker::container::exit::Exit;
use unpacker::container::resources::Resources;
use unpacker::container::spec::{Confinement, LogLimits, Mount, Surroundings};
use unpacker::container::supervise::State;

/// The part of a request that most requests leave alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunOptions {
    pub resources: Resources,
    pub confinement: Confinement,
    pub surroundings: Surroundings,
    pub volumes: Vec<VolumeMount>,
    pub tmpfs: Vec<TmpfsMount>,
    /// Further groups, by name or number, of the image.
    pub groups: Vec<String>,
    pub without_init: bool,
    pub log: LogLimits,
    pub keeping: Keeping,
}

/// A named volume and where it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// `None` for a new one without a name.
    pub volume: Option<String>,
    pub target: PathBuf,
    pub read_only: bool,
    /// Leave a new one empty, whatever the image has there.
    pub no_copy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TmpfsMount {
    pub target: PathBuf,
    /// Bytes.
    pub size: Option<u64>,
    pub mode: Option<u32>,
    pub read_only: bool,
}

impl TmpfsMount {
    pub fn mount(&self) -> Mount {
        Mount::Tmpfs {
            target: self.target.clone(),
            size: self.size,
            mode: self.mode,
            read_only: self.read_only,
        }
    }
}

/// How a sandbox is looked after. Part of its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keeping {
    pub restart: RestartPolicy,
    /// In place of the image's.
    pub stop_signal: Option<String>,
    /// Seconds between it and SIGKILL.
    pub stop_timeout: Option<u64>,
    /// Seconds without activity after which it is stopped; 0 for never.
    pub idle_timeout: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

/// When the daemon starts a sandbox again by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    /// After a failure, at most so often; 0 for ever.
    OnFailure(u32),
    Always,
    UnlessStopped,
}

/// Not one of docker's policies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no restart policy: no, on-failure[:TIMES], always or unless-stopped")]
pub struct BadPolicy {
    text: String,
}

impl FromStr for RestartPolicy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let bad = || BadPolicy {
            text: text.to_owned(),
        };
        match text.split_once(':') {
            None => match text {
                "no" | "" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure(0)),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(bad()),
            },
            Some(("on-failure", times)) => times.parse().map(Self::OnFailure).map_err(|_| bad()),
            Some(_) => Err(bad()),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure(0) => f.write_str("on-failure"),
            Self::OnFailure(times) => write!(f, "on-failure:{times}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl RestartPolicy {
    /// Whether a sandbox that ended is started again. `stopped` says that a person stopped it,
    /// `times` how often it was started again already, `is_first` that this daemon has just begun:
    /// then the host may have been down meanwhile, and what was stopped is looked at once more.
    pub fn restarts(self, state: State, stopped: bool, times: u32, is_first: bool) -> bool {
        let ended = matches!(state, State::Exited(_) | State::Lost | State::Stopped);
        let failed = matches!(state, State::Exited(exit) if exit != Exit::Code(0));
        match self {
            Self::No => false,
            Self::OnFailure(most) => failed && !stopped && (most == 0 || times < most),
            Self::Always => ended && (is_first || !stopped),
            Self::UnlessStopped => ended && !stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_and_written() {
        for text in [
            "no",
            "on-failure",
            "on-failure:3",
            "always",
            "unless-stopped",
        ] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        for bad in ["yes", "always:2", "on-failure:x", "on-failure:-1"] {
            assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_is_started_again() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        let good = State::Exited(Exit::Code(0));
        let bad = State::Exited(Exit::OutOfMemory);
        for (policy, state, stopped, times, is_first, restarts) in [
            (No, bad, false, 0, true, false),
            (OnFailure(0), good, false, 0, false, false),
            (OnFailure(0), bad, false, 99, false, true),
            (OnFailure(2), bad, false, 1, false, true),
            (OnFailure(2), bad, false, 2, false, false),
            (OnFailure(0), bad, true, 0, true, false),
            // The host went down: nobody knows how it would have ended.
            (OnFailure(0), State::Lost, false, 0, true, false),
            (Always, good, false, 7, false, true),
            (Always, State::Lost, false, 0, true, true),
            (Always, good, true, 0, false, false),
            (Always, good, true, 0, true, true),
            (UnlessStopped, good, true, 0, true, false),
            (UnlessStopped, State::Lost, false, 0, true, true),
            (Always, State::Never, false, 0, true, false),
            (Always, State::Running { pid: 1 }, false, 0, true, false),
        ] {
            let got = policy.restarts(state, stopped, times, is_first);
            assert_eq!(
                got, restarts,
                "{policy} {state:?} {stopped} {times} {is_first}"
            );
        }
    }
}
