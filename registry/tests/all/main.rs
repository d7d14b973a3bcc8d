//! The registry from outside: every HTTP test enters through the router in-process and through a
//! real TCP listener, crash tests through a process of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod access;
mod care;
mod collect;
mod crash;
mod dice;
mod disk;
mod door;
mod elsewhere;
mod events;
mod exchange;
mod faults;
mod fuzz;
mod gone;
mod guard;
mod heal;
mod immutable;
mod issuers;
mod kills;
mod limits;
mod malformed;
mod manage;
mod manifests;
mod mirror;
mod mirror_blobs;
mod mirror_evict;
mod model;
mod observe;
mod power;
mod pushes;
mod pushing;
mod quotas;
mod races;
mod refusals;
mod renamed;
mod renewed;
mod retention;
mod server;
mod slow;
mod spec;
mod specified;
mod sweep;
mod tokens;
mod transport;
mod verifier;
mod walks;
mod wire;
