//! The Dockerfile language and `.dockerignore`, through the crate's public door.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "language/bounds.rs"]
mod bounds;
#[path = "language/checks.rs"]
mod checks;
#[path = "language/errors.rs"]
mod errors;
#[path = "language/expansion.rs"]
mod expansion;
#[path = "language/golden.rs"]
mod golden;
#[path = "language/hostile.rs"]
mod hostile;
#[path = "language/ignoring.rs"]
mod ignoring;
#[path = "language/oracle.rs"]
mod oracle;
#[path = "language/planning.rs"]
mod planning;
#[path = "language/references.rs"]
mod references;
