//! What this machine can do, asked before a test needs it.
//!
//! A test that lacks something says so on standard error (past libtest's capture) and passes. With
//! `CI` set nothing may be skipped: the lack is a failure.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Tells why a test is skipped; fails it in CI.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(!in_ci(), "CI skips nothing, but {reason}");
    let test = std::thread::current();
    let name = test.name().unwrap_or("a test");
    // A message that cannot be written changes nothing about the test.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
}

/// Whether this is `.ci/run`.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Where a program is; `None` after having told that the test is skipped.
#[track_caller]
pub fn program(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Whether all of these programs are here; tells which one is not.
#[track_caller]
pub fn programs(names: &[&str]) -> bool {
    names.iter().all(|name| program(name).is_some())
}

/// Whether the test runs as root; tells when not.
#[track_caller]
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("it needs root");
    }
    root
}

/// Looks a program up as a shell would.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian's ordinary users do not have these in their PATH; dockerd and useradd are there.
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let candidates = folders.iter().map(|folder| folder.join(name));
    candidates.into_iter().find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let data = std::fs::metadata(path);
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
