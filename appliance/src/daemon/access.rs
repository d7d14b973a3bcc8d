//! Who may do what at the registry's port: opened from the settings, and never open to a network by
//! oversight.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use config::settings;
use registry::access::Access;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Failure, Kind, Outcome};

/// Refuses an address that others can reach while nobody has said who they are.
pub(super) fn check_exposed(listen: SocketAddr, settings: &settings::Registry) -> Outcome<()> {
    let decided = settings.access.is_decided() || settings.client_ca.is_some();
    if listen.ip().is_loopback() || decided {
        return Ok(());
    }
    let message = format!(
        "{listen} can be reached from other machines, and nothing says who may push and delete there"
    );
    Err(Failure::invalid(message)
        .hint("Name users: `devpod config set registry.htpasswd /etc/devpod/users`, made with `htpasswd -B`.")
        .hint("Or let everybody read: `devpod config set registry.anonymous pull`; or write, in a \
               network that you trust: `push`.")
        .hint("Or listen for this machine only: `devpod config set registry.listen 127.0.0.1:5000`."))
}

/// Opens it; keeps its key and API tokens in the data folder.
pub(super) fn open(settings: &settings::Registry, data: &Path) -> Outcome<Arc<Access>> {
    let opened = Access::open(&settings.access, data, Arc::new(SystemTime::now));
    let access = opened.map_err(|error| {
        let message = "the registry cannot tell who may do what";
        Failure::because(Kind::Invalid, message, &error)
    })?;
    Ok(Arc::new(access))
}

/// Begins the audit log anew on every SIGHUP, as logrotate wants it. Without one SIGHUP keeps its
/// meaning: a closed terminal ends a daemon in its foreground.
pub(super) async fn on_hangup(access: Arc<Access>) {
    if access.audit().is_none() {
        return;
    }
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    while hangup.recv().await.is_some() {
        let access = Arc::clone(&access);
        let reopened = tokio::task::spawn_blocking(move || access.audit().map(|a| a.reopen()));
        if let Ok(Some(Err(error))) = reopened.await {
            tracing::error!(%error, "the audit log cannot be begun anew");
        }
    }
}

#[cfg(test)]
mod tests {
    use config::settings::{Flag, Settings, Sources};

    use super::*;

    fn check(listen: &str, key: &str, value: &str) -> Outcome<()> {
        let flags = [("data", "/d"), (key, value)];
        let flags = flags.map(|(key, value)| Flag {
            name: "--test",
            key,
            value,
        });
        let sources = Sources {
            flags: &flags,
            ..Sources::default()
        };
        let settings = Settings::load(&sources).unwrap();
        check_exposed(listen.parse().unwrap(), &settings.registry)
    }

    #[test]
    fn a_network_sees_only_what_was_decided() {
        for (listen, key, value, good) in [
            ("127.0.0.1:5000", "data", "/d", true),
            ("127.9.9.9:5000", "data", "/d", true),
            ("[::1]:5000", "data", "/d", true),
            ("0.0.0.0:5000", "data", "/d", false),
            ("[::]:5000", "data", "/d", false),
            ("10.0.0.1:5000", "registry.rate_limit", "5", false),
            ("10.0.0.1:5000", "registry.anonymous", "pull", true),
            ("10.0.0.1:5000", "registry.anonymous", "push", true),
            ("10.0.0.1:5000", "registry.htpasswd", "/etc/users", true),
            ("10.0.0.1:5000", "registry.client_ca", "/etc/ca", true),
        ] {
            let checked = check(listen, key, value);
            assert_eq!(checked.is_ok(), good, "{listen} {key}");
        }
    }
}
