//! The audit log: one line of JSON for each change and each refusal.
//!
//! A line is in the file before the answer leaves. The file is only ever appended to; when it was
//! renamed or removed (logrotate), or on request, a new one is begun, which is noticed within a
//! second. A line that cannot be written is told in the daemon's log and stops nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PERIOD: Duration = Duration::from_secs(1);
/// What a stranger wrote is cut off here.
const MAX_TEXT: usize = 256;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Pull,
    Push,
    Delete,
    /// Credentials that were not right.
    LoginFailed,
    /// Somebody who is known, or nobody, wanted what they may not.
    Denied,
    /// Too many requests.
    Limited,
    /// The token service gave out a token.
    Token,
    TokenCreated,
    TokenRevoked,
}

/// One line. What does not apply is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// A user's name, `token:` and an API token's name, or `anonymous`.
    pub caller: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// A tag or digest, as it was named; the scope of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Failed logins and exceeded limits, of any address, that got no line before this one: of many
    /// at once only some do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

impl Line {
    pub fn new(event: Event, caller: &str) -> Self {
        Self {
            event,
            request: None,
            caller: printable(caller),
            address: None,
            repository: None,
            reference: None,
            digest: None,
            status: None,
            suppressed: None,
        }
    }
}

/// Text of a stranger as one may look at it in a terminal: without control characters (JSON would
/// keep those of C1), and not for ever.
pub fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MAX_TEXT).map(plain).collect()
}

/// The file.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    /// Whether pulls are written too.
    pub pulls: bool,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    looked: SystemTime,
}

#[derive(Serialize)]
struct Dated<'a> {
    time: String,
    #[serde(flatten)]
    line: &'a Line,
}

impl Audit {
    pub fn open(path: &Path, pulls: bool, now: SystemTime) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            pulls,
            open: Mutex::new(Open {
                file: append(path)?,
                looked: now,
            }),
        })
    }

    /// Appends a line. Blocking.
    pub fn write(&self, line: &Line, now: SystemTime) {
        if let Err(error) = self.try_write(line, now) {
            tracing::error!(%error, path = ?self.path, "a line of the audit log is lost");
        }
    }

    /// Begins the file anew if it was renamed away, without waiting for the next line. Blocking.
    pub fn reopen(&self) -> io::Result<()> {
        let file = append(&self.path)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.file = file;
        Ok(())
    }

    fn try_write(&self, line: &Line, now: SystemTime) -> io::Result<()> {
        let time = OffsetDateTime::from(now).format(&Rfc3339);
        let time = time.map_err(io::Error::other)?;
        let mut text = serde_json::to_vec(&Dated { time, line })?;
        text.push(b'\n');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let rested = match now.duration_since(open.looked) {
            Ok(since) => since >= PERIOD,
            Err(_) => true,
        };
        if rested {
            open.looked = now;
            if !is_at(&open.file, &self.path) {
                open.file = append(&self.path)?;
            }
        }
        // One write for one line: lines of several writers do not mix.
        open.file.write_all(&text)
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn lines_cannot_be_forged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = Audit::open(&path, false, at(0)).unwrap();
        let name =
            "eve\n{\"event\":\"push\"}\r\u{1b}[2J\u{9b}2J\"".to_owned() + &"x".repeat(10_000);
        let mut line = Line::new(Event::LoginFailed, &name);
        line.address = Some([127, 0, 0, 1].into());
        line.status = Some(401);
        audit.write(&line, at(0));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.len() < 1000 && !text.trim_end().contains(char::is_control),
            "{text:?}"
        );
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["event"], "login_failed");
        assert_eq!(json["time"], "1970-01-01T00:00:00Z");
        assert_eq!(json["address"], "127.0.0.1");
        assert!(json.get("digest").is_none());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_rotated_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let audit = Audit::open(&path, false, at(0)).unwrap();
        let line = Line::new(Event::Push, "ann");
        let count = |path: &Path| std::fs::read_to_string(path).map_or(0, |t| t.lines().count());
        audit.write(&line, at(0));
        std::fs::rename(&path, &old).unwrap();
        audit.write(&line, at(0));
        assert_eq!((count(&old), count(&path)), (2, 0));
        audit.write(&line, at(1));
        assert_eq!((count(&old), count(&path)), (2, 1));
        std::fs::rename(&path, &old).unwrap();
        audit.reopen().unwrap();
        audit.write(&line, at(1));
        assert_eq!((count(&old), count(&path)), (1, 1));
    }
}
