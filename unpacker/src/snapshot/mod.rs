//! Snapshots: folders that hold one layer's change each, in overlayfs form.

pub(crate) mod copy;
pub mod id;
pub mod overlay;
pub mod store;
