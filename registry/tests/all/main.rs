//! The registry from outside: every HTTP test enters through the router in-process and through a
//! real TCP listener, crash tests through a process of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod crash;
mod dice;
mod disk;
mod door;
mod events;
mod faults;
mod heal;
mod kills;
mod manage;
mod manifests;
mod model;
mod observe;
mod pushes;
mod races;
mod refusals;
mod server;
mod sweep;
mod transport;
mod verifier;
