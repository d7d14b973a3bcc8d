//! The registry from outside: every HTTP test enters through the router in-process and through a
//! real TCP listener, crash tests through a process of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod collect;
mod crash;
mod door;
mod faults;
mod manifests;
mod pushes;
mod quotas;
mod refusals;
mod retention;
mod server;
mod sweep;
