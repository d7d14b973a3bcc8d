//! A process inside a root file system.
//!
//! Processes are made by executing our own binary again ([`launch`]), whose `main` calls
//! [`dispatch`] before anything else. No other runtime, no C library, no daemon but ours.

mod child;
mod confine;
mod devices;
pub mod enter;
pub mod exit;
mod foreground;
pub mod idmap;
mod init;
mod inside;
pub mod launch;
pub mod probe;
mod program;
mod rootfs;
pub mod run;
mod seccomp;
pub mod spec;
pub mod stream;
pub mod supervise;
mod sys;
pub mod user;
mod wire;

const CONTAINER: &str = "__container";

/// Runs the hidden subcommand that this process was started for and exits; returns when it was
/// started for something else. To be called first in `main`, before any thread exists.
pub fn dispatch() {
    let Some(subcommand) = std::env::args_os().nth(1) else {
        return;
    };
    match subcommand.to_str() {
        Some(CONTAINER) => foreground::main(),
        _ => return,
    }
    sys::exit_now(0)
}
