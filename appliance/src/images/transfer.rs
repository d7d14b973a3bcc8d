//! Images from and to other registries.

use std::sync::Arc;

use config::name::{Reference, Target};
use unpacker::image::read::Platform;
use unpacker::progress::{Cancel, Event, Progress};
use unpacker::pull::{self, PullError};
use unpacker::push::{self, Document, PushError};
use unpacker::remote::error::RemoteError;

use crate::api::types::{Moved, PullRequest};
use crate::error::{Failure, Kind, Outcome};
use crate::images::platform::platform;
use crate::images::service::{Images, Kept, store};
use crate::progress::Reporter;

impl Images {
    /// Fetches an image, also when it is here: its tag may have moved.
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
        let kept = self.fetch(&reference, &platform, progress.as_ref(), cancel)?;
        Ok(moved(reference.to_string(), &kept))
    }

    /// Fetches the platform's image and keeps it under its own name.
    pub(crate) fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        progress.event(Event::Line {
            text: format!("Pulling {reference}"),
        });
        let content = Arc::clone(&self.content);
        let work = pull::pull(&self.remote, content, reference, platform, progress, cancel);
        let pulled = self
            .runtime
            .block_on(work)
            .map_err(|error| pull_failed(reference, &error))?;
        let repository = self.here.kept(reference)?;
        let blobs = pull::blobs(&pulled.manifest, &pulled.digest)
            .map_err(|error| Failure::from_error(Kind::Invalid, &error))?;
        let blobs: Vec<_> = blobs.into_iter().map(|blob| blob.digest).collect();
        let target = match reference.tag() {
            Some(tag) => Target::Tag(tag.clone()),
            None => Target::Digest(pulled.digest.clone()),
        };
        let kept = self.keep(
            &repository,
            &target,
            &pulled.media_type,
            &pulled.manifest,
            &blobs,
        )?;
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
        let work = push::push(
            &self.remote,
            content,
            &reference,
            &document,
            None,
            progress,
            cancel,
        );
        self.runtime
            .block_on(work)
            .map_err(|error| push_failed(&reference, &error))?;
        Ok(moved(reference.to_string(), &kept))
    }
}

fn moved(reference: String, kept: &Kept) -> Moved {
    Moved {
        reference,
        digest: kept.digest.to_string(),
    }
}

fn pull_failed(reference: &Reference, error: &PullError) -> Failure {
    let kind = match error {
        PullError::Remote(remote) => remote_kind(remote),
        PullError::Cancelled(_) => Kind::Cancelled,
        PullError::Image { .. } | PullError::Manifest(_) | PullError::TooDeep { .. } => {
            Kind::Invalid
        }
        PullError::Content { .. } => Kind::Internal,
    };
    let failure = Failure::because(kind, format!("cannot pull {reference}"), error);
    if kind == Kind::Unavailable && !reference.host_given() {
        return failure.hint(
            "Without a network, build FROM an image that is here: `devpod image from-host` makes one.",
        );
    }
    failure
}

fn push_failed(reference: &Reference, error: &PushError) -> Failure {
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
        RemoteError::LoginNeeded { .. }
        | RemoteError::LoginRefused { .. }
        | RemoteError::Denied { .. } => Kind::Denied,
        _ => Kind::Internal,
    }
}
