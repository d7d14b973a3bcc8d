//! Which endpoint a path names, decided from the path's tail: repository names contain slashes and
//! may have components called `blobs`, `manifests`, `tags` or `uploads`.
//!
//! Pure. A path is percent-decoded once, here; names and digests are parsed once, here.

use config::name::{NameError, RepositoryName, Target, parse_digest};
use oci_spec::image::Digest;

use super::query::decode;
use crate::store::sessions::SessionId;

/// An endpoint with its parameters (distribution-spec, "Endpoints").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// end-1
    Ping,
    /// `_catalog`, from before the specification
    Catalog,
    /// end-2, end-10
    Blob(RepositoryName, Digest),
    /// end-4, end-11
    Uploads(RepositoryName),
    /// end-5, end-6, end-13, end-14
    Upload(RepositoryName, SessionId),
    /// end-3, end-7, end-9
    Manifest(RepositoryName, Target),
    /// end-8
    Tags(RepositoryName),
    /// end-12
    Referrers(RepositoryName, Digest),
}

impl Route {
    /// The repository that the endpoint belongs to.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Ping | Self::Catalog => None,
            Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Manifest(name, _)
            | Self::Tags(name)
            | Self::Referrers(name, _) => Some(name),
        }
    }
}

/// Why a path names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("path is no endpoint of the distribution API")]
    Unknown,
    #[error("repository name is invalid")]
    Name(#[source] NameError),
    #[error("digest is invalid or of an unsupported algorithm")]
    Digest(#[source] NameError),
    #[error("tag is invalid")]
    Tag(#[source] NameError),
    #[error("upload session does not exist")]
    Session,
}

/// A longer path can hold no valid name (255), tag (128) or digest (135) any more.
const MAX_PATH: usize = 1024;

/// Reads the raw (still encoded) path of a request.
pub fn parse(path: &str) -> Result<Route, RouteError> {
    if path.len() > MAX_PATH {
        return Err(RouteError::Unknown);
    }
    let path = decode(path).ok_or(RouteError::Unknown)?;
    let rest = path.strip_prefix("/v2").ok_or(RouteError::Unknown)?;
    match rest {
        "" | "/" => return Ok(Route::Ping),
        "/_catalog" => return Ok(Route::Catalog),
        _ => {}
    }
    let rest = rest.strip_prefix('/').ok_or(RouteError::Unknown)?;
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Ok(Route::Tags(repository(name)?));
    }
    let uploads = rest
        .strip_suffix("/blobs/uploads/")
        .or_else(|| rest.strip_suffix("/blobs/uploads"));
    if let Some(name) = uploads {
        return Ok(Route::Uploads(repository(name)?));
    }
    let (head, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        let name = repository(name)?;
        let session = last.parse().map_err(|_| RouteError::Session)?;
        return Ok(Route::Upload(name, session));
    }
    let (name, kind) = head.rsplit_once('/').ok_or(RouteError::Unknown)?;
    match kind {
        "blobs" => Ok(Route::Blob(repository(name)?, digest(last)?)),
        "manifests" => Ok(Route::Manifest(repository(name)?, target(last)?)),
        "referrers" => Ok(Route::Referrers(repository(name)?, digest(last)?)),
        _ => Err(RouteError::Unknown),
    }
}

fn repository(text: &str) -> Result<RepositoryName, RouteError> {
    text.parse().map_err(RouteError::Name)
}

pub(super) fn digest(text: &str) -> Result<Digest, RouteError> {
    parse_digest(text).map_err(RouteError::Digest)
}

pub(super) fn target(text: &str) -> Result<Target, RouteError> {
    text.parse().map_err(|error| match error {
        NameError::Digest { .. } => RouteError::Digest(error),
        _ => RouteError::Tag(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: &str = "01234567-89ab-4def-a123-456789abcdef";

    fn hash() -> String {
        format!("sha256:{}", "a".repeat(64))
    }

    #[test]
    fn decides_from_the_tail() {
        let hash = hash();
        let d = |text: &str| parse_digest(text).unwrap();
        let r = |text: &str| text.parse::<RepositoryName>().unwrap();
        let t = |text: &str| text.parse::<Target>().unwrap();
        for (path, route) in [
            ("/v2".into(), Route::Ping),
            ("/v2/".into(), Route::Ping),
            ("/v2/_catalog".into(), Route::Catalog),
            ("/v2/a/tags/list".into(), Route::Tags(r("a"))),
            (
                "/v2/a/tags/list/tags/list".into(),
                Route::Tags(r("a/tags/list")),
            ),
            ("/v2/tags/tags/list".into(), Route::Tags(r("tags"))),
            (
                "/v2/a/b/c/manifests/latest".into(),
                Route::Manifest(r("a/b/c"), t("latest")),
            ),
            (
                "/v2/a/blobs/uploads/manifests/x".into(),
                Route::Manifest(r("a/blobs/uploads"), t("x")),
            ),
            (
                "/v2/manifests/manifests/manifests".into(),
                Route::Manifest(r("manifests"), t("manifests")),
            ),
            (
                format!("/v2/a/manifests/{hash}"),
                Route::Manifest(r("a"), t(&hash)),
            ),
            (format!("/v2/a/blobs/{hash}"), Route::Blob(r("a"), d(&hash))),
            (
                format!("/v2/a/blobs/{}", hash.replace(':', "%3A")),
                Route::Blob(r("a"), d(&hash)),
            ),
            (
                format!("/v2/a/manifests/blobs/{hash}"),
                Route::Blob(r("a/manifests"), d(&hash)),
            ),
            (
                format!("/v2/a/referrers/{hash}"),
                Route::Referrers(r("a"), d(&hash)),
            ),
            ("/v2/a/blobs/uploads/".into(), Route::Uploads(r("a"))),
            ("/v2/a/blobs/uploads".into(), Route::Uploads(r("a"))),
            (
                "/v2/a/manifests/blobs/uploads/".into(),
                Route::Uploads(r("a/manifests")),
            ),
            (
                format!("/v2/a/blobs/uploads/{SESSION}"),
                Route::Upload(r("a"), SESSION.parse().unwrap()),
            ),
        ] {
            assert_eq!(parse(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        let long = format!("/v2/{}/tags/list", "a".repeat(300));
        for (path, kind) in [
            ("/", "unknown"),
            ("/v1/", "unknown"),
            ("/v2x", "unknown"),
            ("/v2/a", "unknown"),
            ("/v2/manifests/x", "unknown"),
            ("/v2/a/other/x", "unknown"),
            ("/v2/a/%zz/x", "unknown"),
            ("/v2//tags/list", "name"),
            ("/v2/A/tags/list", "name"),
            ("/v2/../../etc/tags/list", "name"),
            ("/v2/a/../b/manifests/x", "name"),
            ("/v2/a%2F..%2Fb/manifests/x", "name"),
            (long.as_str(), "name"),
            ("/v2/a/blobs/sha256:baddigeststring", "digest"),
            ("/v2/a/blobs/md5:00", "digest"),
            ("/v2/a/manifests/sha256:short", "digest"),
            ("/v2/a/manifests/-x", "tag"),
            ("/v2/a/blobs/uploads/x", "session"),
        ] {
            let found = match parse(path) {
                Err(RouteError::Unknown) => "unknown",
                Err(RouteError::Name(_)) => "name",
                Err(RouteError::Digest(_)) => "digest",
                Err(RouteError::Tag(_)) => "tag",
                Err(RouteError::Session) => "session",
                Ok(_) => "a route",
            };
            assert_eq!(found, kind, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "/v2/[ -~]{0,80}") {
            let _ = parse(&path);
        }

        #[test]
        fn every_repository_has_all_its_endpoints(
            name in "(blobs|uploads|manifests|tags|list|referrers|a)(/(blobs|uploads|manifests|tags|list|referrers|b)){0,5}",
        ) {
            let repository: RepositoryName = name.parse().unwrap();
            let digest = parse_digest(&hash()).unwrap();
            prop_assert_eq!(parse(&format!("/v2/{name}/tags/list")), Ok(Route::Tags(repository.clone())));
            prop_assert_eq!(
                parse(&format!("/v2/{name}/manifests/blobs")),
                Ok(Route::Manifest(repository.clone(), "blobs".parse().unwrap()))
            );
            prop_assert_eq!(
                parse(&format!("/v2/{name}/blobs/{digest}")),
                Ok(Route::Blob(repository.clone(), digest.clone()))
            );
            prop_assert_eq!(parse(&format!("/v2/{name}/blobs/uploads/")), Ok(Route::Uploads(repository.clone())));
            prop_assert_eq!(
                parse(&format!("/v2/{name}/blobs/uploads/{SESSION}")),
                Ok(Route::Upload(repository, SESSION.parse().unwrap()))
            );
        }
    }
}
