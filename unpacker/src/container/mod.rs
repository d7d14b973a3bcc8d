//! A process inside a root file system.

pub mod spec;
