//! One layer's blob: read, verified, decompressed, hashed, and handed on as a tar.

use std::io::{self, Read};
use std::thread;

use super::UnpackError;
use crate::content::{Content, Stream};
use crate::digest::{DiffId, Digest, Hasher};
use crate::image::Layer;
use crate::layer::apply::{ApplyError, ApplyOptions};
use crate::layer::compress::decoder;
use crate::layer::pipeline::{Feeder, HashThread, ahead};
use crate::progress::{Event, Phase, Progress};
use crate::verify::{Mismatch, Verified};

/// Bytes between two events of progress.
const REPORT_EVERY: u64 = 1 << 20;

/// Where layers come from, and how they are carried out.
pub(super) struct Source<'a> {
    pub(super) content: &'a dyn Content,
    pub(super) options: &'a ApplyOptions,
    pub(super) progress: &'a dyn Progress,
}

impl Source<'_> {
    /// Lets `apply` carry out a layer. What it answers is worth something only because the layer
    /// was the right one.
    pub(super) fn read<T>(
        &self,
        layer: &Layer,
        apply: impl FnOnce(&mut dyn Read) -> Result<T, ApplyError>,
    ) -> Result<T, UnpackError> {
        let digest = layer.blob.digest();
        let unreadable = |source| UnpackError::Content {
            digest: digest.clone(),
            source,
        };
        let stream = self.open(layer)?;
        let (vouched, size) = (stream.vouched, layer.blob.size());
        let counted = self.counted(layer, stream);
        let verified = match vouched {
            true => Verified::vouched(counted, digest, size),
            false => Verified::new(counted, digest, size),
        };
        let hasher = Hasher::like(layer.diff_id.digest());
        let (feeder, mut reader) = ahead();
        let (applied, read) = thread::scope(|scope| {
            let reading = thread::Builder::new()
                .name("layer-read".into())
                .spawn_scoped(scope, move || drive(verified, hasher, feeder))?;
            let applied = apply(&mut reader);
            // Without a reader the other thread stops.
            drop(reader);
            let read = reading
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")));
            Ok((applied, read))
        })
        .map_err(unreadable)?;
        let applied = applied.map_err(|error| not_applied(digest, error))?;
        let (verdict, actual) = read.map_err(unreadable)?;
        verdict?;
        if actual.to_string() != layer.diff_id.to_string() {
            return Err(UnpackError::DiffId {
                expected: layer.diff_id.clone(),
                actual: DiffId::new(actual),
            });
        }
        Ok(applied)
    }

    fn open(&self, layer: &Layer) -> Result<Stream, UnpackError> {
        let digest = layer.blob.digest();
        let opened = self.content.stream(digest);
        let opened = opened.map_err(|source| UnpackError::Content {
            digest: digest.clone(),
            source,
        })?;
        opened.ok_or_else(|| UnpackError::Missing {
            digest: digest.clone(),
        })
    }

    fn counted(&self, layer: &Layer, stream: Stream) -> Counted<'_, Box<dyn Read + Send>> {
        Counted {
            inner: stream.reader,
            progress: self.progress,
            id: short(layer.blob.digest()),
            total: layer.blob.size(),
            done: 0,
            told: 0,
        }
    }

    pub(super) fn finished(&self, layer: &Layer, note: Option<&str>) {
        self.progress.event(Event::Finished {
            id: short(layer.blob.digest()),
            phase: Phase::Unpack,
            note: note.map(str::to_owned),
        });
    }
}

fn not_applied(digest: &Digest, error: ApplyError) -> UnpackError {
    match error {
        ApplyError::Cancelled(cancelled) => UnpackError::Cancelled(cancelled),
        source => UnpackError::Apply {
            digest: digest.clone(),
            source,
        },
    }
}

/// The reading thread: blob to chunks, for the writer and for the hash. Answers what the blob was
/// and the digest of what it unpacked to.
fn drive<R: Read + Send>(
    mut blob: Verified<R>,
    hasher: Hasher,
    feeder: Feeder,
) -> io::Result<(Result<(), Mismatch>, Digest)> {
    let hash = HashThread::start(hasher)?;
    match decoder(&mut blob) {
        Ok(mut decoder) => feeder.run(&mut decoder, |chunk| hash.update(chunk.clone())),
        Err(error) => feeder.fail(error),
    }
    Ok((blob.finish()?, hash.finish()?))
}

/// Tells how far the blob is read.
struct Counted<'a, R> {
    inner: R,
    progress: &'a dyn Progress,
    id: String,
    total: u64,
    done: u64,
    told: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        if self.done - self.told >= REPORT_EVERY || (read == 0 && self.told != self.done) {
            self.told = self.done;
            self.progress.event(Event::Transfer {
                id: self.id.clone(),
                phase: Phase::Unpack,
                done: self.done,
                total: Some(self.total),
            });
        }
        Ok(read)
    }
}

fn short(digest: &Digest) -> String {
    digest.digest().chars().take(12).collect()
}
