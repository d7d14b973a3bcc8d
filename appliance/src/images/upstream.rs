//! Other registries as the registry's mirror sees them: our own client, one question at a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::name::{Reference, RepositoryName, Tag, Target};
use config::registry::upstream::{Address, Upstream as Settings};
use registry::digest::Digest;
use registry::manifest::MAX_MANIFEST;
use registry::mirror::names::Naming;
use registry::mirror::upstream::{
    Asked, Pieces, RemoteBlob, RemoteManifest, Trouble, Upstream, UpstreamError,
};
use registry::mirror::{self, Mirror, Source};
use registry::service::Registry;
use unpacker::remote::client::{self, Remote};
use unpacker::remote::error::RemoteError;
use unpacker::remote::open::OpenBlob;

use crate::error::{Failure, Kind, Outcome};
use crate::images::external::External;
use crate::images::remote;
use crate::options::Options;

/// Clients wait, and there may be a copy to serve instead.
const CONNECT: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(30);

/// The mirror that the settings ask for.
pub(crate) fn mirror(options: &Options, registry: &Registry) -> Outcome<Mirror> {
    let upstreams = &options.settings.registry.upstreams;
    let sources = upstreams.iter().map(|upstream| source(options, upstream));
    let sources: Vec<Source> = sources.collect::<Outcome<_>>()?;
    Ok(Mirror::new(
        registry.clone(),
        sources,
        mirror::Options::default(),
    ))
}

fn source(options: &Options, upstream: &Settings) -> Outcome<Source> {
    let mut settings = client::Options {
        retries: 0,
        connect_timeout: CONNECT,
        stall: STALL,
        ..remote::settings(&options.settings.remote, &remote::own)
    };
    // This is the mirror; it has addresses of its own.
    settings.mirrors.clear();
    for address in &upstream.addresses {
        let list = match address.plain_http {
            true => &mut settings.plain_http,
            false => &mut settings.tls,
        };
        // The host alone follows the settings of all other registries.
        if address.host != upstream.host || address.plain_http {
            list.push(address.host.to_string());
        }
    }
    let mut credentials = External::new(options);
    if let Some(name) = &upstream.credentials {
        let hosts = upstream.addresses.iter().map(|address| &address.host);
        credentials = credentials.under(hosts, name);
    }
    let client = Remote::new(settings, Arc::new(credentials))
        .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    Ok(Source {
        naming: Naming {
            namespace: upstream.host.clone().into(),
            prefix: upstream.prefix.clone(),
            default: upstream.default,
        },
        tags_ttl: Duration::from_secs(upstream.tags_ttl.0),
        upstream: Box::new(Elsewhere {
            remote: client,
            addresses: upstream.addresses.clone(),
        }),
    })
}

/// One other registry, and its mirrors before it.
struct Elsewhere {
    remote: Remote,
    addresses: Vec<Address>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Elsewhere {
    /// Asks one address after the other; the last one's refusal counts.
    async fn first<T, F>(
        &self,
        repository: &RepositoryName,
        target: &Target,
        ask: impl Fn(Reference) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        let mut last = UpstreamError::new(Trouble::Unreachable, "no address is known");
        for address in &self.addresses {
            let reference = reference(address, repository, target)?;
            match ask(reference).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = refusal(&error),
            }
        }
        Err(last)
    }
}

fn reference(
    address: &Address,
    repository: &RepositoryName,
    target: &Target,
) -> Result<Reference, UpstreamError> {
    let bad =
        |error: config::name::NameError| UpstreamError::new(Trouble::Wrong, error.to_string());
    let name = match &address.path {
        Some(path) => format!("{path}/{repository}").parse().map_err(bad)?,
        None => repository.clone(),
    };
    Reference::new(address.host.as_str(), name, target.clone()).map_err(bad)
}

impl Upstream for Elsewhere {
    fn digest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        tag: &'a Tag,
    ) -> Asked<'a, Option<Digest>> {
        Box::pin(async move {
            let target = Target::Tag(tag.clone());
            let ask = |reference| async move { self.remote.ask_digest(&reference).await };
            self.first(repository, &target, ask).await
        })
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a RepositoryName,
        target: &'a Target,
    ) -> Asked<'a, RemoteManifest> {
        Box::pin(async move {
            let ask = |reference| async move { self.remote.ask_manifest(&reference).await };
            let found = self.first(repository, target, ask).await?;
            if found.bytes.len() > MAX_MANIFEST {
                let text = format!("{} is larger than {MAX_MANIFEST} bytes", found.digest);
                return Err(UpstreamError::new(Trouble::Wrong, text));
            }
            Ok(RemoteManifest {
                media_type: found.media_type,
                bytes: found.bytes,
                digest: found.digest,
            })
        })
    }

    fn blob_size<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
    ) -> Asked<'a, Option<u64>> {
        Box::pin(async move {
            let target = Target::Digest(digest.clone());
            let ask = |reference| async move { self.remote.ask_size(&reference, digest).await };
            self.first(repository, &target, ask).await
        })
    }

    fn blob<'a>(
        &'a self,
        repository: &'a RepositoryName,
        digest: &'a Digest,
        from: u64,
    ) -> Asked<'a, RemoteBlob> {
        Box::pin(async move {
            let target = Target::Digest(digest.clone());
            let ask =
                |reference| async move { self.remote.open_blob(&reference, digest, from).await };
            let blob = self.first(repository, &target, ask).await?;
            Ok(RemoteBlob {
                start: blob.start,
                size: blob.size,
                pieces: Box::new(Body(blob)),
            })
        })
    }
}

#[derive(Debug)]
struct Body(OpenBlob);

impl Pieces for Body {
    fn next(&mut self) -> Asked<'_, Option<Bytes>> {
        Box::pin(async move { self.0.next().await.map_err(|error| refusal(&error)) })
    }
}

/// An error of our client in the mirror's words. Clients get to read the text: where on this machine
/// credentials were looked for is none of their business.
fn refusal(error: &RemoteError) -> UpstreamError {
    let (trouble, text) = match error {
        RemoteError::NotFound { .. } => (Trouble::NotFound, error.to_string()),
        RemoteError::LoginNeeded { host, what, .. } => {
            let text = format!("{host} wants a login for {what}, or it does not exist there");
            (Trouble::Denied, text)
        }
        RemoteError::LoginRefused { host, what, .. } => {
            let text = format!("{host} refused our credentials for {what}");
            (Trouble::Denied, text)
        }
        RemoteError::Credentials { host, .. } => {
            tracing::error!(%error, host, "credentials cannot be read");
            (
                Trouble::Denied,
                format!("there are no usable credentials for {host}"),
            )
        }
        RemoteError::Setup { host, source } => {
            tracing::error!(error = %source, host, "certificates or proxies cannot be used");
            (Trouble::Failed, format!("cannot connect to {host}"))
        }
        RemoteError::Denied { .. } => (Trouble::Denied, error.to_string()),
        RemoteError::Busy { status: 429, .. } => (Trouble::Limited, error.to_string()),
        RemoteError::Network { source, .. } if source.is_connect() => {
            (Trouble::Unreachable, error.to_string())
        }
        RemoteError::Stalled { .. } => (Trouble::Unreachable, error.to_string()),
        RemoteError::Busy { .. }
        | RemoteError::Network { .. }
        | RemoteError::Interrupted { .. }
        | RemoteError::Content { .. } => (Trouble::Failed, error.to_string()),
        RemoteError::DigestMismatch { .. }
        | RemoteError::SizeMismatch { .. }
        | RemoteError::TooLarge { .. }
        | RemoteError::Refused { .. }
        | RemoteError::SchemaOne { .. }
        | RemoteError::Protocol { .. } => (Trouble::Wrong, error.to_string()),
    };
    UpstreamError {
        trouble,
        text,
        retry_after: error.retry_after(),
    }
}
