//! The Dockerfile language as a ladder: bytes -> nodes with ranges -> typed instructions -> stages.
//!
//! Everything below is pure: no file is opened, no variable of the process is read. An input that is
//! not understood is an error with its place; nothing is skipped in silence.

pub mod heredoc;
pub mod instruction;
pub mod mount;
pub mod source;
