//! The registry's blob files as the unpacker's content store.

use std::fs::File;
use std::io::{self, Write};

use registry::digest::Algorithm;
use registry::service::Registry;
use registry::store::writer::BlobWriter;
use unpacker::content::{Blob, Content, ContentWriter};
use unpacker::digest::Digest;

/// All blobs of the registry, whatever repository shows them.
#[derive(Debug, Clone)]
pub(crate) struct RegistryContent(pub(crate) Registry);

impl Content for RegistryContent {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let found = self.0.store().blobs().get(digest)?;
        Ok(found.map(|(file, size)| Blob { file, size }))
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        let algorithm = expected.and_then(Algorithm::of).unwrap_or_default();
        let writer = self.0.store().blobs().writer(algorithm)?;
        Ok(Box::new(Writer {
            writer,
            expected: expected.cloned(),
        }))
    }

    fn resume(&self, expected: &Digest) -> io::Result<(Box<dyn ContentWriter>, u64)> {
        let writer = self.0.store().blobs().partial(expected)?;
        let have = writer.written();
        let expected = Some(expected.clone());
        Ok((Box::new(Writer { writer, expected }), have))
    }

    fn unfinished(&self, digest: &Digest) -> io::Result<u64> {
        self.0.store().blobs().partial_size(digest)
    }

    fn free(&self) -> io::Result<Option<u64>> {
        self.0.store().blobs().free().map(Some)
    }
}

struct Writer {
    writer: BlobWriter,
    expected: Option<Digest>,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl ContentWriter for Writer {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        Ok(self.writer.commit(self.expected.as_ref())?)
    }

    fn reader(&self) -> io::Result<Option<File>> {
        self.writer.reader().map(Some)
    }

    fn discard(mut self: Box<Self>) {
        self.writer.discard_on_drop();
    }
}
