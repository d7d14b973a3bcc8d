//! Rootless image builder: Dockerfiles and devcontainers to OCI images.
#![forbid(unsafe_code)]

pub mod dockerfile;
pub mod ignore;
