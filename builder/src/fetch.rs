//! Where files of the network come from: the contract with whoever can reach it.

use std::io::Write;

use unpacker::progress::{Cancel, Progress};

use crate::error::Foreign;

/// What is known of an earlier answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    /// An HTTP date, as the server wrote it.
    pub last_modified: Option<String>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The server says that nothing changed since.
    Unchanged,
    /// All of the body was written.
    File(Validators),
}

/// Fetches files by their address. Blocking. Redirects are bounded, and no more than `limit` bytes are
/// ever written.
pub trait Fetch: Send + Sync {
    /// What programs that fetch for us are given: variables for proxies and authorities.
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn fetch(
        &self,
        address: &str,
        known: &Validators,
        limit: u64,
        to: &mut dyn Write,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Fetched, Foreign>;
}
