//! How events reach webhooks: the registry's requests over reqwest, with the same trust as for other
//! registries (`remote.ca_files`).

use std::path::Path;
use std::sync::Arc;

use config::registry::webhook::Webhook;
use registry::events::sender::{
    Deliver, DeliverError, Delivered, Delivery, Hook, Schedule, Senders,
};
use registry::service::Registry;
use reqwest::{Certificate, Client, Url};

use crate::error::{Failure, Kind, Outcome};
use crate::options::Options;

/// A longer one is no key that somebody typed or generated.
const MAX_SECRET: usize = 4096;

/// The senders for the webhooks of the settings; `None` where there are none. `address` is the
/// registry's, for the events.
pub fn senders(options: &Options, registry: &Registry, address: &str) -> Outcome<Option<Senders>> {
    let webhooks = &options.settings.registry.webhooks;
    let hooks = webhooks.iter().map(hook).collect::<Outcome<Vec<_>>>()?;
    let deliver = Arc::new(Post::new(options)?);
    let schedule = Schedule::patient(format!("//{address}"));
    Senders::new(registry, hooks, deliver, schedule).map_err(|error| {
        Failure::because(Kind::Internal, "cannot open the queue of events", &error)
    })
}

fn hook(webhook: &Webhook) -> Outcome<Hook> {
    let secret = webhook
        .secret_file
        .as_deref()
        .map(|path| secret(webhook, path));
    Ok(Hook {
        webhook: webhook.clone(),
        secret: secret.transpose()?,
    })
}

/// The key of a file, without the line's end that editors leave.
fn secret(webhook: &Webhook, path: &Path) -> Outcome<Vec<u8>> {
    let what = format!(
        "the key of webhook {:?} in {}",
        webhook.name,
        path.display()
    );
    let mut key = std::fs::read(path)
        .map_err(|error| Failure::because(Kind::Invalid, format!("cannot read {what}"), &error))?;
    while key.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        key.pop();
    }
    if key.is_empty() || key.len() > MAX_SECRET {
        return Err(Failure::invalid(format!(
            "{what} is not of 1 to {MAX_SECRET} bytes"
        )));
    }
    Ok(key)
}

/// Posts to receivers. Redirects are not followed: they would carry events, and headers, elsewhere.
#[derive(Debug)]
struct Post {
    /// Through the proxies of the environment.
    wide: Client,
    /// Past them: a proxy's loopback is not ours.
    local: Client,
}

impl Post {
    fn new(options: &Options) -> Outcome<Self> {
        let certificates = certificates(options)?;
        Ok(Self {
            wide: client(&certificates, false)?,
            local: client(&certificates, true)?,
        })
    }

    async fn send(&self, delivery: Delivery) -> Result<(), DeliverError> {
        let client = if is_loopback(&delivery.url) {
            &self.local
        } else {
            &self.wide
        };
        let mut request = client.post(&delivery.url).timeout(delivery.timeout);
        for (name, value) in &delivery.headers {
            request = request.header(name, value);
        }
        let response = request
            .body(delivery.body)
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let status = status.as_u16();
        Err(DeliverError::Status { status })
    }
}

impl Deliver for Post {
    fn deliver(&self, delivery: Delivery) -> Delivered<'_> {
        Box::pin(self.send(delivery))
    }
}

/// The innermost cause: the outer ones repeat the address, which may hold a token.
fn unreachable(error: &reqwest::Error) -> DeliverError {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    let mut reason = if error.is_timeout() {
        "no answer in time"
    } else {
        "connection failed"
    }
    .to_owned();
    while let Some(inner) = cause {
        if inner.is::<std::io::Error>() {
            reason = inner.to_string();
        }
        cause = inner.source();
    }
    DeliverError::Unreachable { reason }
}

fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn certificates(options: &Options) -> Outcome<Vec<Certificate>> {
    let mut all = Vec::new();
    for path in &options.settings.remote.ca_files {
        let message = || format!("cannot use the certificates in {}", path.display());
        let pem = std::fs::read(path)
            .map_err(|error| Failure::because(Kind::Invalid, message(), &error))?;
        let found = Certificate::from_pem_bundle(&pem)
            .map_err(|error| Failure::because(Kind::Invalid, message(), &error))?;
        all.extend(found);
    }
    Ok(all)
}

fn client(certificates: &[Certificate], local: bool) -> Outcome<Client> {
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("devpod/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        if local { builder.no_proxy() } else { builder }
    };
    let system = builder().tls_certs_merge(certificates.to_vec()).build();
    // A machine without a system store can still use the given files, and plain loopback.
    system
        .or_else(|_| builder().tls_certs_only(certificates.to_vec()).build())
        .map_err(|error| Failure::because(Kind::Invalid, "cannot make an HTTP client", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_goes_past_proxies() {
        for (url, local) in [
            ("http://127.0.0.1:1/x", true),
            ("http://localhost/x", true),
            ("https://[::1]:2/", true),
            ("https://example.com/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(url), local, "{url}");
        }
    }
}
