//! Where registry, unpacker and builder meet: everything that this host does with images.
//!
//! `content` shows the registry's blobs to the unpacker as a [`unpacker::content::Content`]; `locate`
//! says which repository a name means; `service` has the verbs, `build` the builder's `Images` and
//! `Sink`. In-process work is function calls on blob files, never HTTP to ourselves.

mod build;
mod content;
mod describe;
mod host;
pub mod locate;
pub mod service;
pub(crate) mod transfer;
