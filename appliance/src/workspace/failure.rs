//! What went wrong with a workspace, in which class, and whether to try again.
//!
//! Classes and the schedule are requirement D11, the record is D12.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Attempts after the first one.
const RETRIES: u32 = 3;
const FIRST_DELAY_MS: u64 = 1000;
const LONGEST_DELAY_MS: u64 = 30_000;
const JITTER_MS: u64 = 100;

/// What kind of thing failed, which decides whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// Nobody answered, or the answer broke off.
    Network,
    /// The Dockerfile or one of its commands.
    Dockerfile,
    /// Sending the image away.
    Push,
    /// Credentials or rights are missing.
    Permission,
    /// Disk, memory, processes.
    Resources,
    /// What was written cannot be used: a name, a file, a missing branch.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It exists already, or somebody else works on it.
    Conflict,
    /// Stopped on purpose.
    Cancelled,
    /// Everything else.
    Internal,
}

impl Class {
    /// Whether the same attempt may well succeed in a moment.
    pub fn is_retried(self) -> bool {
        matches!(self, Self::Network | Self::Push)
    }

    /// Whether the person can go on with the same command after doing something about it.
    pub fn is_recoverable(self) -> bool {
        !matches!(self, Self::Internal)
    }
}

/// The delay before attempt `attempt` (the first retry is 0), or `None` to give up:
/// min(1000 ms × 2^attempt, 30000 ms) + 0..=100 ms.
pub fn delay(class: Class, attempt: u32, random: u64) -> Option<Duration> {
    if !class.is_retried() || attempt >= RETRIES {
        return None;
    }
    let exponential = FIRST_DELAY_MS.saturating_mul(1 << attempt.min(20));
    let jitter = random % (JITTER_MS + 1);
    Some(Duration::from_millis(
        exponential.min(LONGEST_DELAY_MS) + jitter,
    ))
}

/// Where an `up` was. The first four are requirement D12's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    Clone,
    Parse,
    Build,
    Push,
    Sandbox,
    Lifecycle,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "clone",
            Self::Parse => "parse",
            Self::Build => "build",
            Self::Push => "push",
            Self::Sandbox => "sandbox",
            Self::Lifecycle => "lifecycle",
        })
    }
}

/// A failure as it travels: fragments for people, and the class that code looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub class: Class,
    /// Set where it is known; `up` fills it in otherwise.
    pub stage: Option<Stage>,
    pub message: String,
    /// Outermost first.
    pub causes: Vec<String>,
    /// The last lines of what failed.
    pub logs: Vec<String>,
    /// Whole sentences.
    pub suggestion: Option<String>,
}

impl Fault {
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            stage: None,
            message: message.into(),
            causes: Vec::new(),
            logs: Vec::new(),
            suggestion: None,
        }
    }

    /// An error of the operating system about `what`.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let (class, suggestion) = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => (
                Class::Resources,
                Some("Free some space on the disk and run the same command again."),
            ),
            ErrorKind::PermissionDenied => (Class::Permission, None),
            _ => (Class::Internal, None),
        };
        let mut fault = Self::new(class, what.to_string());
        fault.causes.push(error.to_string());
        fault.suggestion = suggestion.map(str::to_owned);
        fault
    }

    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage.get_or_insert(stage);
        self
    }

    #[must_use]
    pub fn with_logs(mut self, logs: Vec<String>) -> Self {
        self.logs = logs;
        self
    }

    pub fn record(&self) -> FailureRecord {
        FailureRecord {
            stage: self.stage.unwrap_or(Stage::Sandbox),
            error: self.to_string(),
            logs: self.logs.clone(),
            recoverable: self.class.is_recoverable(),
            suggestion: self.suggestion.clone(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

impl From<unpacker::progress::Cancelled> for Fault {
    fn from(cancelled: unpacker::progress::Cancelled) -> Self {
        Self::new(Class::Cancelled, cancelled.to_string())
            .suggest("Run the same command again to go on from here.")
    }
}

/// What is kept of a failed `up` and answered to whoever asks (requirement D12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRecord {
    pub stage: Stage,
    pub error: String,
    pub logs: Vec<String>,
    pub recoverable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule() {
        let ms = |class, attempt, random| delay(class, attempt, random).map(|d| d.as_millis());
        for (class, attempt, random, expected) in [
            (Class::Network, 0, 0, Some(1000)),
            (Class::Network, 1, 100, Some(2100)),
            (Class::Push, 2, 101, Some(4000)),
            (Class::Network, 3, 0, None),
            (Class::Dockerfile, 0, 0, None),
            (Class::Permission, 0, 0, None),
            (Class::Resources, 0, 0, None),
        ] {
            assert_eq!(ms(class, attempt, random), expected);
        }
    }

    #[test]
    fn the_record_has_the_words_of_the_requirement() {
        let fault = Fault::new(Class::Dockerfile, "no such file")
            .at(Stage::Build)
            .with_logs(vec!["x".into()])
            .suggest("Look.");
        assert_eq!(
            serde_json::to_value(fault.record()).unwrap(),
            serde_json::json!({
                "stage": "build", "error": "no such file", "logs": ["x"],
                "recoverable": true, "suggestion": "Look.",
            })
        );
    }

    #[test]
    fn a_full_disk_is_a_resource() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let fault = Fault::io("cannot write x", &full);
        assert_eq!(fault.class, Class::Resources);
        assert!(fault.suggestion.is_some() && fault.to_string().starts_with("cannot write x: "));
    }
}
