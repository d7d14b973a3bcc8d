//! What a container may use of the host, and what of it the host truly holds it to.

use std::fmt;
use std::str::FromStr;

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

/// Limits that were asked for; `None` and empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processor time, in thousandths of one processor.
    pub cpus: Option<u32>,
    /// Weight against others when processors are scarce, 2 to 262144; 1024 is everybody's.
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; `None` for twice the memory, as docker has it.
    pub memory_swap: Option<Swap>,
    /// Processes and threads.
    pub pids: Option<u64>,
    pub ulimits: Vec<Ulimit>,
    /// -1000 to 1000; the higher, the sooner the kernel kills it when the host is out of memory.
    pub oom_score_adj: Option<i32>,
    /// Refuse the start when the host cannot hold the container to one of these.
    pub strict: bool,
}

/// How much swap there is on top of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Swap {
    /// Memory and swap together, in bytes.
    Total(u64),
    Unlimited,
}

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub kind: UlimitKind,
    /// `None` for no limit.
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The names that `docker run --ulimit` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UlimitKind {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

const KINDS: &[(&str, UlimitKind, Resource)] = &[
    ("core", UlimitKind::Core, Resource::Core),
    ("cpu", UlimitKind::Cpu, Resource::Cpu),
    ("data", UlimitKind::Data, Resource::Data),
    ("fsize", UlimitKind::Fsize, Resource::Fsize),
    ("locks", UlimitKind::Locks, Resource::Locks),
    ("memlock", UlimitKind::Memlock, Resource::Memlock),
    ("msgqueue", UlimitKind::Msgqueue, Resource::Msgqueue),
    ("nice", UlimitKind::Nice, Resource::Nice),
    ("nofile", UlimitKind::Nofile, Resource::Nofile),
    ("nproc", UlimitKind::Nproc, Resource::Nproc),
    ("rss", UlimitKind::Rss, Resource::Rss),
    ("rtprio", UlimitKind::Rtprio, Resource::Rtprio),
    ("rttime", UlimitKind::Rttime, Resource::Rttime),
    ("sigpending", UlimitKind::Sigpending, Resource::Sigpending),
    ("stack", UlimitKind::Stack, Resource::Stack),
];

impl UlimitKind {
    pub(crate) fn resource(self) -> Resource {
        let found = KINDS.iter().find(|(_, kind, _)| *kind == self);
        found.map_or(Resource::Nofile, |(.., resource)| *resource)
    }

    pub fn name(self) -> &'static str {
        let found = KINDS.iter().find(|(_, kind, _)| *kind == self);
        found.map_or("nofile", |(name, ..)| name)
    }
}

/// Why a text is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UlimitError {
    #[error("{text:?} is no ulimit: write NAME=SOFT[:HARD], a number or -1 for none")]
    Form { text: String },
    #[error("there is no ulimit {name:?}; there are {}", KINDS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", "))]
    Name { name: String },
    #[error("ulimit {text:?}: the soft limit is above the hard one")]
    Order { text: String },
}

impl FromStr for Ulimit {
    type Err = UlimitError;

    /// `nofile=1024`, `nofile=1024:4096`, `core=-1`.
    fn from_str(text: &str) -> Result<Self, UlimitError> {
        let form = || UlimitError::Form {
            text: text.to_owned(),
        };
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let found = KINDS.iter().find(|(known, ..)| *known == name);
        let (_, kind, _) = found.ok_or_else(|| UlimitError::Name {
            name: name.to_owned(),
        })?;
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            number => number.parse().map(Some).map_err(|_| form()),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft)?, value(hard)?);
        let above = match (soft, hard) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(soft), Some(hard)) => soft > hard,
        };
        if above {
            return Err(UlimitError::Order {
                text: text.to_owned(),
            });
        }
        Ok(Self {
            kind: *kind,
            soft,
            hard,
        })
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
        let (soft, hard) = (text(self.soft), text(self.hard));
        write!(f, "{}={soft}:{hard}", self.kind.name())
    }
}

/// What became of one limit that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// `memory`, `cpus`, `cpu-shares`, `pids`, `oom-score-adj` or `ulimit NAME`.
    pub limit: String,
    /// As a person would write it.
    pub asked: String,
    pub how: How,
    /// For people: by what, or why not.
    pub why: String,
}

/// Whether the kernel holds a container to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Enforced,
    /// Something weaker is.
    Reduced,
    Missing,
}

impl Standing {
    pub(crate) fn new(
        limit: impl Into<String>,
        asked: impl ToString,
        how: How,
        why: impl Into<String>,
    ) -> Self {
        Self {
            limit: limit.into(),
            asked: asked.to_string(),
            how,
            why: why.into(),
        }
    }

    /// A line for people where the limit is not what was asked for.
    pub fn warning(&self) -> Option<String> {
        let Self {
            limit, asked, why, ..
        } = self;
        match self.how {
            How::Enforced => None,
            How::Reduced => Some(format!("{limit} {asked} holds only in part: {why}")),
            How::Missing => Some(format!("{limit} {asked} is not enforced: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_are_read_and_written() {
        for (text, written) in [
            ("nofile=1024", "nofile=1024:1024"),
            ("nofile=1:2", "nofile=1:2"),
            ("core=-1", "core=-1:-1"),
            ("core=0:-1", "core=0:-1"),
        ] {
            assert_eq!(text.parse::<Ulimit>().unwrap().to_string(), written);
        }
        for bad in [
            "nofile",
            "nofile=",
            "files=1",
            "nofile=2:1",
            "core=-1:5",
            "core=x",
        ] {
            assert!(bad.parse::<Ulimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_does_not_hold_is_warned_about() {
        let standing = |how| Standing::new("memory", "64Mi", how, "because").warning();
        assert_eq!(standing(How::Enforced), None);
        let missing = "memory 64Mi is not enforced: because";
        assert_eq!(standing(How::Missing).as_deref(), Some(missing));
        assert!(standing(How::Reduced).unwrap().contains("in part"));
    }
}
