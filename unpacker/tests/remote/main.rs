//! The registry client against a scripted server that misbehaves (`faults`, `login`), against
//! real credential helpers (`helpers`) and against docker's registry with real clients (`real`).

// Helpers of tests may panic as the tests themselves do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod clock;
mod credential_programs;
mod faults;
mod login;
mod mirrors;
mod open;
mod real;
mod registry;
mod resume;
mod server;
mod service;
mod sharing;
mod store;
