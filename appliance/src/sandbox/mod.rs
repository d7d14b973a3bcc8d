//! Sandboxes on this host: containers of images that outlive the command that started them and are
//! found again after the daemon restarts.
//!
//! ```text
//! <data>/sandboxes/<id>/
//!   sandbox.json     the record; written last, so a folder without it is half-made and is swept
//!   upper  work      what the sandbox changed, over the image's snapshots
//!   monitor.json exit.json log attach.sock     kept by the monitor (unpacker::container::supervise)
//! ```
//!
//! The folder is the record: there is no second place that could disagree with it.

pub mod inspect;
pub mod keeper;
mod life;
pub mod local;
pub mod options;
pub mod plan;
pub mod ports;
mod provision;
pub mod record;
mod refusal;
pub mod removal;
pub mod surroundings;
mod users;
pub mod volumes;
