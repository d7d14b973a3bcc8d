//! Verbs over blobs: what one repository shows of the shared content.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use config::name::RepositoryName;

use super::Registry;
use super::uploads::ROOM_STEP;
use crate::digest::{Algorithm, Digest};
use crate::events::{EventKind, Subject};
use crate::store::index::{events, links};
use crate::store::writer::BlobWriter;
use crate::store::{CommitBlobError, StoreError};

/// Whoever is told that a blob is here may name it in a manifest after a while: its link, if nothing
/// else keeps the blob, is made young again when it is older than this.
const FRESH: Duration = Duration::from_secs(600);

/// An uncommitted blob of a repository whose quota is asked now and then: of a body that does not say
/// its length, not much more than there is room for is received.
#[derive(Debug)]
pub struct AdmittedWriter {
    writer: BlobWriter,
    registry: Registry,
    repository: RepositoryName,
    digest: Digest,
    /// Bytes that need no further look.
    room_for: u64,
}

impl AdmittedWriter {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.writer.written()
    }

    /// The growing file, see [`BlobWriter::reader`].
    pub fn reader(&self) -> std::io::Result<File> {
        self.writer.reader()
    }

    /// Takes some more bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let whole = self.written().saturating_add(bytes.len() as u64);
        if whole > self.room_for {
            let (name, digest) = (self.repository.as_str(), &self.digest);
            self.registry
                .store()
                .check_room(name, Some(digest), whole)?;
            self.room_for = whole.saturating_add(ROOM_STEP);
        }
        Ok(self.writer.write_all(bytes)?)
    }

    /// What was written, ready to be committed.
    pub fn into_writer(self) -> BlobWriter {
        self.writer
    }
}

impl Registry {
    /// The size of a blob that the repository shows.
    pub fn stat_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, StoreError> {
        let index = self.store().index();
        let before = self.store().now().saturating_sub(FRESH.as_secs());
        let (size, fading) = index.read(|rows| {
            let size = links::size(rows, repository.as_str(), digest)?;
            let fading = links::is_fading(rows, repository.as_str(), digest, before)?;
            Ok((size, fading))
        })?;
        let Some(size) = size else {
            return Ok(None);
        };
        // A collection or a deletion may have been quicker.
        if fading && !self.store().refresh(repository.as_str(), digest)? {
            return Ok(None);
        }
        // The file decides: a blob that is gone must be pushed again, not believed in.
        self.store().stat_blob(digest, size)
    }

    /// A blob that the repository shows, open at its beginning, and its size.
    pub fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<(File, u64)>, StoreError> {
        let index = self.store().index();
        match index.read(|rows| links::size(rows, repository.as_str(), digest))? {
            Some(size) => self.store().open_blob(digest, size),
            None => Ok(None),
        }
    }

    /// Starts a blob; nothing is visible before [`Registry::commit_blob`].
    pub fn blob_writer(&self, algorithm: Algorithm) -> Result<BlobWriter, StoreError> {
        Ok(self.store().blobs().writer(algorithm)?)
    }

    /// As [`Registry::blob_writer`], for a blob of a repository that has, or may have, no room for
    /// it: `length` is its size where that is known. While it comes, room is looked for again.
    pub fn admitted_writer(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        length: Option<u64>,
    ) -> Result<AdmittedWriter, StoreError> {
        let length = length.unwrap_or(0);
        self.store()
            .check_room(repository.as_str(), Some(digest), length)?;
        Ok(AdmittedWriter {
            writer: self.blob_writer(Algorithm::of(digest).unwrap_or_default())?,
            registry: self.clone(),
            repository: repository.clone(),
            digest: digest.clone(),
            room_for: length,
        })
    }

    /// Makes the written content a blob of the repository and answers its size.
    pub fn commit_blob(
        &self,
        repository: &RepositoryName,
        writer: BlobWriter,
        expected: &Digest,
    ) -> Result<u64, CommitBlobError> {
        self.store().commit(repository.as_str(), writer, expected)
    }

    /// Shows a blob that is in the content folder (an in-process writer committed it) in a
    /// repository. False where the content folder does not have it.
    pub fn link_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        self.store().link(repository.as_str(), digest)
    }

    /// Shows a blob of the repository `from`, or with `None` of any, in another one. False where
    /// there is no such blob; then it must be pushed (distribution-spec, "Mounting a blob").
    pub fn mount(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<bool, StoreError> {
        let source = from.map(RepositoryName::as_str);
        let index = self.store().index();
        if !index.read(|rows| links::is_linked(rows, source, digest))? {
            return Ok(false);
        }
        let notes = self.note(&Subject {
            digest: Some(digest),
            from,
            ..Subject::new(EventKind::Mount, repository)
        });
        let linked = self
            .store()
            .link_noted(repository.as_str(), digest, notes)?;
        self.noted();
        Ok(linked)
    }

    /// Hides a blob from the repository; the file stays until a sweep finds that nobody else has
    /// it. False where the repository does not show it.
    pub fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let notes = self.note(&Subject {
            digest: Some(digest),
            ..Subject::new(EventKind::Delete, repository)
        });
        let (repository, digest) = (repository.to_string(), digest.clone());
        let done = self.store().index().write(move |rows| {
            let done = links::unlink(rows, &repository, &digest)?;
            if done {
                events::append(rows, notes.rows())?;
            }
            Ok(done)
        })?;
        self.noted();
        Ok(done)
    }
}
