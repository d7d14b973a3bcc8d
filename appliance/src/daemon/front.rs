//! What stands before the registry, from the settings.

use std::path::Path;
use std::sync::Arc;

use config::settings;
use registry::http::tls::{Tls, TlsFiles};
use registry::http::{Front, Limits, Readers, Transport};
use registry::mirror::Mirror;
use registry::service::Registry;

use crate::daemon::access;
use crate::error::{Failure, Kind, Outcome};
use crate::sandbox::surroundings::{READERS, READERS_ARE_TOLD};

/// The registry behind everything that its settings ask for.
pub(super) fn front(
    registry: Registry,
    mirror: Arc<Mirror>,
    settings: &settings::Registry,
    data: &Path,
) -> Outcome<Front> {
    Ok(Front {
        mirror,
        retention: settings.retention.clone().into(),
        transport: transport(settings)?,
        access: access::open(settings, data)?,
        readers: Some(Readers {
            address: READERS.into(),
            why: READERS_ARE_TOLD,
        }),
        ..Front::new(registry)
    })
}

fn transport(settings: &settings::Registry) -> Outcome<Transport> {
    let limits = Limits::default();
    let tls = match (&settings.tls_certificate, &settings.tls_key) {
        (None, None) if settings.client_ca.is_none() => None,
        (Some(certificate), Some(key)) => {
            let files = TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_authority: settings.client_ca.clone(),
            };
            let opened = Tls::open(files);
            Some(opened.map_err(|error| {
                Failure::because(Kind::Invalid, "the registry cannot speak TLS", &error)
            })?)
        }
        _ => {
            return Err(
                Failure::invalid("the registry's TLS is set by halves").hint(
                    "Set registry.tls_certificate and registry.tls_key, both or none; \
                 registry.client_ca goes with them.",
                ),
            );
        }
    };
    Ok(Transport {
        limits,
        tls,
        ..Transport::default()
    })
}
