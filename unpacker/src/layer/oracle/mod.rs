//! What must be true of every layer, whatever its bytes are: for the fuzz targets of `unpacker/fuzz`,
//! and for the test that replays their corpus. What is not true is a panic. Not part of the API.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "an oracle tells by panicking; it runs in tests and fuzz targets only"
)]

mod apply;
mod read;
mod tree;

pub use apply::{Scratch, apply};
pub use read::{read, repaired};
pub(crate) use tree::{listing, mount_overlay, open, plain};
