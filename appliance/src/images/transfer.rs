//! Images from and to other registries.

use std::io;
use std::sync::Arc;

use config::name::{Reference, RepositoryName, Target};
use unpacker::content::Content;
use unpacker::digest::Digest;
use unpacker::fetch::Wanted;
use unpacker::image::read::{self, ImageError, Platform};
use unpacker::image::{Image, unpack};
use unpacker::layer::apply::ApplyOptions;
use unpacker::progress::{Cancel, Event, Progress};
use unpacker::pull::{self, PullError, Pulled};
use unpacker::push::{self, Document, PushError};
use unpacker::remote::error::RemoteError;
use unpacker::remote::manifest::Fetched;

use crate::api::types::{Moved, PullRequest};
use crate::error::{Failure, Kind, Outcome};
use crate::images::locate;
use crate::images::platform::platform;
use crate::images::service::{Images, Kept, store};
use crate::progress::Reporter;

/// Repositories that are looked through for one to mount a blob from.
const MAX_HOLDERS: usize = 100;

impl Images {
    /// Fetches an image, also when it is here: its tag may have moved. One that this host can run is
    /// unpacked while it arrives, unless that is not wanted.
    pub fn pull(
        &self,
        request: &PullRequest,
        progress: Reporter,
        cancel: &Cancel,
    ) -> Outcome<Moved> {
        let _pass = self.gate.pass();
        let reference: Reference = request.reference.parse()?;
        let platform = platform(request.platform.as_deref())?;
        if self.here.is_ours(&reference) {
            let (_, kept) = self.expect(&request.reference)?;
            return Ok(moved(
                self.here.name(&kept.repository, &reference.target()),
                &kept,
            ));
        }
        let progress = progress.as_ref();
        let kept = match (
            request.all_platforms,
            request.unpack && platform == Platform::host(),
        ) {
            (true, _) => self.fetch_all(&reference, progress, cancel)?,
            (false, true) => self.fetch_ready(&reference, &platform, progress, cancel)?,
            (false, false) => self.fetch(&reference, &platform, None, progress, cancel)?,
        };
        Ok(moved(reference.to_string(), &kept))
    }

    /// Fetches the platform's image and leaves it ready to be run.
    fn fetch_ready(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        let behind = self.unpack_behind(progress, cancel);
        let kept = self.fetch(reference, platform, Some(&behind), progress, cancel)?;
        let image = match read::load_for(self.content.as_ref(), &kept.bytes, platform) {
            Ok(image) => image,
            // An artifact: there is nothing to unpack.
            Err(ImageError::Artifact { .. }) => return Ok(kept),
            Err(error) => {
                not_ready(reference, &error, progress);
                return Ok(kept);
            }
        };
        match self.unpacked(&image, progress, cancel) {
            Ok(_) => Ok(kept),
            Err(failure) if failure.kind == Kind::Cancelled => Err(failure),
            // It was fetched, which is what was asked for.
            Err(failure) => {
                not_ready(reference, &failure, progress);
                Ok(kept)
            }
        }
    }

    /// Unpacks the layers of an image that is still arriving.
    pub(crate) fn unpack_behind<'a>(
        &'a self,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> impl Fn(&Image, &dyn Content) + Sync + 'a {
        move |image, content| {
            let (snapshots, options) = (&self.snapshots, ApplyOptions::default());
            let unpacked = unpack::unsynced(image, content, snapshots, &options, progress, cancel);
            if let Err(error) = unpacked {
                // Whoever needs the snapshots unpacks what is missing, and says what is wrong.
                tracing::debug!(?error, "an image was not unpacked while it arrived");
            }
        }
    }

    /// Fetches the platform's image and keeps it under its own name. `behind` gets the image as soon
    /// as its configuration is here, with a store whose readers wait for what is still to come.
    pub(crate) fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        behind: Option<Behind<'_>>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        let failed = |error: PullError| pull_failed(reference, &error);
        progress.event(Event::Line {
            text: format!("Pulling {reference}"),
        });
        let remote = self.remote()?;
        let resolved = pull::resolve(&remote, reference, platform, progress);
        let resolved = self.runtime.block_on(pull::unless(cancel, resolved));
        let pulled = resolved.map_err(failed)?;
        let blobs = pull::blobs(&pulled.manifest, &pulled.digest)
            .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
        let digests: Vec<_> = blobs.iter().map(|blob| blob.digest.clone()).collect();
        let wanted = Wanted::new(&self.arrivals, blobs);
        let work = wanted.fetch(&remote, reference, progress);
        match behind {
            None => self.runtime.block_on(pull::unless(cancel, work)),
            Some(behind) => self.beside(&pulled, behind, pull::unless(cancel, work)),
        }
        .map_err(failed)?;
        self.keep_fetched(reference, &pulled.as_fetched(), &digests)
    }

    /// Fetches while `behind` follows on a thread of its own.
    fn beside(
        &self,
        pulled: &Pulled,
        behind: Behind<'_>,
        work: impl Future<Output = Result<(), PullError>>,
    ) -> Result<(), PullError> {
        let stop = Cancel::default();
        let waiting = self.arrivals.waiting(stop.clone());
        std::thread::scope(|scope| {
            let follow = || {
                // What is no image has no file system; what is broken is told when it is kept.
                if let Ok(image) = read::load(&waiting, &pulled.manifest) {
                    behind(&image, &waiting);
                }
            };
            let follower = std::thread::Builder::new()
                .name("pull-unpack".into())
                .spawn_scoped(scope, follow);
            if let Err(error) = follower {
                tracing::warn!(?error, "an image is unpacked only when all of it is here");
            }
            let fetched = self.runtime.block_on(work);
            if fetched.is_err() {
                stop.cancel();
            }
            fetched
        })
    }

    /// Fetches an image of all platforms, with whatever else its index names.
    fn fetch_all(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        progress.event(Event::Line {
            text: format!("Pulling {reference} for all platforms"),
        });
        let remote = self.remote()?;
        let work = async {
            let all = pull::resolve_all(&remote, reference, progress).await?;
            let wanted = Wanted::new(&self.arrivals, all.blobs()?);
            wanted.fetch(&remote, reference, progress).await?;
            Ok(all)
        };
        let all = self.runtime.block_on(pull::unless(cancel, work));
        let all = all.map_err(|error| pull_failed(reference, &error))?;
        let repository = self.here.kept(reference)?;
        for part in &all.parts {
            self.keep_part(&repository, part, &blobs_of(part)?)?;
        }
        self.keep_fetched(reference, &all.root, &blobs_of(&all.root)?)
    }

    /// Keeps what a reference points at under its own name.
    fn keep_fetched(
        &self,
        reference: &Reference,
        document: &Fetched,
        blobs: &[Digest],
    ) -> Outcome<Kept> {
        let repository = self.here.kept(reference)?;
        let target = match reference.tag() {
            Some(tag) => Target::Tag(tag.clone()),
            None => Target::Digest(document.digest.clone()),
        };
        let (media_type, bytes) = (&document.media_type, &document.bytes);
        let kept = self.keep(&repository, &target, media_type, bytes, blobs)?;
        if let Target::Tag(tag) = &target {
            // One platform is here now; clients of a mirror are to find what its registry has.
            self.registry
                .follow_tag(&repository, tag, &kept.digest)
                .map_err(store)?;
        }
        Ok(kept)
    }

    /// Sends an image to the registry that its name says.
    pub fn push(&self, text: &str, progress: Reporter, cancel: &Cancel) -> Outcome<Moved> {
        let _pass = self.gate.pass();
        let (reference, kept) = self.expect(text)?;
        if self.here.is_ours(&reference) {
            return Err(Failure::invalid(format!(
                "{reference} is in the embedded registry already"
            ))
            .hint("Give it another registry's name with `devpod tag`, then push that."));
        }
        let document = Document {
            media_type: kept.media_type.clone(),
            bytes: kept.bytes.clone(),
        };
        let content = Arc::clone(&self.content);
        let progress = progress.as_ref();
        let mount_from = |digest: &Digest| self.known_there(&reference, digest);
        let remote = self.remote()?;
        let work = push::push(
            &remote,
            content,
            &reference,
            &document,
            Some(&mount_from),
            progress,
            cancel,
        );
        self.runtime
            .block_on(work)
            .map_err(|error| push_failed(&reference, &error))?;
        Ok(moved(reference.to_string(), &kept))
    }

    /// Another repository of the registry that a push goes to, of which we keep something with this
    /// blob: it came from there, or was sent there.
    pub(super) fn known_there(
        &self,
        reference: &Reference,
        digest: &Digest,
    ) -> Option<RepositoryName> {
        // Without an answer the blob is sent, which is no failure.
        let holders = self.registry.holders(digest, MAX_HOLDERS).ok()?;
        holders.iter().find_map(|name| {
            let kept: RepositoryName = name.parse().ok()?;
            let same = locate::kept_host(&kept)? == reference.host();
            let (_, there) = name.split_once('/').filter(|_| same)?;
            let there: RepositoryName = there.parse().ok()?;
            (there != *reference.repository()).then_some(there)
        })
    }
}

/// What is done with an image while it arrives.
pub(crate) type Behind<'a> = &'a (dyn Fn(&Image, &dyn Content) + Sync);

/// The blobs that a document names itself; an index names none.
fn blobs_of(document: &Fetched) -> Outcome<Vec<Digest>> {
    if pull::is_index(&document.media_type) {
        return Ok(Vec::new());
    }
    let blobs = pull::blobs(&document.bytes, &document.digest)
        .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
    Ok(blobs.into_iter().map(|blob| blob.digest).collect())
}

fn not_ready(reference: &Reference, why: &dyn std::fmt::Display, progress: &dyn Progress) {
    let text = format!("{reference} is here, but it cannot be unpacked: {why}");
    progress.event(Event::Warning { text });
}

fn moved(reference: String, kept: &Kept) -> Moved {
    Moved {
        reference,
        digest: kept.digest.to_string(),
    }
}

pub(super) fn pull_failed(reference: &Reference, error: &PullError) -> Failure {
    let kind = match error {
        PullError::Remote(remote) => remote_kind(remote),
        PullError::Cancelled(_) => Kind::Cancelled,
        PullError::Image { .. }
        | PullError::Manifest(_)
        | PullError::TooDeep { .. }
        | PullError::TooManyParts => Kind::Invalid,
        PullError::NoRoom { .. } => Kind::Exhausted,
        PullError::Content { .. } | PullError::Room { .. } => Kind::Internal,
    };
    let failure = Failure::because(kind, format!("cannot pull {reference}"), error);
    if kind == Kind::Unavailable && !reference.host_given() {
        return failure.hint(
            "Without a network, build FROM an image that is here: `devpod image from-host` makes one.",
        );
    }
    failure
}

pub(super) fn push_failed(reference: &Reference, error: &PushError) -> Failure {
    let kind = match error {
        PushError::Remote(remote) => remote_kind(remote),
        PushError::Cancelled(_) => Kind::Cancelled,
        _ => Kind::Internal,
    };
    Failure::because(kind, format!("cannot push {reference}"), error)
}

fn remote_kind(error: &RemoteError) -> Kind {
    match error {
        RemoteError::Network { .. }
        | RemoteError::Stalled { .. }
        | RemoteError::Interrupted { .. }
        | RemoteError::Busy { .. } => Kind::Unavailable,
        RemoteError::NotFound { .. } => Kind::NotFound,
        RemoteError::SchemaOne { .. } | RemoteError::Setup { .. } => Kind::Invalid,
        RemoteError::Content { source, .. } if is_full(source) => Kind::Exhausted,
        RemoteError::LoginNeeded { .. }
        | RemoteError::LoginRefused { .. }
        | RemoteError::Denied { .. } => Kind::Denied,
        _ => Kind::Internal,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
