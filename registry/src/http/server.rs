//! The accept loop: bounded connections, timers, graceful shutdown.
//!
//! axum's own `serve` sets no timer, so a client that never finishes its headers would hold its
//! connection for ever; this one gives every connection a time for its first request and every
//! request a time for its headers.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Front;
use super::connection::Connection;
use super::places::Places;
use super::tls::Tls;
use crate::metrics::OpenConnection;
use crate::service::Registry;

/// How many connections are served and how long they may dawdle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At once; further ones wait in the kernel's queue. An address that is not this machine's may
    /// have a quarter of them.
    pub connections: usize,
    /// For the headers of a request, and so also between two requests of a connection; over HTTP/2
    /// a connection that had none for so long is told to go.
    pub headers: Duration,
    /// For a client to take at least some of what it asked for.
    pub unread: Duration,
    /// Bytes of a request's headers together.
    pub header_bytes: usize,
    /// What is left of running requests after this long is cut off at shutdown.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // An idle one costs a descriptor and some 20 KiB.
            connections: 4096,
            headers: Duration::from_secs(60),
            // Longer than any client thinks between two reads.
            unread: Duration::from_secs(300),
            // Also the read buffer, and so the size of the pieces of a received body.
            header_bytes: 128 * 1024,
            shutdown: Duration::from_secs(10),
        }
    }
}

/// How often abandoned upload sessions are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(3600);
/// After an accept that failed (out of descriptors), until somebody has closed some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are taken.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    pub limits: Limits,
    /// Without it the port speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Counts the connections that are open.
    pub open: Gauge,
}

impl From<Limits> for Transport {
    fn from(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

/// Serves a registry until `shutdown` completes and running requests have ended.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let registry = front.registry.clone();
    let expiry = tokio::spawn(expire(registry.clone()));
    let mut transport = front.transport.clone();
    transport.open = front.metrics.connections.clone();
    let router = super::router(front);
    let served = serve_router(listener, router, transport, shutdown).await;
    expiry.abort();
    let exported = tokio::task::spawn_blocking(move || registry.store().export()).await;
    if let Ok(Err(error)) = exported {
        tracing::warn!(?error, "image layout export failed");
    }
    served
}

async fn expire(registry: Registry) {
    let mut clock = tokio::time::interval(EXPIRY_PERIOD);
    loop {
        clock.tick().await;
        let registry = registry.clone();
        let expired = tokio::task::spawn_blocking(move || registry.expire_uploads()).await;
        if let Ok(Err(error)) = expired {
            tracing::warn!(?error, "abandoned uploads cannot be removed");
        }
    }
}

/// Serves any router in the same way: what the daemon merges with others.
pub async fn serve_router(
    listener: TcpListener,
    router: Router,
    transport: impl Into<Transport>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let transport = transport.into();
    let limits = transport.limits;
    let places = Arc::new(Semaphore::new(limits.connections));
    let (end, ending) = watch::channel(false);
    let peers = Places::default();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(?error, "connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(own) = peers.enter(peer.ip(), limits.connections) else {
            tracing::debug!(%peer, "address has too many connections");
            continue;
        };
        let connection = Connection {
            router: router.clone(),
            transport: transport.clone(),
            ending: ending.clone(),
        };
        let open = OpenConnection::on(&transport.open);
        connections.spawn(async move {
            connection.serve(stream).await;
            drop((open, own, place));
        });
    }
    drop(listener);
    end.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown, ended).await.is_err() {
        tracing::warn!("requests were cut off at shutdown");
    }
    connections.shutdown().await;
    Ok(())
}
