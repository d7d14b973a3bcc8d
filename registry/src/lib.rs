//! Images at rest, and the OCI Distribution API that serves them.
//!
//! ```text
//! access    who may do what; knows no HTTP
//! http      requests -> verbs -> responses; the only place that knows status codes
//! service   the verbs, synchronous and free of HTTP; the daemon calls them in-process
//! events    what happens, told to webhooks through a queue in the index
//! metrics   what is counted
//! mirror    repositories of other registries, fetched when they are asked for
//! upload    what an upload session accepts next; pure
//! retention which tags have served their time; pure
//! manifest  what the registry reads of a manifest; its bytes are never rewritten
//! store     blob files and the redb index, the order in which both change, and their journal
//! digest    the one hasher
//! ```
//!
//! Two promises hold everywhere. Acknowledged means durable: an answer leaves after a large
//! blob's data is synced, and after the journal that has all the rest of the request is. And a row never names a blob that is not whole on disk:
//! what a crash leaves behind is garbage to collect, never a hole.
//!
//! Source of all rules: the OCI distribution specification (spec.md), image specification
//! (manifest.md, image-index.md, image-layout.md).

#![forbid(unsafe_code)]

pub mod access;
pub mod digest;
pub mod events;
pub mod http;
pub mod manifest;
pub mod metrics;
pub mod mirror;
pub mod retention;
pub mod service;
pub mod store;
pub mod upload;
