//! All trials again as ordinary users: one with subordinate ids, one without.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::sandbox;

/// First argument of a test binary that is to enter a user namespace; the folder of sandboxes
/// follows.
pub(crate) const INSIDE: &str = "--inside-user-namespace";

/// No host gives this uid to anybody.
const NOBODY_KNOWN: u32 = 54_321;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("ordinary user with one id", || again(NOBODY_KNOWN))
            .with_ignored_flag(!is_root()),
        Trial::test("ordinary user with subordinate ids", with_range)
            .with_ignored_flag(!is_root() || !has_tools()),
    ]
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: becoming another user needs root");
    }
    root
}

fn has_tools() -> bool {
    let tools = [
        "/usr/sbin/useradd",
        "/usr/bin/newuidmap",
        "/usr/bin/newgidmap",
    ];
    let missing = tools
        .iter()
        .find(|tool| !std::path::Path::new(tool).exists());
    if let Some(tool) = missing {
        eprintln!("skipped: {tool} is not installed");
    }
    missing.is_none()
}

fn with_range() -> Result<(), Failed> {
    let name = format!("dvpt{}", std::process::id());
    let made = (0..20).any(|_| {
        let status = Command::new("/usr/sbin/useradd")
            .args(["-M", &name])
            .status();
        let made = status.is_ok_and(|status| status.success());
        if !made {
            std::thread::sleep(Duration::from_millis(200));
        }
        made
    });
    if !made {
        return Err("useradd fails".into());
    }
    let id = Command::new("id").args(["-u", &name]).output()?;
    let uid = String::from_utf8(id.stdout)?.trim().parse()?;
    let result = again(uid);
    Command::new("/usr/sbin/userdel").arg(&name).status()?;
    result
}

/// This binary, which the user may not be able to reach where it is, run by the user.
fn again(uid: u32) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let binary = dir.path().join("test");
    std::fs::copy(std::env::current_exe()?, &binary)?;
    let scratch = dir.path().join("scratch");
    std::fs::create_dir_all(scratch.join("sandboxes"))?;
    for folder in [&scratch, &scratch.join("sandboxes")] {
        chown(folder, Some(uid), Some(uid))?;
    }
    let run = |step: Option<&str>| {
        Command::new(&binary)
            .arg(INSIDE)
            .arg(scratch.join("sandboxes"))
            .args(step)
            .env("TMPDIR", &scratch)
            .env("RUST_BACKTRACE", "0")
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .output()
    };
    for step in [Some(sandbox::LEAVE), Some(sandbox::FIND), None] {
        check(&run(step)?)?;
    }
    Ok(())
}

fn check(output: &Output) -> Result<(), Failed> {
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout[..], &output.stderr].concat();
    Err(String::from_utf8_lossy(&said).into_owned().into())
}
