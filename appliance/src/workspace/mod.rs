//! Workspaces: a repository or a folder, a container that it is developed in, and what is remembered
//! of both.
//!
//! ```text
//! plan, users, failure, lifecycle    decide; pure
//! meta, store, logs, tree, own       files: ~/.devpod, the source's own, a volume's owners
//! git, runner                        the clone, and programs of the host
//! binds                              what of this host a configuration may show
//! backend, local                     what images and sandboxes must be able to do, and this host's
//! session                            how one is inside
//! up, run, image, verbs              the verbs, over all of them
//! service                            the verbs as the control API calls them
//! ```
//!
//! The record of a workspace is written before each step, and each step can be repeated: a second
//! `up` looks at what exists and goes on from there, whatever ended the first.

pub mod backend;
pub mod binds;
pub mod configure;
pub mod failure;
pub mod git;
mod image;
pub mod lifecycle;
pub mod local;
pub mod logs;
pub mod meta;
pub mod own;
pub mod plan;
mod run;
pub mod runner;
pub mod service;
pub mod session;
pub mod store;
pub mod tree;
pub mod up;
#[cfg(test)]
mod up_tests;
pub mod users;
pub mod verbs;
