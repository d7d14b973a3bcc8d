//! What people write, turned into values that cannot be wrong.
//!
//! This crate does no I/O and knows no clock, no network and no other crate of ours: every
//! function takes text (or a lookup closure) and answers a value or an error that names the
//! offending text and where it stands.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod devcontainer;
pub mod jsonc;
pub mod name;
pub mod pattern;
pub mod percent;
pub mod project;
pub mod quantity;
pub mod range;
pub mod registry;
pub mod remote;
pub mod repository;
pub mod sandbox;
pub mod settings;
pub mod signal;
pub mod subnet;
pub mod suggest;
pub mod workspace;
