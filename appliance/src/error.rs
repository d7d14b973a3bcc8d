//! What a person is told when something does not work.
//!
//! Every room has its own error enums; here they become one [`Failure`]: what failed, why (the chain
//! of causes), what to do next, and the exit code. It crosses the control API as JSON, so that a
//! command prints the daemon's failure just as it would print its own.

use std::error::Error;
use std::fmt;

use builder::error::Record;
use serde::{Deserialize, Serialize};

/// The class of a failure; decides the exit code and the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Anything without a class of its own; exit code 1.
    Internal,
    /// What was written is wrong: a name, a file, an option; exit code 2.
    Invalid,
    /// No such image, sandbox, workspace; exit code 3.
    NotFound,
    /// It exists already, or is in the wrong state; exit code 4.
    Conflict,
    /// A daemon or registry does not answer; exit code 5.
    Unavailable,
    /// Credentials or permissions are missing; exit code 6.
    Denied,
    /// Disk, memory or another bounded thing ran out; exit code 7.
    Exhausted,
    /// Stopped on purpose; exit code 130.
    Cancelled,
}

impl Kind {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Denied => 6,
            Self::Exhausted => 7,
            Self::Cancelled => 130,
        }
    }

    pub fn http_status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
            Self::Denied => 403,
            Self::Exhausted => 507,
            Self::Cancelled => 499,
        }
    }
}

/// A failure as people and scripts see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    /// What failed, one sentence fragment.
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do next, whole sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Instead of the kind's, where a convention of others has one: a shell's 126 and 127.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// What there is to know of a build that failed (requirement D12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Box<Record>>,
}

/// What verbs answer.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            exit_code: None,
            build: None,
        }
    }

    /// What the command that failed ends with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code.unwrap_or_else(|| self.kind.exit_code())
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// `error` and its chain become the message's causes. A full disk found anywhere in the chain
    /// overrides the kind, because then it is what the user must know.
    pub fn because(kind: Kind, message: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(kind, message);
        let mut next = Some(error);
        while let Some(cause) = next {
            let text = shown(cause.to_string());
            if failure.causes.last() != Some(&text) {
                failure.causes.push(text);
            }
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                failure.note_io(io);
            }
            next = cause.source();
        }
        failure
    }

    /// Turns any error into a failure of `kind` whose message is the error itself.
    pub fn from_error(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::because(kind, "", error);
        if !failure.causes.is_empty() {
            failure.message = failure.causes.remove(0);
        }
        failure
    }

    /// Ends the command with this code instead of the kind's.
    #[must_use]
    pub fn exiting(mut self, code: Option<u8>) -> Self {
        self.exit_code = code;
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// With what another one says to do.
    #[must_use]
    pub fn with_hints_of(mut self, other: Self) -> Self {
        self.hints.extend(other.hints);
        self
    }

    fn note_io(&mut self, error: &std::io::Error) {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                self.kind = Kind::Exhausted;
                self.hints.push(
                    "Free some space, then run it again: `devpod image prune --all` removes what no \
                     image or sandbox needs, after `devpod rmi` and `devpod sandbox rm` of what \
                     is not wanted. Nothing half-made was kept."
                        .to_owned(),
                );
            }
            ErrorKind::PermissionDenied if self.kind == Kind::Internal => self.kind = Kind::Denied,
            _ => {}
        }
    }
}

/// What is told of one cause: a file from outside may have megabytes in one of its words.
const MAX_CAUSE: usize = 4096;

fn shown(mut text: String) -> String {
    if text.len() > MAX_CAUSE {
        text.truncate(text.floor_char_boundary(MAX_CAUSE));
        text.push('…');
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::from_error(Kind::Internal, &error)
    }
}

impl From<config::name::NameError> for Failure {
    fn from(error: config::name::NameError) -> Self {
        Self::from_error(Kind::Invalid, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_of_its_own_crosses_the_api() {
        let through = |failure: &Failure| -> Failure {
            serde_json::from_str(&serde_json::to_string(failure).unwrap()).unwrap()
        };
        let plain = Failure::invalid("no such program");
        assert_eq!(through(&plain).exit_code(), 2);
        assert_eq!(through(&plain.exiting(Some(127))).exit_code(), 127);
    }

    #[test]
    fn a_full_disk_is_what_the_user_hears() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = Failure::because(Kind::Internal, "cannot unpack", &full);
        assert_eq!(failure.kind, Kind::Exhausted);
        assert_eq!(failure.hints.len(), 1);
        assert!(failure.to_string().starts_with("cannot unpack: "));
    }
}
