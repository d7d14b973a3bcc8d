//! The accept loop: bounded connections, timers, graceful shutdown.
//!
//! axum's own `serve` sets no timer, so a client that never finishes its headers would hold its
//! connection for ever; this one gives every connection a time for its first request and every
//! request a time for its headers.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Front;
use crate::service::Registry;

/// How many connections are served and how long they may dawdle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// For the headers of a request, and so also between two requests of a connection.
    pub headers: Duration,
    /// Bytes of a request's headers together.
    pub header_bytes: usize,
    /// What is left of running requests after this long is cut off at shutdown.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            headers: Duration::from_secs(60),
            // Also the read buffer, and so the size of the pieces of a received body.
            header_bytes: 256 * 1024,
            shutdown: Duration::from_secs(10),
        }
    }
}

/// How often abandoned upload sessions are looked for.
const EXPIRY_PERIOD: Duration = Duration::from_secs(3600);
/// After an accept that failed (out of descriptors), until somebody has closed some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a registry until `shutdown` completes and running requests have ended.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let registry = front.registry.clone();
    let expiry = tokio::spawn(expire(registry.clone()));
    let router = super::router(front);
    let served = serve_router(listener, router, Limits::default(), shutdown).await;
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
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(?error, "connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let served = connection(stream, router.clone(), limits, graceful.watcher());
        connections.spawn(async move {
            served.await;
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.shutdown, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were cut off at shutdown");
    }
    connections.shutdown().await;
    Ok(())
}

/// Serves one connection until it ends. One that brings no request in time is dropped: the builder
/// waits for the first bytes without a timer of its own.
async fn connection(stream: TcpStream, router: Router, limits: Limits, watcher: Watcher) {
    // Small answers must not wait for the acknowledgement of the ones before.
    let _ = stream.set_nodelay(true);
    let peer = stream.peer_addr().ok().map(super::peer::Peer);
    let seen = Arc::new(AtomicBool::new(false));
    let builder = builder(limits);
    let service = {
        let (seen, inner) = (Arc::clone(&seen), TowerToHyperService::new(router));
        service_fn(move |request: http::Request<Incoming>| {
            seen.store(true, Ordering::Relaxed);
            inner.call(super::peer::with(request.map(Body::new), peer))
        })
    };
    let served = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    let silent = async {
        tokio::time::sleep(limits.headers).await;
        if seen.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = watcher.watch(served) => {
            if let Err(error) = result {
                tracing::debug!(?error, "connection ended");
            }
        }
        () = silent => tracing::debug!("connection brought no request"),
    }
}

fn builder(limits: Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        // hyper's defaults let one blob push take the whole connection's window.
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .max_concurrent_streams(128)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(limits.headers)
        .keep_alive_timeout(limits.headers);
    builder
}
