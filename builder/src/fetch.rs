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

/// An address as people and logs see it: scheme, host and path. Before and behind these may be what is as
/// good as a password.
pub fn shown(address: &str) -> String {
    let end = address.find(['?', '#']).unwrap_or(address.len());
    let (known, _) = address.split_at(end);
    let Some((scheme, rest)) = known.split_once("://") else {
        return known.to_owned();
    };
    let rest = rest.trim_start_matches(['/', '\\']);
    let host_end = rest.find(['/', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(host_end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_credentials() {
        for (address, expected) in [
            ("https://h/a/f.txt", "https://h/a/f.txt"),
            (
                "https://user:hush@h:8080/a@b?token=hush#hush",
                "https://h:8080/a@b",
            ),
            ("http://hush@h", "http://h"),
            ("http://a@hush@h/x", "http://h/x"),
            ("http:///u:hush@h/x", "http://h/x"),
            ("http://u:hush@h\\x@y", "http://h\\x@y"),
            ("http://h?u=hush@x/y", "http://h"),
            ("git@h:a/b?hush", "git@h:a/b"),
        ] {
            assert_eq!(shown(address), expected, "{address}");
        }
    }
}
