//! Rootless image builder: Dockerfiles and devcontainers to OCI images.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod attest;
pub mod cache;
pub mod context;
pub mod copy;
pub mod dockerfile;
pub mod error;
pub mod excerpt;
pub mod fetch;
pub mod git;
pub mod ignore;
pub mod images;
pub mod lint;
pub mod plan;
pub mod report;
pub mod request;
mod room;
pub mod run;
pub mod sink;
pub mod solve;
pub mod source;
