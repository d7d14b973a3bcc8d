//! From an image to a running root file system.
//!
//! Bytes come in through a source and one verifying reader, layers become snapshot folders,
//! snapshots are stacked by overlayfs, and a process starts inside. Nothing here knows the
//! registry, HTTP servers or redb: content is reached through [`content::Content`].

pub mod arrival;
pub mod container;
pub mod content;
pub mod crash;
pub mod digest;
pub mod fetch;
pub mod image;
pub mod layer;
pub mod progress;
pub mod pull;
pub mod push;
pub mod remote;
pub mod service;
pub mod snapshot;
pub mod verify;
