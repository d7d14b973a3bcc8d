//! The one reader that checks what comes from outside: size and digest.
//!
//! Nothing may depend on bytes before [`Verified::finish`] has said that they are the expected
//! ones; no other code compares digests of blobs.

use std::io::{self, Read};

use oci_spec::image::Descriptor;

use crate::digest::{Digest, Hasher};

/// The bytes are not those that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("{digest} has {actual} bytes, its descriptor says {expected}")]
    Size {
        digest: Digest,
        expected: u64,
        actual: u64,
    },
    #[error("the bytes of {expected} have the digest {actual}")]
    Digest { expected: Digest, actual: Digest },
}

/// Reads at most the expected number of bytes and hashes them on the way.
#[derive(Debug)]
pub struct Verified<R> {
    inner: R,
    /// Absent where the reader itself vouches for the digest.
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    seen: u64,
}

impl<R: Read> Verified<R> {
    pub fn new(inner: R, digest: &Digest, size: u64) -> Self {
        Self {
            inner,
            hasher: Some(Hasher::like(digest)),
            expected: digest.clone(),
            size,
            seen: 0,
        }
    }

    /// For a reader that ends with an error where its bytes are not the digest's: only the size is
    /// compared.
    pub fn vouched(inner: R, digest: &Digest, size: u64) -> Self {
        Self {
            hasher: None,
            ..Self::new(inner, digest, size)
        }
    }

    /// Reads what is left and compares. To be called before the bytes are believed.
    pub fn finish(mut self) -> io::Result<Result<(), Mismatch>> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.verdict())
    }

    fn verdict(self) -> Result<(), Mismatch> {
        if self.seen != self.size {
            return Err(Mismatch::Size {
                digest: self.expected,
                expected: self.size,
                actual: self.seen,
            });
        }
        let Some(hasher) = self.hasher else {
            return Ok(());
        };
        let actual = hasher.finish();
        match actual.to_string() == self.expected.to_string() {
            true => Ok(()),
            false => Err(Mismatch::Digest {
                expected: self.expected,
                actual,
            }),
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.seen > self.size {
            return Ok(0);
        }
        // One byte more than expected is enough to know that the blob is too long.
        let room = (self.size - self.seen).saturating_add(1);
        let length = usize::try_from(room).map_or(buffer.len(), |room| room.min(buffer.len()));
        let read = self.inner.read(&mut buffer[..length])?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        self.seen += read as u64;
        Ok(read)
    }
}

/// Checks bytes that are in memory.
pub fn check(bytes: &[u8], blob: &Descriptor) -> Result<(), Mismatch> {
    let mut reader = Verified::new(bytes, blob.digest(), blob.size());
    // Reading from memory cannot fail.
    let _ = io::copy(&mut reader, &mut io::sink());
    if reader.seen > reader.size {
        reader.seen = bytes.len() as u64;
    }
    reader.verdict()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn read(bytes: &[u8], of: &[u8]) -> Result<(), Mismatch> {
        Verified::new(bytes, &sha256(of), of.len() as u64)
            .finish()
            .unwrap()
    }

    #[test]
    fn only_the_expected_bytes_pass() {
        assert_eq!(read(b"abc", b"abc"), Ok(()));
        assert_eq!(read(b"", b""), Ok(()));
        assert!(matches!(
            read(b"ab", b"abc"),
            Err(Mismatch::Size { actual: 2, .. })
        ));
        assert!(matches!(
            read(b"abcdef", b"abc"),
            Err(Mismatch::Size { .. })
        ));
        assert!(matches!(read(b"abd", b"abc"), Err(Mismatch::Digest { .. })));
    }
}
