//! The `devpod` binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::run;

/// The binary of the profile that the tests were built with. Cargo builds it once per run, and does
/// nothing when it is up to date. `DEVPOD_BIN` names another one, such as the static release.
pub fn devpod() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("DEVPOD_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    profile_folder().parent().expect("target").to_owned()
}

/// `target/debug/deps/all-…` lies two below the folder of its profile.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("own executable");
    let deps = own.parent().expect("a folder");
    deps.parent().expect("target/<profile>").to_owned()
}

fn build() -> PathBuf {
    let folder = profile_folder();
    let profile = folder.file_name().unwrap_or_default().to_string_lossy();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--offline",
        "--locked",
        "-p",
        "appliance",
        "--bin",
        "devpod",
    ]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    command.args([
        "--profile",
        if profile == "debug" { "dev" } else { &profile },
    ]);
    command.env("CARGO_TARGET_DIR", target());
    run(&mut command).ok();
    folder.join("devpod")
}
