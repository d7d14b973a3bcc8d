//! `devpod image from-host`: the first image, made of this host's own programs.

use std::sync::PoisonError;

use config::name::{Reference, Tag, Target};
use unpacker::progress::{Cancel, Event, Progress};

use crate::api::types::{FromHostRequest, Moved};
use crate::error::{Failure, Kind, Outcome};
use crate::from_host;
use crate::images::service::{Images, Kept};

/// The name under which builds find it; made when it is missing.
pub(super) const HOST_IMAGE: &str = "devpod/host";

impl Images {
    /// Makes the image anew under the name that was asked for.
    pub fn from_host(
        &self,
        request: &FromHostRequest,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Moved> {
        let _pass = self.gate.pass();
        let name = request.reference.as_deref().unwrap_or(HOST_IMAGE);
        let reference: Reference = name.parse()?;
        let options = from_host::Options {
            include: request.include.clone(),
            git: !request.without_git,
            ..from_host::Options::default()
        };
        let kept = self.make_from_host(&reference, &options, progress, cancel)?;
        Ok(Moved {
            reference: self.shown(&reference)?,
            digest: kept.digest.to_string(),
        })
    }

    /// Whether a name means the image that is made when it is missing.
    pub(crate) fn is_host_image(&self, reference: &Reference) -> Outcome<bool> {
        let candidates = self.here.candidates(reference)?;
        let latest = reference.target() == Target::Tag(Tag::latest());
        Ok(latest
            && candidates
                .iter()
                .any(|repository| repository.as_str() == HOST_IMAGE))
    }

    /// Makes it unless another caller just did.
    pub(crate) fn make_host_image(
        &self,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        let _one_at_a_time = self
            .making_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let reference: Reference = HOST_IMAGE.parse()?;
        if let Some(kept) = self.find(&reference)? {
            return Ok(kept);
        }
        let text = format!("Making the image {HOST_IMAGE} from this host's own programs.");
        progress.event(Event::Line { text });
        // Which helper scripts stay behind matters to whoever asks for the image by name.
        let calm = |event: Event| {
            if !matches!(event, Event::Warning { .. }) {
                progress.event(event);
            }
        };
        self.make_from_host(&reference, &from_host::Options::default(), &calm, cancel)
    }

    fn make_from_host(
        &self,
        reference: &Reference,
        options: &from_host::Options,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Kept> {
        let made = from_host::from_host(options, self.content.as_ref(), progress, cancel)
            .map_err(|error| Failure::because(Kind::Internal, "cannot make the image", &error))?;
        let repository = self.here.destination(reference)?;
        let target = match reference.target() {
            Target::Digest(_) => Target::Digest(made.digest.clone()),
            tag => tag,
        };
        let layers = made.layers.iter().map(|layer| layer.digest.clone());
        let blobs: Vec<_> = std::iter::once(made.config.clone()).chain(layers).collect();
        self.keep(
            &repository,
            &target,
            from_host::MANIFEST_TYPE,
            &made.manifest,
            &blobs,
        )
    }
}
