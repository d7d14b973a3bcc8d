//! A request body that is read from the content store while it is sent.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use reqwest::Body;

use super::download::BlobName;
use crate::content::Content;

const PIECE: usize = 256 * 1024;

/// A part of a blob.
#[derive(Clone)]
pub(super) struct BlobBody {
    pub(super) content: Arc<dyn Content>,
    pub(super) name: BlobName,
    pub(super) from: u64,
    pub(super) length: u64,
    /// Bytes handed to the connection so far.
    pub(super) sent: Arc<AtomicU64>,
}

impl BlobBody {
    /// A new body from the part's first byte on.
    pub(super) async fn stream(&self) -> io::Result<Body> {
        self.sent.store(0, Ordering::Relaxed);
        let whole = self.clone();
        let opened = tokio::task::spawn_blocking(move || whole.open());
        let file = opened.await.map_err(io::Error::other)??;
        let sent = Arc::clone(&self.sent);
        Ok(Body::wrap_stream(stream::try_unfold(
            (file, sent),
            |(file, sent)| async move {
                let piece = tokio::task::spawn_blocking(move || next_piece(file));
                let Some((bytes, file)) = piece.await.map_err(io::Error::other)?? else {
                    return Ok::<_, io::Error>(None);
                };
                sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Some((bytes, (file, sent))))
            },
        )))
    }

    fn open(&self) -> io::Result<Source> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "the blob is not in the store");
        let mut blob = self.content.open(&self.name.digest)?.ok_or_else(missing)?;
        if blob.size != self.name.size {
            let text = format!("the blob has {} bytes, not {}", blob.size, self.name.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        blob.file.seek(SeekFrom::Start(self.from))?;
        Ok(blob.file.take(self.length))
    }
}

type Source = io::Take<File>;

fn next_piece(mut file: Source) -> io::Result<Option<(Bytes, Source)>> {
    let mut buffer = Vec::with_capacity(PIECE);
    (&mut file).take(PIECE as u64).read_to_end(&mut buffer)?;
    if buffer.is_empty() {
        return Ok(None);
    }
    Ok(Some((buffer.into(), file)))
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("name", &self.name)
            .field("from", &self.from)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
