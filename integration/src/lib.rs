//! The harness of the end-to-end tests: whole appliances, driven from outside by real clients.
//!
//! What lives here starts the real `devpod` binary and other people's programs, each with folders
//! and ports of its own, and ends only what it started. It never links the appliance. A failure of
//! the harness is a failure of the test that uses it, so everything here panics with its reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod account;
pub mod appliance;
pub mod base_image;
pub mod binary;
pub mod buildkitd;
pub mod census;
pub mod clients;
pub mod containerd;
pub mod docker_registry;
pub mod dockerd;
pub mod folder;
pub mod git;
pub mod layer;
pub mod layout;
pub mod nets;
pub mod port;
pub mod probe;
pub mod process;
pub mod relay;
pub mod tree;
