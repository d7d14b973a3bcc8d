//! Where registry, unpacker and builder meet: everything that this host does with images.
//!
//! `content` shows the registry's blobs to the unpacker as a [`unpacker::content::Content`]; `locate`
//! says which repository a name means, `lookup` which image; `caller` is the command on whose behalf
//! other registries are asked; `service` has the verbs, `build` the builder's `Images` and
//! `Sink`, `prune` collects what nothing needs, `maintain` does so for the registry now and then, `gate`
//! keeps it away from work that goes on; `upstream` is the registry's view of other registries,
//! `external` our accounts there, `evict` bounds what is kept of them. In-process work is function
//! calls on blob files, never HTTP to ourselves.

pub mod archive;
mod attest;
mod build;
mod build_cache;
mod build_inputs;
pub(crate) mod caller;
mod content;
mod describe;
pub(crate) mod evict;
pub mod external;
mod fetch;
mod files;
pub(crate) mod gate;
mod host;
mod in_memory;
mod inspect;
pub mod locate;
mod lookup;
pub(crate) mod maintain;
mod partial;
mod platform;
mod prune;
pub(crate) mod remote;
pub mod remove;
#[cfg(test)]
mod scene;
pub mod service;
mod transfer;
pub(crate) mod upstream;
