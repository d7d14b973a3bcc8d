//! Named points at which a test ends a process as SIGKILL would. Only builds for tests have them:
//! where debug assertions are off, [`point`] is nothing.

use std::ffi::OsString;

use rustix::process::{Signal, getpid, kill_process};

/// The environment's word for the point at which to end.
const VARIABLE: &str = "DEVPOD_CRASH_AT";

/// Ends this process here, when the environment names this point.
pub fn point(name: &str) {
    if cfg!(debug_assertions) && std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        let _ = kill_process(getpid(), Signal::KILL);
        // The first process of a namespace is not killed by itself; nothing is tidied here either.
        std::process::exit(137);
    }
}

/// What helpers, which get no environment otherwise, are told.
pub(crate) fn passed_on() -> Option<(&'static str, OsString)> {
    let wanted = std::env::var_os(VARIABLE).filter(|_| cfg!(debug_assertions))?;
    Some((VARIABLE, wanted))
}
