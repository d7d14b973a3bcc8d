//! Which platform an image must be for, and what happens to one that is for another.

use config::name::Reference;
use unpacker::image::Image;
use unpacker::image::read::{self, ImageError, Platform};
use unpacker::progress::{Cancel, Progress};

use crate::error::{Failure, Kind, Outcome};
use crate::images::locate;
use crate::images::service::{Images, Kept};
use crate::images::transfer::Behind;

/// The platform that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) platform: Platform,
    /// Somebody said it, so a kept copy for another platform may be replaced by the right one.
    pub(crate) explicit: bool,
}

impl Wanted {
    /// `os/arch[/variant]`, this host's by default.
    pub(crate) fn parse(text: Option<&str>) -> Outcome<Self> {
        Ok(Self {
            platform: platform(text)?,
            explicit: text.is_some(),
        })
    }
}

/// `os/arch[/variant]`, this host's by default.
pub(crate) fn platform(text: Option<&str>) -> Outcome<Platform> {
    match text {
        None => Ok(Platform::host()),
        Some(text) => text
            .parse()
            .map_err(|error: read::BadPlatform| Failure::from_error(Kind::Invalid, &error)),
    }
}

impl Images {
    /// The image of one platform: one that is here, or else fetched, with `behind` following.
    pub(crate) fn have(
        &self,
        reference: &Reference,
        wanted: &Wanted,
        behind: Option<Behind<'_>>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Image> {
        let found = self.find(reference)?;
        let partial = match &found {
            Some(kept) if !self.here.is_ours(reference) => {
                self.is_partial(kept, &wanted.platform)?
            }
            _ => false,
        };
        if let Some(kept) = found.filter(|_| !partial) {
            let loaded = self.read(&kept, &wanted.platform);
            let replaceable = wanted.explicit
                && !self.here.is_ours(reference)
                && locate::kept_host(&kept.repository).is_some();
            return match loaded {
                Err(error) if replaceable && is_unfit(&error) => self
                    .fetch(reference, &wanted.platform, behind, progress, cancel)
                    .map_err(|failure| failure.hint(format!("What is here does not do: {error}.")))
                    .and_then(|kept| self.load(reference, &kept, wanted)),
                loaded => loaded.map_err(|error| self.unusable(reference, &kept, &error)),
            };
        }
        if self.is_host_image(reference)? {
            let kept = self.make_host_image(progress, cancel)?;
            return self.load(reference, &kept, wanted);
        }
        if self.here.is_ours(reference) {
            return Err(self.unknown(&reference.to_string()));
        }
        let kept = self.fetch(reference, &wanted.platform, behind, progress, cancel)?;
        self.load(reference, &kept, wanted)
    }

    fn load(&self, reference: &Reference, kept: &Kept, wanted: &Wanted) -> Outcome<Image> {
        self.read(kept, &wanted.platform)
            .map_err(|error| self.unusable(reference, kept, &error))
    }

    /// Reads a kept manifest, through an index to the platform's.
    pub(super) fn read(&self, kept: &Kept, platform: &Platform) -> Result<Image, ImageError> {
        let image = read::load_for(self.content.as_ref(), &kept.bytes, platform)?;
        read::check_platform(&image.config, platform)?;
        Ok(image)
    }

    fn unusable(&self, reference: &Reference, kept: &Kept, error: &ImageError) -> Failure {
        let name = self.here.name(&kept.repository, &reference.target());
        match error {
            ImageError::WrongPlatform { wanted, found } => {
                Failure::invalid(format!("image {name} is {found}, not {wanted}"))
                    .hint(how_to_have(reference, kept, wanted))
            }
            error => {
                let message = format!("image {name} cannot be used");
                Failure::because(Kind::Invalid, message, error)
            }
        }
    }
}

fn how_to_have(reference: &Reference, kept: &Kept, wanted: &Platform) -> String {
    match locate::kept_host(&kept.repository) {
        None => format!("Build or push one that is {wanted} under that name."),
        Some(_) => {
            format!("Fetch the right one: `devpod pull --platform {wanted} {reference}`.")
        }
    }
}

/// Whether the image would be good but for its platform.
fn is_unfit(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::WrongPlatform { .. } | ImageError::NoPlatform { .. }
    )
}
