//! The appliance: everything composed into one process.

pub mod from_host;
