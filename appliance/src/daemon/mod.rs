//! The daemon's life: one per data folder, started by whoever needs it, gone cleanly on SIGTERM.

mod access;
mod descriptors;
pub mod environment;
pub mod folder;
mod front;
pub mod lock;
pub mod log;
pub mod serve;
pub mod socket;
pub mod start;
pub mod webhooks;
