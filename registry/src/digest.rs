//! The one hasher of this crate: sha256 and sha512 over a stream.
//!
//! Only these two algorithms are registered by the image specification (descriptor.md,
//! "Registered algorithms"); everything else is refused where a digest is parsed
//! (`config::name::parse_digest`).

use std::fmt;

pub use oci_spec::image::Digest;
use oci_spec::image::DigestAlgorithm;
use ring::digest::{Context, SHA256, SHA512};
use serde::{Deserialize, Serialize};

/// A hash algorithm that content can be verified with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    #[default]
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The algorithm that a digest was made with; `None` where it is none of ours.
    pub fn of(digest: &Digest) -> Option<Self> {
        Self::parse(digest.algorithm().as_ref())
    }

    /// The name as it stands before the colon of a digest.
    pub fn parse(name: &str) -> Option<Self> {
        match DigestAlgorithm::from(name) {
            DigestAlgorithm::Sha256 => Some(Self::Sha256),
            DigestAlgorithm::Sha512 => Some(Self::Sha512),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A hash in progress. A clone is a midstate: hashing goes on from it.
#[derive(Clone)]
pub struct Hasher {
    context: Context,
    algorithm: Algorithm,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Self {
        let context = match algorithm {
            Algorithm::Sha256 => Context::new(&SHA256),
            Algorithm::Sha512 => Context::new(&SHA512),
        };
        Self { context, algorithm }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let hash = hex(self.context.finish().as_ref());
        let text = format!("{}:{hash}", self.algorithm.name());
        // A finished hash always prints as a digest of its own algorithm.
        #[allow(clippy::expect_used)]
        text.parse().expect("a hash prints as a digest")
    }
}

/// The digest of bytes that are already in memory.
pub fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    #[test]
    fn hashes_as_an_independent_implementation_does() {
        for text in ["", "abc", &"x".repeat(70_000)] {
            let bytes = text.as_bytes();
            let sha256 = format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)));
            let sha512 = format!("sha512:{}", hex(&sha2::Sha512::digest(bytes)));
            assert_eq!(digest_of(Algorithm::Sha256, bytes).to_string(), sha256);
            assert_eq!(digest_of(Algorithm::Sha512, bytes).to_string(), sha512);
        }
    }
}
