//! The appliance: composes one process out of the registry, the unpacker and the builder.
//!
//! The parts do not know each other; they meet here. `cli` asks the daemon, `daemon` owns all
//! state, `api` is what lies between.

pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod daemon;
pub mod doctor;
pub mod error;
pub mod from_host;
pub mod images;
pub mod options;
pub mod pipe;
pub mod progress;
pub mod sandbox;
pub mod ui;
pub mod workspace;
