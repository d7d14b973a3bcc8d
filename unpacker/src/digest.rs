//! The three digests of a layer, as types that never mix: the blob's digest (of the compressed
//! bytes, `oci_spec`'s [`Digest`]), the [`DiffId`] (of the uncompressed tar) and the [`ChainId`]
//! (of a stack of layers). Source: image-spec config.md, "Layer DiffID" and "Layer ChainID".

use std::fmt;
use std::str::FromStr;

pub use oci_spec::image::Digest;
use ring::digest::{Context, SHA256, SHA512};

/// Digest of a layer's uncompressed tar stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DiffId(Digest);

/// Digest of a layer together with all layers below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChainId(Digest);

/// A digest that does not parse, or whose algorithm is not ours to verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a sha256 or sha512 digest")]
pub struct BadDigest {
    pub text: String,
}

impl DiffId {
    pub fn new(digest: Digest) -> Self {
        Self(digest)
    }

    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl FromStr for DiffId {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        config::name::parse_digest(text)
            .map(Self)
            .map_err(|_| BadDigest {
                text: text.to_owned(),
            })
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ChainId {
    /// The chain of a lowest layer is its diffID.
    pub fn base(diff: &DiffId) -> Self {
        Self(diff.0.clone())
    }

    /// The chain of `diff` on top of `self`: sha256 of `<parent> <diffID>`.
    pub fn extend(&self, diff: &DiffId) -> Self {
        Self(sha256(format!("{} {}", self.0, diff.0).as_bytes()))
    }

    /// One chain per layer, lowest first.
    pub fn of_layers<'a>(diffs: impl IntoIterator<Item = &'a DiffId>) -> Vec<Self> {
        let mut chains: Vec<Self> = Vec::new();
        for diff in diffs {
            let next = match chains.last() {
                Some(parent) => parent.extend(diff),
                None => Self::base(diff),
            };
            chains.push(next);
        }
        chains
    }

    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hashes a stream with one of the two registered algorithms.
#[derive(Clone)]
pub struct Hasher {
    context: Context,
    sha512: bool,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher")
            .field("sha512", &self.sha512)
            .finish_non_exhaustive()
    }
}

impl Hasher {
    pub fn sha256() -> Self {
        Self {
            context: Context::new(&SHA256),
            sha512: false,
        }
    }

    /// The algorithm of `digest`; sha256 for anything that is not sha512.
    pub fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            oci_spec::image::DigestAlgorithm::Sha512 => Self {
                context: Context::new(&SHA512),
                sha512: true,
            },
            _ => Self::sha256(),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let prefix = if self.sha512 { "sha512:" } else { "sha256:" };
        let text = format!("{prefix}{}", hex(self.context.finish().as_ref()));
        // A finished hash always prints as a digest of its own algorithm.
        #[allow(clippy::expect_used)]
        text.parse().expect("a hash prints as a digest")
    }
}

/// sha256 of bytes that are already in memory.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::sha256();
    hasher.update(bytes);
    hasher.finish()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_an_independent_implementation_does() {
        use sha2::{Digest as _, Sha256};
        for text in ["", "abc", &"x".repeat(1000)] {
            let expected = format!("sha256:{}", hex(&Sha256::digest(text.as_bytes())));
            assert_eq!(sha256(text.as_bytes()).to_string(), expected);
        }
    }

    #[test]
    fn chains_as_the_specification_says() {
        let a: DiffId = sha256(b"a").to_string().parse().unwrap();
        let b: DiffId = sha256(b"b").to_string().parse().unwrap();
        let chains = ChainId::of_layers([&a, &b]);
        assert_eq!(chains[0].digest(), a.digest());
        let joined = format!("{a} {b}");
        assert_eq!(chains[1].digest(), &sha256(joined.as_bytes()));
    }
}
