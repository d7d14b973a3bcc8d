//! All of this once more where only one user id exists: an ordinary user without `/etc/subuid`.

use std::process::Command;

use libtest_mimic::Trial;
use unpacker::layer::Ownership;

use super::fixture::trial;

pub(crate) fn trials() -> Vec<Trial> {
    if Ownership::detect() == Ownership::Recorded {
        // This is the run that `everything` starts.
        return Vec::new();
    }
    let map = ["--user", "--map-root-user", "--mount", "true"];
    let works = Command::new("unshare").args(map).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: everything_with_a_single_id: no user namespaces, or no unshare");
        return Vec::new();
    }
    vec![trial("everything_with_a_single_id", everything)]
}

fn everything() {
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    let output = command.arg(me).arg("--test-threads=1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("0 failed"), "{text}");
}
