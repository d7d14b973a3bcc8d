//! appliance
pub mod workspace;
