//! Which variables a daemon in the background is given: what it needs, and not whatever its first
//! caller's shell happened to hold.

use std::ffi::{OsStr, OsString};

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
