//! Layers: tar streams that become folders, and folders that become tar streams.
//!
//! `archive` reads blocks, `entry` turns them into typed changes (pure), `root` is the only way to
//! touch a tree, `apply` carries changes out, `diff` and `pack` go the other way.

pub mod compress;
pub mod diff;
mod header;
pub mod ownership;
pub mod pack;
mod pipeline;
pub mod root;

pub use ownership::Ownership;
