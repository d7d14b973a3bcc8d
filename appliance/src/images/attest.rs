//! What is attested of an image that was built: provenance, and what is in it.

use std::time::SystemTime;

use builder::attest::provenance::{Material, Mode, Times, provenance};
use builder::attest::sbom::sbom;
use builder::attest::{Attested, Predicate, Subject, attest};
use builder::request::BuildRequest;
use builder::sink::Publication;
use builder::source::Source;
use oci_spec::image::{Descriptor, MediaType};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unpacker::image::read;
use unpacker::progress::{Cancel, Progress};

use crate::error::{Failure, Kind, Outcome};
use crate::images::service::Images;

/// What is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) provenance: Option<Mode>,
    pub(crate) sbom: bool,
}

impl Wanted {
    pub(crate) fn anything(self) -> bool {
        self.sbom || self.provenance.is_some()
    }
}

/// What is known of the build.
pub(crate) struct Facts<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) source: &'a Source,
    pub(crate) names: &'a [String],
    pub(crate) materials: Vec<Material>,
    pub(crate) started: SystemTime,
}

impl Images {
    /// Makes the statements of an image whose blobs are here.
    pub(crate) fn attested(
        &self,
        wanted: Wanted,
        facts: &Facts<'_>,
        publication: &Publication<'_>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Outcome<Attested> {
        let subject = Subject {
            names: facts.names,
            digest: publication.digest,
            platform: &facts.request.platform,
        };
        let mut predicates: Vec<Predicate> = Vec::new();
        if wanted.sbom {
            let image = read::load(self.content.as_ref(), publication.manifest)
                .map_err(|error| Failure::from_error(Kind::Internal, &error))?;
            let (root, _staging) = self.seen(&image, progress, cancel)?;
            let created = facts.request.source_date_epoch;
            let created = created.map_or(Ok(OffsetDateTime::from(facts.started)), |seconds| {
                OffsetDateTime::from_unix_timestamp(seconds)
            });
            let created = text_of(created.unwrap_or(OffsetDateTime::UNIX_EPOCH));
            let made = sbom(&root, &subject, &created);
            predicates.push(made.map_err(|error| {
                Failure::because(Kind::Internal, "cannot read what is in the image", &error)
            })?);
        }
        if let Some(mode) = wanted.provenance {
            // What is to be the same on another day cannot say which day it was.
            let times = match facts.request.source_date_epoch {
                Some(_) => None,
                None => Some(Times {
                    started: text_of(facts.started.into()),
                    finished: text_of(OffsetDateTime::from(SystemTime::now())),
                }),
            };
            let materials = &facts.materials;
            let (request, source) = (facts.request, facts.source);
            let told = provenance(request, source, mode, materials, times.as_ref());
            predicates.push(told);
        }
        let size = publication.manifest.len() as u64;
        let kind = MediaType::from(publication.media_type);
        let image = Descriptor::new(kind, size, publication.digest.clone());
        attest(self.content.as_ref(), &subject, &image, &predicates).map_err(|error| {
            Failure::because(Kind::Internal, "cannot keep the attestations", &error)
        })
    }
}

/// Times of people's years always have an RFC 3339 form.
fn text_of(time: OffsetDateTime) -> String {
    time.format(&Rfc3339)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}
