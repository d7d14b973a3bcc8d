//! Snapshots: folders that hold one layer's change each, in overlayfs form.

pub mod id;
pub mod overlay;
pub mod store;
