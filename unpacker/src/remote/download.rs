//! A blob into the content store. An interrupted download keeps what it has and goes on from there
//! with a `Range`: at the next attempt, at the next mirror, and, where the store keeps unfinished
//! blobs, after a killed process. The store's writer checks the digest over all of it, so neither an
//! `ETag` nor the server is relied on: bytes of two versions glued together have another digest.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use config::name::Reference;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::auth::Scope;
use super::client::Remote;
use super::error::RemoteError;
use super::exchange::{Call, Reply};
use super::sink::Sink;
use crate::arrival::Turn;
use crate::content::Content;
use crate::digest::Digest;
use crate::progress::{Event, Phase, Progress};

/// So many bytes since the last failure count as the line having worked.
const WORTH_ANOTHER_TRY: u64 = 1024 * 1024;
/// News of a transfer at most every so many bytes.
const NEWS_EVERY: u64 = 256 * 1024;

/// Digest and size of a blob, as a verified manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobName {
    pub digest: Digest,
    pub size: u64,
}

impl BlobName {
    /// The short form that progress events carry.
    pub fn id(&self) -> String {
        self.digest.digest().chars().take(12).collect()
    }
}

impl Remote {
    /// Fetches `blob` from the repository of `reference`, or a mirror of it, and commits it to
    /// `content`.
    pub async fn download(
        &self,
        reference: &Reference,
        blob: &BlobName,
        content: &Arc<dyn Content>,
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        let _permit = self.transfer().await;
        self.download_for(reference, blob, content, None, progress)
            .await
    }

    /// As [`Remote::download`], with readers that follow, and the right to transfer the caller's.
    pub(crate) async fn download_for(
        &self,
        reference: &Reference,
        blob: &BlobName,
        content: &Arc<dyn Content>,
        turn: Option<&Turn>,
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        let mut download = Download {
            remote: self,
            reference: reference.clone(),
            blob,
            content,
            turn,
            progress,
            sink: None,
            received: 0,
            reported: 0,
            taken_up: false,
            anew: false,
        };
        for mirror in self.mirrors(reference) {
            download.reference = mirror;
            match download.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => self.leave_mirror(&download.reference, error, progress)?,
            }
            // The next place may have to answer for what this one sent.
            download.taken_up |= download.received > 0;
        }
        download.reference = reference.clone();
        download.persist().await
    }
}

/// One blob on its way, over all its attempts.
struct Download<'a> {
    remote: &'a Remote,
    /// Where it is asked for now.
    reference: Reference,
    blob: &'a BlobName,
    content: &'a Arc<dyn Content>,
    turn: Option<&'a Turn>,
    progress: &'a dyn Progress,
    sink: Option<Sink>,
    /// Bytes that the sink has.
    received: u64,
    reported: u64,
    /// Whether some of them are of an earlier process or place, and may be wrong.
    taken_up: bool,
    /// Whether it was begun anew for that reason.
    anew: bool,
}

impl Download<'_> {
    /// Tries until there is no hope.
    async fn persist(&mut self) -> Result<(), RemoteError> {
        let mut attempts = self.remote.attempts(self.progress);
        let mut before = self.received;
        loop {
            let taken_up = self.taken_up;
            let error = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if (taken_up || self.taken_up) && !self.anew && spoils(&error) {
                // What was there may be what is wrong; once it is gone nothing else is to blame.
                self.anew = true;
                self.drop_content().await;
                before = 0;
                continue;
            }
            if self.received >= before + WORTH_ANOTHER_TRY {
                attempts.moved_forward();
            }
            before = self.received;
            attempts.after(error).await?;
        }
    }

    /// One request and what comes of it. After an error the sink has what came, unless it was wrong.
    async fn attempt(&mut self) -> Result<(), RemoteError> {
        self.open().await?;
        if self.received < self.blob.size {
            let received = self.receive().await;
            if matches!(received, Err(RemoteError::SizeMismatch { .. })) {
                self.drop_content().await;
            }
            received?;
        }
        self.commit().await
    }

    /// Opens the sink, which may have a part of the blob already.
    async fn open(&mut self) -> Result<(), RemoteError> {
        if self.sink.is_some() {
            return Ok(());
        }
        let content = Arc::clone(self.content);
        let opened = Sink::open(content, self.blob.clone(), self.turn.cloned()).await;
        let (sink, have) = opened.map_err(|source| self.content_error(source))?;
        self.sink = Some(sink);
        self.received = have;
        self.taken_up = have > 0;
        if self.taken_up {
            self.report();
        }
        Ok(())
    }

    async fn drop_content(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.discard().await;
        }
        self.received = 0;
        self.reported = 0;
        self.taken_up = false;
    }

    async fn receive(&mut self) -> Result<(), RemoteError> {
        let reply = self.ask().await?;
        let have = self.start_of(&reply)?;
        self.check(&reply, have)?;
        // A server that cannot do ranges sends all of it again; what we have is passed over.
        self.take(reply, self.received - have).await
    }

    async fn ask(&self) -> Result<Reply, RemoteError> {
        let endpoint = self.remote.endpoint(self.reference.host())?;
        let tail = format!("blobs/{}", self.blob.digest);
        let url = endpoint.url(self.reference.repository(), &tail);
        let mut call = Call::new(Method::GET, url);
        // Offsets and digest are of the blob itself, not of a re-encoded form.
        let identity = HeaderValue::from_static("identity");
        call.headers.insert(ACCEPT_ENCODING, identity);
        if self.received > 0 {
            let range = format!("bytes={}-", self.received);
            if let Ok(range) = HeaderValue::from_str(&range) {
                call.headers.insert(RANGE, range);
            }
        }
        let scope = Scope::pull(&self.reference);
        let what = self.what();
        self.remote.request(&endpoint, &scope, &what, call).await
    }

    /// The offset of the body's first byte.
    fn start_of(&self, reply: &Reply) -> Result<u64, RemoteError> {
        if reply.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(0);
        }
        let range = reply.header(CONTENT_RANGE).unwrap_or_default();
        match range_start(range) {
            Some(start) if start == self.received && start > 0 => Ok(start),
            _ => Err(self.protocol(format!(
                "asked for bytes from {} of {}, it answers {range:?}",
                self.received,
                self.what()
            ))),
        }
    }

    /// What cannot be right is found before a byte is taken.
    fn check(&self, reply: &Reply, start: u64) -> Result<(), RemoteError> {
        if let Some(encoding) = reply.header(CONTENT_ENCODING)
            && !encoding.trim().eq_ignore_ascii_case("identity")
        {
            return Err(self.protocol(format!(
                "{} comes encoded as {encoding:?}, which was not asked for",
                self.what()
            )));
        }
        // A part may be shorter than what was asked for; then the rest is asked for again.
        let whole = match reply.status() {
            StatusCode::PARTIAL_CONTENT => {
                range_total(reply.header(CONTENT_RANGE).unwrap_or_default())
            }
            _ => reply
                .content_length()
                .map(|length| start.saturating_add(length)),
        };
        match whole {
            Some(whole) if whole != self.blob.size => Err(self.wrong_size(whole)),
            _ => Ok(()),
        }
    }

    async fn take(&mut self, mut reply: Reply, mut pass_over: u64) -> Result<(), RemoteError> {
        while let Some(mut bytes) = reply.chunk().await? {
            let known = pass_over.min(bytes.len() as u64);
            pass_over -= known;
            // Bounded by the chunk's own length, so it fits.
            bytes.advance(known as usize);
            self.keep(bytes).await?;
        }
        if self.received < self.blob.size {
            return Err(RemoteError::Interrupted {
                host: self.reference.host().to_owned(),
                what: self.what(),
                received: self.received,
                expected: self.blob.size,
            });
        }
        Ok(())
    }

    async fn keep(&mut self, bytes: Bytes) -> Result<(), RemoteError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let received = self.received + bytes.len() as u64;
        if received > self.blob.size {
            return Err(self.wrong_size(received));
        }
        if let Some(sink) = &mut self.sink {
            let written = sink.write(bytes).await;
            written.map_err(|source| self.content_error(source))?;
        }
        self.received = received;
        self.report();
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), RemoteError> {
        let Some(sink) = self.sink.take() else {
            return Ok(());
        };
        let committed = sink.commit().await;
        // Whatever came of it, that writer is gone.
        self.received = 0;
        self.reported = 0;
        match committed {
            Ok(actual) if actual == self.blob.digest => Ok(()),
            Ok(actual) => Err(self.mismatch(actual.to_string())),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(self.mismatch("another digest".to_owned()))
            }
            Err(e) => Err(self.content_error(e)),
        }
    }

    fn report(&mut self) {
        let whole = self.received == self.blob.size;
        if whole || self.received >= self.reported + NEWS_EVERY {
            self.reported = self.received;
            self.progress.event(Event::Transfer {
                id: self.blob.id(),
                phase: Phase::Download,
                done: self.received,
                total: Some(self.blob.size),
            });
        }
    }

    fn what(&self) -> String {
        blob_name(&self.reference, self.blob)
    }

    fn protocol(&self, problem: String) -> RemoteError {
        RemoteError::Protocol {
            host: self.reference.host().to_owned(),
            problem,
        }
    }

    fn wrong_size(&self, actual: u64) -> RemoteError {
        RemoteError::SizeMismatch {
            host: self.reference.host().to_owned(),
            what: self.what(),
            expected: self.blob.size,
            actual,
        }
    }

    fn mismatch(&self, actual: String) -> RemoteError {
        RemoteError::DigestMismatch {
            host: self.reference.host().to_owned(),
            what: self.what(),
            expected: self.blob.digest.clone(),
            actual,
        }
    }

    fn content_error(&self, source: io::Error) -> RemoteError {
        RemoteError::Content {
            what: self.what(),
            source,
        }
    }
}

/// Whether bytes that were taken up may be why it failed: the whole has another digest, or the server
/// has not so many.
fn spoils(error: &RemoteError) -> bool {
    matches!(
        error,
        RemoteError::DigestMismatch { .. } | RemoteError::Refused { status: 416, .. }
    )
}

/// What errors call a blob.
pub(super) fn blob_name(reference: &Reference, blob: &BlobName) -> String {
    format!("blob {} of {}", blob.digest, reference.repository())
}

/// The first number of `bytes <start>-<end>/<size>` (RFC 9110 section 14.4).
pub(super) fn range_start(header: &str) -> Option<u64> {
    let rest = header.trim().strip_prefix("bytes ")?;
    rest.split_once('-')?.0.trim().parse().ok()
}

/// The last number of it, where it is known.
fn range_total(header: &str) -> Option<u64> {
    header.rsplit_once('/')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (header, start, total) in [
            ("bytes 5-9/10", Some(5), Some(10)),
            ("bytes 0-0/*", Some(0), None),
            ("bytes */10", None, Some(10)),
            ("bytes=5-9", None, None),
            ("items 5-9/10", None, Some(10)),
            ("bytes 99999999999999999999-1/2", None, Some(2)),
            ("", None, None),
        ] {
            assert_eq!(range_start(header), start, "{header}");
            assert_eq!(range_total(header), total, "{header}");
        }
    }
}
