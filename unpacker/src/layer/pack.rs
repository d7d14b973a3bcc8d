//! A layer folder becomes a blob, in one pass: the tar is hashed for the diffID while it is
//! compressed, and the compressed bytes are hashed by the content store while they are written.

use std::io::{self, Write};

use oci_spec::image::Descriptor;

use super::compress::{Encoder, Packing, encoder};
use super::diff::{DiffError, DiffOptions, DiffStats, diff_watched};
use super::pipeline::{CHUNK, HashThread, Pool};
use super::root::Root;
use crate::content::{Content, ContentWriter};
use crate::digest::{DiffId, Hasher};
use crate::progress::{Cancel, Progress};

/// A layer in the content store.
#[derive(Debug, Clone)]
pub struct Packed {
    pub blob: Descriptor,
    pub diff_id: DiffId,
    pub stats: DiffStats,
}

/// A folder that did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Diff(#[from] DiffError),
    #[error("cannot store the layer")]
    Store(#[source] io::Error),
}

/// Writes `upper` as a layer into `content`.
pub fn pack(
    upper: &Root,
    content: &dyn Content,
    packing: impl Into<Packing>,
    options: &DiffOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Packed, PackError> {
    let packing = packing.into();
    let writer = content.writer(None).map_err(PackError::Store)?;
    let mut tee = Tee {
        hash: HashThread::start(Hasher::sha256()).map_err(PackError::Store)?,
        encoder: encoder(packing, writer).map_err(PackError::Store)?,
        chunk: Vec::with_capacity(CHUNK),
        pool: Pool::default(),
    };
    let stats = diff_watched(upper, &mut tee, options, progress, cancel)?;
    let (writer, diff_id) = tee.finish().map_err(PackError::Store)?;
    let (digest, size) = writer.commit().map_err(PackError::Store)?;
    Ok(Packed {
        blob: Descriptor::new(packing.compression.media_type(), size, digest),
        diff_id,
        stats,
    })
}

/// Hands every chunk to the hash and to the encoder.
struct Tee {
    hash: HashThread,
    encoder: Encoder<Box<dyn ContentWriter>>,
    /// Small writes (headers, padding) are gathered.
    chunk: Vec<u8>,
    pool: Pool,
}

impl Tee {
    fn pass_on(&mut self) -> io::Result<()> {
        let mut next = self.pool.take();
        next.clear();
        let chunk = self.pool.chunk(std::mem::replace(&mut self.chunk, next));
        self.hash.update(chunk.clone())?;
        self.encoder.write_all(&chunk)
    }

    fn finish(mut self) -> io::Result<(Box<dyn ContentWriter>, DiffId)> {
        self.pass_on()?;
        let digest = self.hash.finish()?;
        Ok((self.encoder.finish()?, DiffId::new(digest)))
    }
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
