//! Files that ADD names, fetched as images are: by the caller's proxies, with the settings'
//! authorities, and without credentials.

use std::io::Write;

use builder::error::Foreign;
use builder::fetch::{Fetch, Fetched, Validators, shown};
use unpacker::progress::{Cancel, Cancelled, Event, Progress};
use unpacker::pull;
use unpacker::remote::client::Remote;
use unpacker::remote::error::RemoteError;
use unpacker::remote::file;

use crate::images::service::Images;

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("it has more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("cannot keep it")]
    Write(#[source] std::io::Error),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What programs that fetch for a build are told of the caller's environment.
const VARIABLES: [&str; 11] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

impl Fetch for Images {
    fn variables(&self) -> Vec<(String, String)> {
        let set = |name: &&str| Some(((*name).to_owned(), self.around(name)?));
        VARIABLES.iter().filter_map(set).collect()
    }

    fn fetch(
        &self,
        address: &str,
        known: &Validators,
        limit: u64,
        to: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Fetched, Foreign> {
        let remote = self.remote()?;
        progress.event(Event::Line {
            text: format!("[Builder] Fetching {}", shown(address)),
        });
        let work = receive(&remote, address, known, limit, to);
        // A silent server is waited for no longer than somebody wants the file.
        Ok(self.runtime.block_on(pull::unless(cancel, work))?)
    }
}

async fn receive(
    remote: &Remote,
    address: &str,
    known: &Validators,
    limit: u64,
    to: &mut dyn Write,
) -> Result<Fetched, FetchError> {
    let known = file::Validators {
        etag: known.etag.clone(),
        last_modified: known.last_modified.clone(),
    };
    let Some(mut file) = remote.open_file(address, &known).await? else {
        return Ok(Fetched::Unchanged);
    };
    let mut received = 0;
    while let Some(bytes) = file.next().await? {
        received += bytes.len() as u64;
        if received > limit {
            return Err(FetchError::TooLarge { limit });
        }
        to.write_all(&bytes).map_err(FetchError::Write)?;
    }
    Ok(Fetched::File(Validators {
        etag: file.validators.etag,
        last_modified: file.validators.last_modified,
    }))
}
