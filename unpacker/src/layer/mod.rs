//! Layers: tar streams that become folders, and folders that become tar streams.
//!
//! `archive` reads blocks, `entry` turns them into typed changes (pure), `root` is the only way to
//! touch a tree, `apply` carries changes out, `diff` and `pack` go the other way.

mod acl;
pub mod apply;
pub mod archive;
pub mod compress;
pub mod diff;
pub mod entry;
mod field;
pub(crate) mod header;
mod members;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod oracle;
pub mod ownership;
pub mod pack;
pub(crate) mod pipeline;
pub mod root;
mod sparse;
pub(crate) mod tree;
pub(crate) mod xattrs;

#[cfg(test)]
pub(crate) mod tests;

pub use ownership::Ownership;
