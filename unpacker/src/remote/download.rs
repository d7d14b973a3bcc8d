//! A blob into the content store. An interrupted download keeps what it has and goes on from
//! there with a `Range`; the store's writer checks the digest over all of it.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use config::name::Reference;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::auth::Scope;
use super::client::Remote;
use super::error::RemoteError;
use super::exchange::{Call, Reply};
use super::sink::Sink;
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
    /// Fetches `blob` from the repository of `reference` and commits it to `content`.
    pub async fn download(
        &self,
        reference: &Reference,
        blob: &BlobName,
        content: &Arc<dyn Content>,
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        let _permit = self.transfer().await;
        let mut download = Download::new(self, reference, blob, content, progress);
        let mut attempts = self.attempts(progress);
        let mut before = 0;
        loop {
            let error = match download.attempt().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if download.received >= before + WORTH_ANOTHER_TRY {
                attempts.moved_forward();
            }
            before = download.received;
            attempts.after(error).await?;
        }
    }
}

/// One blob on its way, over all its attempts.
struct Download<'a> {
    remote: &'a Remote,
    reference: &'a Reference,
    blob: &'a BlobName,
    content: &'a Arc<dyn Content>,
    progress: &'a dyn Progress,
    sink: Option<Sink>,
    /// Bytes that the sink has.
    received: u64,
    reported: u64,
}

impl<'a> Download<'a> {
    fn new(
        remote: &'a Remote,
        reference: &'a Reference,
        blob: &'a BlobName,
        content: &'a Arc<dyn Content>,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            remote,
            reference,
            blob,
            content,
            progress,
            sink: None,
            received: 0,
            reported: 0,
        }
    }

    async fn attempt(&mut self) -> Result<(), RemoteError> {
        if self.received < self.blob.size || self.sink.is_none() {
            self.receive().await?;
        }
        self.commit().await
    }

    async fn receive(&mut self) -> Result<(), RemoteError> {
        let reply = self.ask().await?;
        let have = self.start_of(&reply)?;
        self.check_length(&reply, have)?;
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
        let scope = Scope::pull(self.reference);
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

    /// A length that cannot be right is found before a byte is taken.
    fn check_length(&self, reply: &Reply, start: u64) -> Result<(), RemoteError> {
        match reply.content_length() {
            Some(length) if start.saturating_add(length) != self.blob.size => {
                Err(self.wrong_size(start.saturating_add(length)))
            }
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
        let written = self.sink().write(bytes).await;
        written.map_err(|source| self.content_error(source))?;
        self.received = received;
        self.report();
        Ok(())
    }

    fn sink(&mut self) -> &mut Sink {
        let (content, digest) = (self.content, &self.blob.digest);
        self.sink
            .get_or_insert_with(|| Sink::open(Arc::clone(content), digest.clone()))
    }

    async fn commit(&mut self) -> Result<(), RemoteError> {
        // An empty blob has no piece that could have opened the sink.
        self.sink();
        let Some(sink) = self.sink.take() else {
            return Ok(());
        };
        match sink.commit().await {
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
        blob_name(self.reference, self.blob)
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

/// What errors call a blob.
pub(super) fn blob_name(reference: &Reference, blob: &BlobName) -> String {
    format!("blob {} of {}", blob.digest, reference.repository())
}

/// The first number of `bytes <start>-<end>/<size>` (RFC 9110 section 14.4).
pub(super) fn range_start(header: &str) -> Option<u64> {
    let rest = header.trim().strip_prefix("bytes ")?;
    rest.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        for (header, start) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-0/*", Some(0)),
            ("bytes */10", None),
            ("bytes=5-9", None),
            ("items 5-9/10", None),
            ("bytes 99999999999999999999-1/2", None),
            ("", None),
        ] {
            assert_eq!(range_start(header), start, "{header}");
        }
    }
}
