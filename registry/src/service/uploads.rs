//! Upload sessions: who may append, and what becomes of the bytes.
//!
//! A session has at most one [`Appender`] at a time; a second one is refused while the first lives.
//! Dropping an appender keeps what it wrote, so a client whose connection broke asks for the offset
//! and goes on. Between requests a session costs no descriptor, only its hash state.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use config::name::RepositoryName;

use super::Registry;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::collect::AHEAD;
use crate::store::failures::Failures;
use crate::store::sessions::{SessionId, SessionRecord, Sessions, is_fresh};
use crate::store::writer::BlobWriter;
use crate::store::{CommitBlobError, StoreError};
use crate::upload::{Allowance, ChunkError, ChunkRange, admit};

/// Why an upload did not go on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("upload session {session} does not exist in this repository")]
    Unknown { session: SessionId },
    #[error("upload session {session} is receiving another request")]
    Busy { session: SessionId },
    #[error("{open} upload sessions are open already")]
    TooMany { open: usize },
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Blob(#[from] CommitBlobError),
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        Self::Blob(error.into())
    }
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Sessions of this process's registry, by what they are doing.
#[derive(Debug)]
pub(super) struct OpenSessions(Mutex<HashMap<SessionId, Slot>>);

// Nearly all sessions are idle at any time, so a box would only add an allocation to each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Slot {
    /// With the hash state of the bytes so far, unless the session is from an earlier process.
    Idle(Option<(Hasher, u64)>),
    Busy,
}

impl OpenSessions {
    pub(super) fn of(sessions: &Sessions) -> io::Result<Self> {
        let slots = sessions
            .list()?
            .into_iter()
            .map(|id| (id, Slot::Idle(None)));
        Ok(Self(Mutex::new(slots.collect())))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle session for one request.
    fn take(&self, session: &SessionId) -> Result<Option<(Hasher, u64)>, UploadError> {
        let mut slots = self.lock();
        let Entry::Occupied(mut slot) = slots.entry(session.clone()) else {
            let session = session.clone();
            return Err(UploadError::Unknown { session });
        };
        match std::mem::replace(slot.get_mut(), Slot::Busy) {
            Slot::Idle(midstate) => Ok(midstate),
            Slot::Busy => {
                let session = session.clone();
                Err(UploadError::Busy { session })
            }
        }
    }

    fn put_back(&self, session: &SessionId, midstate: Option<(Hasher, u64)>) {
        self.lock().insert(session.clone(), Slot::Idle(midstate));
    }

    fn forget(&self, session: &SessionId) {
        self.lock().remove(session);
    }
}

impl Registry {
    /// Opens a session; `algorithm` is what its content will be asked for with.
    pub fn start_upload(
        &self,
        repository: &RepositoryName,
        algorithm: Algorithm,
    ) -> Result<SessionId, UploadError> {
        let open = self.0.sessions.lock().len();
        if open >= self.policy().max_sessions {
            return Err(UploadError::TooMany { open });
        }
        let repository = repository.clone();
        let record = SessionRecord {
            repository,
            algorithm,
        };
        let session = self.store().sessions().create(&record)?;
        let midstate = (Hasher::new(algorithm), 0);
        self.0.sessions.put_back(&session, Some(midstate));
        Ok(session)
    }

    /// How many sessions are open.
    pub fn open_uploads(&self) -> usize {
        self.0.sessions.lock().len()
    }

    /// The sessions that are open.
    pub(super) fn session_ids(&self) -> Vec<SessionId> {
        self.0.sessions.lock().keys().cloned().collect()
    }

    /// Bytes that a session has.
    pub fn upload_offset(
        &self,
        repository: &RepositoryName,
        session: &SessionId,
    ) -> Result<u64, UploadError> {
        self.session_record(repository, session)?;
        let offset = self.store().sessions().offset(session)?;
        offset.ok_or_else(|| UploadError::Unknown {
            session: session.clone(),
        })
    }

    /// The session's record, if it belongs to the repository: a session of another one is unknown.
    fn session_record(
        &self,
        repository: &RepositoryName,
        session: &SessionId,
    ) -> Result<SessionRecord, UploadError> {
        let record = self.store().sessions().record(session)?;
        record
            .filter(|record| record.repository == *repository)
            .ok_or_else(|| UploadError::Unknown {
                session: session.clone(),
            })
    }

    /// Takes the session for one request whose body is `range` (a chunk) or goes on where the
    /// session ends, with `length` bytes where that is known.
    pub fn append(
        &self,
        repository: &RepositoryName,
        session: &SessionId,
        range: Option<ChunkRange>,
        length: Option<u64>,
    ) -> Result<Appender, UploadError> {
        let record = self.session_record(repository, session)?;
        let midstate = self.0.sessions.take(session)?;
        // From here on the slot is ours: the appender, or the error path, gives it back.
        match self.resume(session, record.algorithm, midstate) {
            Ok(writer) => {
                let mut appender = Appender {
                    registry: self.clone(),
                    session: session.clone(),
                    writer: Some(writer),
                    allowance: None,
                    repository: repository.clone(),
                    room_for: 0,
                    taken: 0,
                };
                appender.admit(range, length)?;
                let whole = appender.offset().saturating_add(length.unwrap_or(0));
                appender.check_room(whole)?;
                Ok(appender)
            }
            Err(error) => {
                self.0.sessions.put_back(session, None);
                Err(error)
            }
        }
    }

    fn resume(
        &self,
        session: &SessionId,
        algorithm: Algorithm,
        midstate: Option<(Hasher, u64)>,
    ) -> Result<BlobWriter, UploadError> {
        let writer = self
            .store()
            .sessions()
            .resume(session, algorithm, midstate)?;
        writer.ok_or_else(|| UploadError::Unknown {
            session: session.clone(),
        })
    }

    /// Forgets a session and its bytes (distribution-spec, end-14).
    pub fn cancel_upload(
        &self,
        repository: &RepositoryName,
        session: &SessionId,
    ) -> Result<(), UploadError> {
        self.session_record(repository, session)?;
        self.0.sessions.take(session)?;
        let removed = self.store().sessions().discard(session);
        self.0.sessions.forget(session);
        Ok(removed?)
    }

    /// Cancels sessions that received nothing for the store's `session_idle`; answers how many.
    pub fn expire_uploads(&self) -> Result<u64, StoreError> {
        let (now, idle) = (
            (self.store().options().clock)(),
            self.store().options().session_idle,
        );
        let all: Vec<SessionId> = self.0.sessions.lock().keys().cloned().collect();
        let (mut expired, mut failures) = (0, Failures::default());
        for session in all {
            let outcome = self.expire_upload(&session, now, idle);
            expired += u64::from(failures.pass(&session, outcome).unwrap_or_default());
        }
        failures.end(expired)
    }

    /// Answers whether the session had received nothing for too long. That is looked at again with
    /// the session in hand: a request between the first look and that has made it young.
    fn expire_upload(
        &self,
        session: &SessionId,
        now: SystemTime,
        idle: Duration,
    ) -> Result<bool, StoreError> {
        let sessions = self.store().sessions();
        sessions.rest_if_ahead(session, now, AHEAD)?;
        let is_idle = || {
            let touched = sessions.touched(session)?;
            Ok::<_, io::Error>(!touched.is_some_and(|at| is_fresh(at, now, idle)))
        };
        if !is_idle()? {
            return Ok(false);
        }
        let Ok(midstate) = self.0.sessions.take(session) else {
            return Ok(false);
        };
        let outcome = is_idle().and_then(|idle| match idle {
            true => sessions.discard(session).map(|()| true),
            false => Ok(false),
        });
        match outcome {
            Ok(true) => self.0.sessions.forget(session),
            _ => self.0.sessions.put_back(session, midstate),
        }
        Ok(outcome?)
    }
}

/// One request's hold on a session. Dropping it keeps the bytes and frees the session.
#[derive(Debug)]
pub struct Appender {
    registry: Registry,
    session: SessionId,
    /// Gone once committed.
    writer: Option<BlobWriter>,
    allowance: Option<Allowance>,
    /// Whose quota the session's bytes will count in.
    repository: RepositoryName,
    /// Bytes that the quota has been found to have room for.
    room_for: u64,
    taken: u64,
}

/// A quota is asked again after so many bytes of a body whose length is not known.
pub(super) const ROOM_STEP: u64 = 64 * 1024 * 1024;

impl Appender {
    fn admit(&mut self, range: Option<ChunkRange>, length: Option<u64>) -> Result<(), ChunkError> {
        let limit = self.registry.policy().max_blob;
        self.allowance = Some(admit(self.offset(), range, length, limit)?);
        Ok(())
    }

    /// Refuses early what could not be committed. A blob that is here already, under another name
    /// for all we know, is measured like a new one.
    fn check_room(&mut self, whole: u64) -> Result<(), StoreError> {
        let store = self.registry.store();
        store.check_room(self.repository.as_str(), None, whole)?;
        self.room_for = self.room_for.max(whole);
        Ok(())
    }

    /// Bytes that the session has by now.
    pub fn offset(&self) -> u64 {
        self.writer.as_ref().map_or(0, BlobWriter::written)
    }

    /// Takes some bytes of the body.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        if let Some(allowance) = self.allowance {
            allowance.take(self.taken, bytes.len() as u64)?;
        }
        let whole = self.offset().saturating_add(bytes.len() as u64);
        if whole > self.room_for {
            self.check_room(whole)?;
            self.room_for = whole.saturating_add(ROOM_STEP);
        }
        if let Some(writer) = &mut self.writer {
            writer.write_all(bytes)?;
        }
        self.taken += bytes.len() as u64;
        Ok(())
    }

    /// The body ended; answers the session's new offset.
    pub fn end(&self) -> Result<u64, UploadError> {
        if let Some(allowance) = self.allowance {
            allowance.end(self.taken)?;
        }
        Ok(self.offset())
    }

    /// Ends the session: its content becomes a blob of the repository. Content with another digest
    /// ends the session too, and leaves nothing.
    pub fn commit(
        mut self,
        repository: &RepositoryName,
        expected: &Digest,
    ) -> Result<u64, UploadError> {
        self.end()?;
        let Some(writer) = self.writer.take() else {
            let session = self.session.clone();
            return Err(UploadError::Unknown { session });
        };
        let registry = self.registry.clone();
        let committed = registry.commit_blob(repository, writer, expected);
        registry.store().sessions().remove(&self.session)?;
        Ok(committed?)
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let sessions = &self.registry.0.sessions;
        match &self.writer {
            Some(writer) => sessions.put_back(&self.session, Some(writer.midstate())),
            None => sessions.forget(&self.session),
        }
    }
}
