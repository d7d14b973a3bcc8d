//! The volumes of a sandbox: given to it when it is made, and taken away with it.

use std::os::fd::AsFd;

use unpacker::container::spec::Mount;
use unpacker::progress::Cancel;

use crate::api::types::SandboxRequest;
use crate::error::{Kind, Outcome};
use crate::sandbox::local::{Runnable, Sandboxes};
use crate::sandbox::options::VolumeMount;
use crate::sandbox::plan;
use crate::sandbox::record::Record;
use crate::sandbox::users::stack_or_copy;
use crate::sandbox::volumes::{Beginning, Provided, Withdrawn};

/// A volume where a sandbox wants it.
pub(super) type Given<'a> = (VolumeMount, Provided<'a>);

impl Sandboxes {
    /// The volumes that were asked for and those that the image declares, whole: a new one begins
    /// with what the image has in its place.
    pub(super) fn volumes_of(
        &self,
        runnable: &Runnable,
        request: &SandboxRequest,
        mounts: &[Mount],
        cancel: &Cancel,
    ) -> Outcome<Vec<Given<'_>>> {
        let wanted = plan::volumes(request, &runnable.config, mounts)?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let lower = self.lower(&runnable.stack)?;
        // Where there is no overlayfs a copy is made there; it is gone with this value.
        let scratch = self.snapshots.stage()?;
        let image = (!lower.is_empty()).then(|| stack_or_copy(lower, &scratch));
        let image = image.transpose()?;
        let mut volumes = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let image = image.as_ref().filter(|_| !wanted.no_copy);
            let beginning = image.map(|image| Beginning {
                image: image.as_fd(),
                place: &wanted.target,
            });
            let name = wanted.volume.as_deref();
            match self.volumes.provide(name, beginning, cancel) {
                Ok(provided) => volumes.push((wanted, provided)),
                Err(failure) => {
                    self.give_back(volumes)?;
                    return Err(failure);
                }
            }
        }
        Ok(volumes)
    }

    /// Volumes without a name that no sandbox came to have.
    pub(super) fn give_back(&self, volumes: Vec<Given<'_>>) -> Outcome<()> {
        let mut unnamed = Vec::new();
        for (_, provided) in volumes {
            if provided.anonymous {
                unnamed.push(provided.name.clone());
            }
        }
        self.delete_volumes(&unnamed, None)
    }

    /// As [`Sandboxes::withdraw`], with all that is in them.
    pub(super) fn delete_volumes(&self, names: &[String], besides: Option<&str>) -> Outcome<()> {
        let withdrawn = {
            let _one_at_a_time = self.alone();
            self.withdraw(names, besides)?
        };
        withdrawn.into_iter().try_for_each(Withdrawn::delete)
    }

    /// Takes volumes away, but those that a sandbox `besides` this one has, or that are gone. The caller sees to it
    /// that no sandbox is made meanwhile.
    pub(super) fn withdraw(
        &self,
        names: &[String],
        besides: Option<&str>,
    ) -> Outcome<Vec<Withdrawn>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.list()?;
        let mut withdrawn = Vec::new();
        for name in names {
            let data = self.volumes.data(name);
            let has = |record: &Record| record.spec.mounts.iter().any(|mount| mount.shows(&data));
            if records
                .iter()
                .any(|other| Some(other.id.as_str()) != besides && has(other))
            {
                continue;
            }
            match self.volumes.withdraw(name) {
                Ok(volume) => withdrawn.push(volume),
                Err(failure) if matches!(failure.kind, Kind::NotFound | Kind::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(withdrawn)
    }
}

/// A volume as a mount.
pub(super) fn seen((wanted, provided): &Given<'_>) -> Mount {
    Mount::Bind {
        source: provided.data.clone(),
        target: wanted.target.clone(),
        read_only: wanted.read_only,
    }
}
