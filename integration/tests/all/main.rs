//! End to end: the real binary, real clients, one module per journey.
//!
//! Tests that lack a program or a privilege say so on standard error and pass; with `CI` set they
//! fail instead. Each has a data folder, ports and storage of its own, so all may run at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod archives;
mod artifacts;
mod bad_archives;
mod bad_input;
mod bridge;
mod build;
mod build_cache;
mod build_hostile;
mod build_inputs;
mod build_killed;
mod build_outputs;
mod build_secrets;
mod build_settings;
mod build_stopped;
mod buildkit;
mod clients;
mod conformance;
mod contained;
mod containerd;
mod crash;
mod crowd;
mod daemon;
mod differential;
mod formats;
mod from_host;
mod git;
mod guarded;
mod house;
mod images;
mod imports;
mod limits;
mod mirror;
mod network;
mod platform;
mod projects;
mod prompt;
mod prune;
mod pull;
mod registry_commands;
mod restart;
mod rootless;
mod sandbox;
mod shared_cache;
mod stress;
mod volumes;
mod workspace;
mod workspace_password;
