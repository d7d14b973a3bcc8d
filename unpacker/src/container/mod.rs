//! A process inside a root file system.
//!
//! Processes are made by executing our own binary again ([`launch`]), whose `main` calls
//! [`dispatch`] before anything else. No other runtime, no C library, no daemon but ours.

pub mod enter;
pub mod exit;
pub mod idmap;
pub mod launch;
pub mod run;
pub mod spec;
pub mod stream;
pub mod supervise;
pub mod user;
mod wire;

/// Runs the hidden subcommand that this process was started for and exits; returns when it was
/// started for something else. To be called first in `main`, before any thread exists.
pub fn dispatch() {}
