//! The registry from outside: every HTTP test enters through the router in-process and through a
//! real TCP listener, crash tests through a process of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod access;
mod crash;
mod door;
mod faults;
mod guard;
mod immutable;
mod issuers;
mod manifests;
mod pushes;
mod refusals;
mod server;
mod sweep;
mod tokens;
mod transport;
