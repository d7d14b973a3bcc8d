//! A process inside a root file system.
//!
//! Processes are made by executing our own binary again ([`launch`]), whose `main` calls
//! [`dispatch`] before anything else. No other runtime, no C library, no daemon but ours.

pub mod capability;
pub mod cgroup;
mod child;
mod confine;
mod devices;
pub mod enter;
mod exec;
pub mod exit;
mod foreground;
mod held;
pub mod idmap;
mod init;
mod inside;
pub mod launch;
mod log;
pub mod memory;
mod monitor;
pub mod network;
mod outbox;
pub mod populate;
pub mod probe;
pub mod procfs;
mod program;
mod record;
mod recorder;
mod relay;
pub mod resources;
mod rootfs;
pub mod run;
pub mod seccomp;
mod signalled;
pub mod spec;
pub mod stream;
mod subid;
pub mod supervise;
mod sys;
pub mod user;
mod wire;

const CONTAINER: &str = "__container";
const MONITOR: &str = "__monitor";
const EXEC: &str = "__exec";

/// Runs the hidden subcommand that this process was started for and exits; returns when it was
/// started for something else. To be called first in `main`, before any thread exists.
pub fn dispatch() {
    let Some(subcommand) = std::env::args_os().nth(1) else {
        return;
    };
    match subcommand.to_str() {
        Some(CONTAINER) => foreground::main(),
        Some(MONITOR) => monitor::main(),
        Some(EXEC) => exec::main(),
        Some(network::PROBE) => network::probe::main(),
        Some(enter::USERNS) => enter::userns_main(),
        Some(enter::AS_USER) => enter::as_user_main(),
        _ => return,
    }
    sys::exit_now(0)
}
