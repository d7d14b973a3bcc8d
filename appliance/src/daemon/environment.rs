//! Which variables a daemon is given: when it starts in the background what it needs, and not whatever
//! its first caller's shell happened to hold; and with each command those that lead to its credentials
//! and proxies.

use std::ffi::{OsStr, OsString};

use crate::images::caller::Caller;
use crate::options;

/// Programs, home and places.
const NAMES: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_BACKTRACE",
];
/// Where `config::credentials` looks for other registries' credentials; `AWS_` is for the AWS CLI.
const CREDENTIALS: [&str; 8] = [
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "DOCKER_USERNAME",
    "DOCKER_PASSWORD",
    "DOCKER_REGISTRY",
    "GITHUB_TOKEN",
    "GITHUB_ACTOR",
    "GOOGLE_APPLICATION_CREDENTIALS",
];
const BEGINNINGS: [&str; 3] = ["DEVPOD_", "LC_", "AWS_"];
const ENDINGS: [&str; 2] = ["_proxy", "_PROXY"];

/// What credential helpers find their keychains by.
const KEYCHAINS: [&str; 6] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
    "WAYLAND_DISPLAY",
    "XDG_DATA_HOME",
];
/// More than this crosses no header; a variable of that size is no credential.
const MAX_VALUE: usize = 16 << 10;

/// What this command brings for its work with other registries.
pub(crate) fn caller() -> Caller {
    let brought = options::environment().filter(|(name, value)| {
        let known = is_passed(name.as_ref()) || KEYCHAINS.contains(&name.as_str());
        known && !name.starts_with("DEVPOD_") && value.len() <= MAX_VALUE
    });
    Caller {
        variables: brought.collect(),
        folder: std::env::current_dir().ok(),
        changed: Vec::new(),
        mirrors: Vec::new(),
    }
    .stamped()
}

/// Those of this process that a daemon is started with.
pub(super) fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_passed(name))
}

fn is_passed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    NAMES.contains(&name)
        || CREDENTIALS.contains(&name)
        || BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_ones_pass_and_secrets_do_not() {
        for name in [
            "PATH",
            "https_proxy",
            "NO_PROXY",
            "LC_ALL",
            "DEVPOD_HOME",
            "DOCKER_PASSWORD",
        ] {
            assert!(is_passed(name.as_ref()), "{name}");
        }
        for name in [
            "SECRET",
            "SSH_AUTH_SOCK",
            "GITLAB_TOKEN",
            "MY_PATH",
            "LD_PRELOAD",
        ] {
            assert!(!is_passed(name.as_ref()), "{name}");
        }
    }
}
