//! Names of images: repository names, tags and full references.
//!
//! Each is parsed once, here, by `FromStr`; whoever holds one needs no second check. The grammar
//! is the distribution specification's (section "Pulling manifests"); the short forms (`alpine`,
//! `user/app`) are completed as docker completes them.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Digest;

/// The host that short names belong to.
pub const DOCKER_HUB: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Host, slash and name together: what clients accept (distribution-spec, "Pulling manifests").
const MAX_NAME: usize = 255;

/// Why a name was refused. `text` is what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{text:?} is not a repository name: lower-case letters, digits and single '.', '_', '__' \
         or '-' between them, in components separated by '/'"
    )]
    Repository { text: String },
    #[error("repository name {text:?} is longer than 255 bytes")]
    TooLong { text: String },
    #[error(
        "{text:?} is not a tag: at most 128 letters, digits, '_', '.' or '-', the first not '.' or '-'"
    )]
    Tag { text: String },
    #[error("{text:?} is not a digest: an algorithm, ':' and the hexadecimal hash")]
    Digest { text: String },
    #[error("{text:?} is not a registry host: a name or address with an optional ':port'")]
    Host { text: String },
    #[error("an image reference is empty")]
    Empty,
}

/// A repository's name inside one registry, such as `workspace/abc123`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong {
                text: text.to_owned(),
            });
        }
        if !text.split('/').all(is_component) {
            return Err(NameError::Repository {
                text: text.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    bytes
        .split(|b| alnum(b))
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

/// A tag, such as `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag that a reference without tag and digest means.
    pub fn latest() -> Self {
        Self(DEFAULT_TAG.to_owned())
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        let good = text.len() <= 128
            && bytes.next().is_some_and(word)
            && bytes.all(|b| word(b) || b == b'.' || b == b'-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Tag {
                text: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a reference points at inside its repository. A digest wins where both were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Tag(Tag),
    Digest(Digest),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = NameError;

    /// The last path segment of `/v2/<name>/manifests/<reference>`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            parse_digest(text).map(Self::Digest)
        } else {
            text.parse().map(Self::Tag)
        }
    }
}

/// A complete image reference: registry host, repository, tag and/or digest.
///
/// `host_given` tells whether the writer named the host: `demo` and `docker.io/library/demo` are
/// the same image for a remote pull, but only the first may also mean the embedded registry's
/// `demo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    host_given: bool,
    repository: RepositoryName,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Reference {
    /// A reference from parts that are already known to be good. `host` must be one that
    /// [`Reference::from_str`] accepts.
    pub fn new(host: &str, repository: RepositoryName, target: Target) -> Result<Self, NameError> {
        check_host(host)?;
        let (tag, digest) = match target {
            Target::Tag(tag) => (Some(tag), None),
            Target::Digest(digest) => (None, Some(digest)),
        };
        Ok(Self {
            host: host.to_owned(),
            host_given: true,
            repository,
            tag,
            digest,
        })
    }

    /// The registry, with its port where one was written: `docker.io`, `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn host_given(&self) -> bool {
        self.host_given
    }

    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// The tag as written; `None` with a digest and no tag.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask a registry for: the digest where there is one, else the tag.
    pub fn target(&self) -> Target {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Target::Digest(digest.clone()),
            (None, Some(tag)) => Target::Tag(tag.clone()),
            (None, None) => Target::Tag(Tag::latest()),
        }
    }

    /// The same repository at another target.
    pub fn at(&self, target: Target) -> Self {
        let (tag, digest) = match target {
            Target::Tag(tag) => (Some(tag), None),
            Target::Digest(digest) => (None, Some(digest)),
        };
        Self {
            tag,
            digest,
            ..self.clone()
        }
    }
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.parse()?)),
            _ => (rest, None),
        };
        let (host, host_given, path) = split_host(path)?;
        let repository: RepositoryName = if host == DOCKER_HUB && !path.contains('/') {
            path.parse::<RepositoryName>()?;
            format!("library/{path}").parse()?
        } else {
            path.parse()?
        };
        let tag = if tag.is_none() && digest.is_none() {
            Some(Tag::latest())
        } else {
            tag
        };
        Ok(Self {
            host,
            host_given,
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    /// The complete form: `docker.io/library/alpine:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a host when it has a '.' or ':' or is `localhost`, as docker decides it.
fn split_host(path: &str) -> Result<(String, bool, &str), NameError> {
    match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            check_host(host)?;
            let host = if host == "index.docker.io" {
                DOCKER_HUB
            } else {
                host
            };
            Ok((host.to_owned(), true, rest))
        }
        _ => Ok((DOCKER_HUB.to_owned(), false, path)),
    }
}

fn check_host(host: &str) -> Result<(), NameError> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let port_good = port.is_none_or(|p| p.parse::<u16>().is_ok());
    if name.split('.').all(label) && port_good {
        Ok(())
    } else {
        Err(NameError::Host {
            text: host.to_owned(),
        })
    }
}

/// A digest as the image specification writes it; unknown algorithms are refused here, because
/// no content of ours could ever be verified with them.
pub fn parse_digest(text: &str) -> Result<Digest, NameError> {
    let bad = || NameError::Digest {
        text: text.to_owned(),
    };
    let digest: Digest = text.parse().map_err(|_| bad())?;
    match digest.algorithm() {
        oci_spec::image::DigestAlgorithm::Sha256 | oci_spec::image::DigestAlgorithm::Sha512 => {
            Ok(digest)
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_short_references() {
        let hash = "a".repeat(64);
        let digested = format!("docker.io/library/a@sha256:{hash}");
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("user/app", "docker.io/user/app:latest"),
            ("index.docker.io/library/a", "docker.io/library/a:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b/c:t", "localhost:5000/a/b/c:t"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
            (
                "ghcr.io/devcontainers/features/go:1",
                "ghcr.io/devcontainers/features/go:1",
            ),
            (&format!("a@sha256:{hash}"), &digested),
        ] {
            assert_eq!(
                text.parse::<Reference>().map(|r| r.to_string()).as_deref(),
                Ok(full)
            );
        }
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for text in [
            "",
            " ",
            "Alpine",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:zz",
            "a@md5:00",
            "a..b",
            "a___b",
            "../etc",
            "a/../b",
            "localhost:99999/a",
            "ho_st.x/a",
            "a b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn component_separators() {
        for good in ["a", "a.b", "a_b", "a__b", "a-b", "a---b", "0"] {
            assert!(is_component(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a._b", "A", "a___b", "ä"] {
            assert!(!is_component(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_prints_to_itself(text in "[a-z0-9./:@_-]{1,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let printed = reference.to_string();
                let again: Reference = printed.parse().unwrap();
                proptest::prop_assert_eq!(again.to_string(), printed);
            }
        }
    }
}
