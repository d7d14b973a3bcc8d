//! An image's file system as a tar of files, as `devpod build -o type=local` and `type=tar` have it.
//!
//! No layer is packed or read for it: what is sent is the stack of snapshots as a container sees it.

use std::io::Write;
use std::path::PathBuf;

use unpacker::image::Image;
use unpacker::image::read::{self, ImageError};
use unpacker::layer::Ownership;
use unpacker::layer::diff::{DiffError, DiffOptions, diff_watched};
use unpacker::layer::root::Root;
use unpacker::progress::{Cancel, Progress};
use unpacker::snapshot::overlay::Overlay;
use unpacker::snapshot::store::Staging;

use crate::api::types::{FilesRequest, Wrote};
use crate::error::{Failure, Kind, Outcome};
use crate::images::platform::platform;
use crate::images::service::Images;

impl Images {
    /// Writes all files of an image that is here.
    pub fn write_files(
        &self,
        request: &FilesRequest,
        out: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Wrote> {
        let _pass = self.gate.pass();
        let (_, kept) = self.look_up(&request.reference)?;
        let platform = platform(request.platform.as_deref())?;
        let unusable = |error: ImageError| {
            let message = format!("image {:?} cannot be used", request.reference);
            Failure::because(Kind::Invalid, message, &error)
        };
        let image = read::load_for(self.content.as_ref(), &kept.bytes, &platform);
        let image = image.map_err(unusable)?;
        let (root, _staging) = self.seen(&image, progress, cancel)?;
        let options = DiffOptions {
            mtime: request.source_date_epoch,
            ownership: Ownership::detect(),
        };
        let stats = diff_watched(&root, out, &options, progress, cancel);
        let stats = stats.map_err(|error| not_written(&error))?;
        Ok(Wrote {
            entries: stats.entries,
            bytes: stats.bytes,
        })
    }

    /// An image's file system as a container sees it, for as long as the folder beside it lives.
    pub(crate) fn seen(
        &self,
        image: &Image,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<(Root, Staging)> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for id in self.unpacked(image, progress, cancel)? {
            let folder = self.snapshots.get(&id)?;
            lower.push(folder.ok_or_else(|| {
                Failure::internal(format!("snapshot {id} was removed meanwhile"))
            })?);
        }
        // A layer alone still has its own marks of what it hides; overlayfs shows none.
        let staging = self.snapshots.stage()?;
        let overlay = Overlay {
            lower,
            upper: Some((staging.fs(), staging.work())),
            volatile: true,
        };
        Ok((Root::from_fd(overlay.mount_detached()?), staging))
    }
}

fn not_written(error: &DiffError) -> Failure {
    match error {
        DiffError::Cancelled(_) => Failure::new(Kind::Cancelled, "writing the files was stopped"),
        // The caller has gone, and reads no message.
        DiffError::Write(_) => Failure::because(Kind::Cancelled, "nobody reads", error),
        _ => Failure::because(Kind::Internal, "cannot write the files", error),
    }
}
