//! How this host talks to other registries: settings and credentials.

use std::sync::Arc;

use unpacker::remote::client::{self, Remote};

use crate::error::{Failure, Kind, Outcome};
use crate::images::external::External;
use crate::options::Options;

/// The client for all other registries.
pub(crate) fn remote(options: &Options) -> Outcome<Remote> {
    let mut settings = client::Options::default();
    settings
        .plain_http
        .clone_from(&options.settings.remote.plain_http);
    settings
        .ca_files
        .clone_from(&options.settings.remote.ca_files);
    settings.transfers = options.settings.remote.concurrency;
    let credentials = Arc::new(External::new(options));
    Remote::new(settings, credentials).map_err(|error| Failure::from_error(Kind::Invalid, &error))
}
