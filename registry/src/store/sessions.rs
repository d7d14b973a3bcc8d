//! Upload sessions on disk: `<content>/uploads/<session>` holds the bytes received so far and
//! `<session>.json` says whose they are.
//!
//! The file's own length is the persisted offset, so neither opening a session nor receiving a
//! chunk costs a sync or an index transaction, and a session still survives a killed process. A
//! power cut may shorten the file: then the client is told the shorter offset and goes on from
//! there. A session is no acknowledged content; what is acknowledged is checked by its digest.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use config::name::RepositoryName;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat, utimensat};
use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Hasher};
use crate::store::blobs::{Blobs, TEMPORARY, hash_file, names, random_hex};
use crate::store::pool::{is_stand_in, stand_in};
use crate::store::writer::{BlobWriter, NOW};

/// A session's record is tiny; more than this is not one of ours.
const MAX_RECORD: u64 = 4096;

/// The name of an upload session: a random UUID (RFC 9562, version 4), as the specification asks
/// ("Pushing blobs", end-4a).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

/// The text names no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an upload session")]
pub struct BadSessionId {
    pub text: String,
}

impl SessionId {
    pub(crate) fn random() -> io::Result<Self> {
        let hex = random_hex()?;
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        // Version 4 and the RFC's variant stand at fixed places.
        Ok(Self(format!(
            "{}-{}-4{}-a{}-{}",
            part(0, 8),
            part(8, 12),
            part(13, 16),
            part(17, 20),
            part(20, 32)
        )))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        let lengths = [8, 4, 4, 4, 12];
        let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let good = text.len() == 36
            && text.split('-').map(str::len).eq(lengths)
            && text.split('-').all(hex);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadSessionId {
                text: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose session it is and how its content is hashed on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    pub repository: RepositoryName,
    pub algorithm: Algorithm,
}

#[derive(Serialize, Deserialize)]
struct Written {
    repository: String,
    algorithm: Algorithm,
}

/// The sessions' part of the content folder.
#[derive(Debug, Clone)]
pub struct Sessions {
    blobs: Blobs,
}

impl Sessions {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self { blobs }
    }

    /// Makes an empty session. The data file comes first: a record without one is no session.
    pub fn create(&self, record: &SessionRecord) -> io::Result<SessionId> {
        self.blobs.room()?;
        let (id, _) = self.blobs.begin(SessionId::to_string)?;
        let written = Written {
            repository: record.repository.to_string(),
            algorithm: record.algorithm,
        };
        let result = self
            .create_file(&record_name(&id))
            .and_then(|mut file| file.write_all(&serde_json::to_vec(&written)?));
        if let Err(error) = result {
            self.discard(&id)?;
            return Err(error);
        }
        Ok(id)
    }

    fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        Ok(openat(self.blobs.uploads(), name, flags, mode)?.into())
    }

    /// What is known of a session; `None` where there is none.
    pub fn record(&self, id: &SessionId) -> io::Result<Option<SessionRecord>> {
        let Some(file) = self.open_file(&record_name(id), OFlags::RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes)?;
        Ok(parse_record(&bytes))
    }

    /// Bytes received so far.
    pub fn offset(&self, id: &SessionId) -> io::Result<Option<u64>> {
        match self.open_file(id.as_str(), OFlags::RDONLY)? {
            Some(file) => Ok(Some(file.metadata()?.len())),
            None => Ok(None),
        }
    }

    /// Opens a session for appending. A midstate that fits the file saves hashing it again.
    pub(crate) fn resume(
        &self,
        id: &SessionId,
        algorithm: Algorithm,
        midstate: Option<(Hasher, u64)>,
    ) -> io::Result<Option<BlobWriter>> {
        let flags = OFlags::RDWR | OFlags::APPEND;
        let Some(file) = self.open_file(id.as_str(), flags)? else {
            return Ok(None);
        };
        let length = file.metadata()?.len();
        let state = match midstate {
            Some((hasher, offset)) if offset == length => (hasher, offset),
            _ => hash_file(&file, algorithm)?,
        };
        let name = id.to_string();
        Ok(Some(BlobWriter::resumed(&self.blobs, file, name, state)))
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<Option<File>> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.blobs.uploads(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets a session and its bytes, with the stand-in of its file. Absent is fine.
    pub fn discard(&self, id: &SessionId) -> io::Result<()> {
        self.remove(id)?;
        self.unlink(&stand_in(id.as_str()))
    }

    /// Forgets a session whose content was committed or refused. Absent is fine. Its stand-in may
    /// be all that a power cut leaves of the blob: whoever has that in hand drops it.
    pub fn remove(&self, id: &SessionId) -> io::Result<()> {
        self.unlink(&record_name(id))?;
        self.unlink(id.as_str())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.blobs.uploads(), name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sessions that still stand.
    pub fn list(&self) -> io::Result<Vec<SessionId>> {
        let names = names(self.blobs.uploads())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The repositories that sessions belong to: somebody is pushing there.
    pub(crate) fn repositories(&self) -> io::Result<HashSet<String>> {
        let mut found = HashSet::new();
        for id in self.list()? {
            found.extend(
                self.record(&id)?
                    .map(|record| record.repository.to_string()),
            );
        }
        Ok(found)
    }

    /// When the session last received bytes.
    pub fn touched(&self, id: &SessionId) -> io::Result<Option<SystemTime>> {
        match self.open_file(id.as_str(), OFlags::RDONLY)? {
            Some(file) => Ok(Some(file.metadata()?.modified()?)),
            None => Ok(None),
        }
    }

    /// A session of a time that has not come, more than `most` from now, counts as touched now:
    /// the clock was ahead, and it would be too young to expire for ever.
    pub(crate) fn rest_if_ahead(
        &self,
        id: &SessionId,
        now: SystemTime,
        most: Duration,
    ) -> io::Result<()> {
        let touched = self.touched(id)?;
        let ahead = touched.and_then(|at| at.duration_since(now).ok());
        if ahead.is_none_or(|ahead| ahead <= most) {
            return Ok(());
        }
        match utimensat(self.blobs.uploads(), id.as_str(), &NOW, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes what no running process can own: temporary files, halves of sessions, and sessions
    /// idle for longer than `idle`. Only right at open, before any writer exists.
    pub(super) fn sweep(&self, now: SystemTime, idle: Duration) -> io::Result<()> {
        for name in names(self.blobs.uploads())? {
            let session = name.strip_suffix(".json").unwrap_or(&name);
            let Ok(id) = session.parse::<SessionId>() else {
                if name.starts_with(TEMPORARY) || is_stand_in(&name) {
                    self.unlink(&name)?;
                }
                continue;
            };
            let whole = self.record(&id)?.is_some();
            let fresh = self.touched(&id)?.is_some_and(|at| is_fresh(at, now, idle));
            if !(whole && fresh) {
                self.remove(&id)?;
            }
        }
        Ok(())
    }
}

/// Whether `at` lies less than `idle` before `now`. A time in the future is fresh.
pub(crate) fn is_fresh(at: SystemTime, now: SystemTime, idle: Duration) -> bool {
    now.duration_since(at).map_or(true, |age| age < idle)
}

fn record_name(id: &SessionId) -> String {
    format!("{id}.json")
}

fn parse_record(bytes: &[u8]) -> Option<SessionRecord> {
    let written: Written = serde_json::from_slice(bytes).ok()?;
    Some(SessionRecord {
        repository: written.repository.parse().ok()?,
        algorithm: written.algorithm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;
    use crate::store::step::Steps;

    fn sessions() -> (tempfile::TempDir, Sessions) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Steps::default()).unwrap();
        (folder, Sessions::new(blobs))
    }

    fn record() -> SessionRecord {
        SessionRecord {
            repository: "a/b".parse().unwrap(),
            algorithm: Algorithm::Sha256,
        }
    }

    #[test]
    fn identifiers_are_uuids_and_parse() {
        let id = SessionId::random().unwrap();
        assert_eq!(id.as_str().parse::<SessionId>().unwrap(), id);
        for bad in [
            "",
            "..",
            "../../etc/passwd",
            "w-00",
            &"a".repeat(36),
            "A0000000-0000-4000-a000-000000000000",
        ] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_goes_on_without_its_midstate() {
        let (_folder, sessions) = sessions();
        let id = sessions.create(&record()).unwrap();
        let mut writer = sessions
            .resume(&id, Algorithm::Sha256, None)
            .unwrap()
            .unwrap();
        writer.write_all(b"con").unwrap();
        drop(writer);
        assert_eq!(sessions.offset(&id).unwrap(), Some(3));
        assert_eq!(sessions.record(&id).unwrap(), Some(record()));
        let mut writer = sessions
            .resume(&id, Algorithm::Sha256, None)
            .unwrap()
            .unwrap();
        writer.write_all(b"tent").unwrap();
        let (digest, size) = writer.commit(None).unwrap();
        assert_eq!(
            (digest, size),
            (digest_of(Algorithm::Sha256, b"content"), 7)
        );
        assert_eq!(sessions.offset(&id).unwrap(), None);
    }

    #[test]
    fn a_session_of_the_future_counts_as_touched_now() {
        let (folder, sessions) = sessions();
        let id = sessions.create(&record()).unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let file = File::open(folder.path().join("uploads").join(id.as_str())).unwrap();
        for (ahead, stays) in [(day / 2, true), (1000 * day, false)] {
            file.set_modified(now + ahead).unwrap();
            sessions.rest_if_ahead(&id, now, day).unwrap();
            let touched = sessions.touched(&id).unwrap().unwrap();
            assert_eq!(touched > now + day / 4, stays);
        }
    }

    #[test]
    fn sweeping_keeps_only_whole_and_fresh_sessions() {
        let (folder, sessions) = sessions();
        let id = sessions.create(&record()).unwrap();
        let half = sessions.create(&record()).unwrap();
        let uploads = folder.path().join("uploads");
        std::fs::remove_file(uploads.join(record_name(&half))).unwrap();
        std::fs::write(uploads.join("w-0"), b"x").unwrap();
        let now = SystemTime::now();
        sessions.sweep(now, Duration::from_secs(60)).unwrap();
        assert_eq!(sessions.list().unwrap(), vec![id.clone()]);
        assert!(!uploads.join("w-0").exists());
        sessions
            .sweep(now + Duration::from_secs(120), Duration::from_secs(60))
            .unwrap();
        assert!(sessions.list().unwrap().is_empty());
        assert!(sessions.record(&id).unwrap().is_none());
    }
}
