//! Copies of other registries' images that are not whole: the mirror fetches what its clients ask
//! for and no more, so an index may lack its parts and an image its layers.

use unpacker::image::read::{self, ImageError, Platform};

use crate::error::Outcome;
use crate::images::locate;
use crate::images::service::{Images, Kept};

impl Images {
    /// Whether a kept copy lacks something of the platform's image, and so has to be fetched.
    pub(crate) fn is_partial(&self, kept: &Kept, platform: &Platform) -> Outcome<bool> {
        if locate::kept_host(&kept.repository).is_none() {
            return Ok(false);
        }
        let image = match read::load_for(self.content.as_ref(), &kept.bytes, platform) {
            Ok(image) => image,
            Err(error) => return Ok(matches!(error, ImageError::Missing { .. })),
        };
        for layer in &image.layers {
            if self.content.open(layer.blob.digest())?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
