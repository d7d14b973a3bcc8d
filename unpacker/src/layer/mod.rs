//! Layers: tar streams that become folders, and folders that become tar streams.
//!
//! `archive` reads blocks, `entry` turns them into typed changes (pure), `root` is the only way to
//! touch a tree, `apply` carries changes out, `diff` and `pack` go the other way.

pub mod apply;
pub mod archive;
pub mod compress;
pub mod diff;
pub mod entry;
pub(crate) mod header;
pub mod ownership;
pub mod pack;
pub(crate) mod pipeline;
pub mod root;
pub(crate) mod tree;

#[cfg(test)]
pub(crate) mod tests;

pub use ownership::Ownership;
