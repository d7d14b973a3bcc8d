//! The registry's port, and whether names have addresses.

use std::net::{TcpListener, ToSocketAddrs};

use crate::daemon::folder::DataFolder;
use crate::daemon::lock;
use crate::doctor::Finding;
use crate::options::Options;

pub(super) fn registry(options: &Options, folder: &DataFolder) -> Finding {
    const WHAT: &str = "registry port";
    let listen = options.settings.registry.listen;
    if folder.root().is_dir() && lock::is_held(folder) {
        return Finding::ok(WHAT, "the daemon runs: devpod daemon status");
    }
    match TcpListener::bind(listen) {
        Ok(_) => Finding::ok(WHAT, format!("{listen} is free")),
        Err(error) => Finding::missing(WHAT, format!("{listen}: {error}")).lift(format!(
            "devpod config set registry.listen 127.0.0.1:5001; who has it: ss -ltnp 'sport = :{}'",
            listen.port()
        )),
    }
}

/// Looks at files and at `localhost` alone: no packet leaves this host.
pub(super) fn names() -> Vec<Finding> {
    vec![localhost(), servers()]
}

fn localhost() -> Finding {
    const WHAT: &str = "localhost";
    let found = ("localhost", 0).to_socket_addrs();
    match found.is_ok_and(|mut all| all.any(|address| address.ip().is_loopback())) {
        true => Finding::ok(WHAT, "it is this host"),
        false => Finding::reduced(WHAT, "the name has no loopback address")
            .lift("a line `127.0.0.1 localhost` in /etc/hosts"),
    }
}

fn servers() -> Finding {
    const WHAT: &str = "name servers";
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    match servers_in(&text) {
        0 => Finding::reduced(
            WHAT,
            "none in /etc/resolv.conf: other registries cannot be reached by name",
        )
        .lift("nothing, on an air-gapped host; otherwise a `nameserver` line"),
        count => Finding::ok(WHAT, format!("{count} in /etc/resolv.conf")),
    }
}

/// resolv.conf(5).
fn servers_in(text: &str) -> usize {
    let is_server = |line: &&str| line.trim_start().starts_with("nameserver");
    text.lines().filter(is_server).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_counted() {
        assert_eq!(servers_in("# nameserver 1.1.1.1\nsearch x\n"), 0);
        assert_eq!(servers_in("nameserver 127.0.0.53\n nameserver ::1\n"), 2);
    }
}
