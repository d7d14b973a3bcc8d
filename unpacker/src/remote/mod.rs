//! Images of other registries, over the OCI Distribution API.
//!
//! ```text
//! client    options; a request with authorization                 (uses all below)
//! ├─ manifest   resolve and put, bytes exact, digests verified
//! ├─ download   a blob into the content store, resumed after an interruption
//! ├─ open       single questions, asked once; a blob read as it comes
//! ├─ upload     exists, mount, send
//! ├─ file       any file by its address, without credentials
//! ├─ auth       challenge -> header, tokens kept per host and scope
//! │  ├─ challenge    WWW-Authenticate, pure
//! │  └─ credentials  files, environment and helper programs; login changes them
//! ├─ mirrors    places that are asked before a registry
//! ├─ exchange   one request: redirects, stall timeout, status to error
//! ├─ transport  proxies and certificates: which HTTP client an address gets
//! ├─ attempts   which errors are tried again, and when
//! ├─ clock      time and chance, handed in
//! └─ error      one enum, by class of what the user can do
//! ```
//!
//! True of all of it: no answer is believed before its size and digest are checked; no
//! `Authorization` goes to an origin other than the registry's own; nothing is read without a
//! bound; a request ends when nothing moves for the stall timeout, never because it is large.

mod attempts;
mod auth;
mod body;
pub mod challenge;
pub mod client;
pub mod clock;
pub mod credentials;
pub mod download;
mod endpoint;
pub mod error;
mod exchange;
pub mod file;
pub mod login;
pub mod manifest;
mod mirrors;
pub mod open;
mod sink;
pub mod transport;
pub mod upload;

pub use credentials::Credentials;

/// Makes ring the process's TLS provider. To be called once before the first [`client::Remote`];
/// a second call changes nothing.
pub fn install_crypto() {
    // The error only says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
