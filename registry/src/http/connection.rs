//! One connection from its handshake to its end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::patient::Patient;
use super::peer::{Peer, Secure};
use super::sendfile::{FileStream, Outgoing};
use super::server::{Limits, Transport};
use super::tls::{self, ClientCertificate};
use super::unread::{Fate, Offered, Streams};

/// Everything that belongs to one connection.
pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) transport: Transport,
    /// True once the server ends: then no further requests are taken.
    pub(super) ending: watch::Receiver<bool>,
}

/// What a connection tells its requests.
#[derive(Clone, Default)]
struct Mark {
    outgoing: Option<Outgoing>,
    client: Option<ClientCertificate>,
    peer: Option<Peer>,
    secure: Option<Secure>,
}

impl Mark {
    fn put(&self, request: &mut Request<Incoming>) {
        // HTTP/2 frames its bodies, so a file cannot go past it.
        if let Some(outgoing) = &self.outgoing
            && request.version() <= Version::HTTP_11
        {
            request.extensions_mut().insert(outgoing.clone());
        }
        if let Some(client) = &self.client {
            request.extensions_mut().insert(client.clone());
        }
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        if let Some(secure) = self.secure {
            request.extensions_mut().insert(secure);
        }
    }
}

impl Connection {
    /// Serves the stream until it ends.
    pub(super) async fn serve(self, stream: TcpStream) {
        // Small answers must not wait for the acknowledgement of the ones before.
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok().map(Peer);
        let Some(tls) = self.transport.tls.clone() else {
            let stream = FileStream::new(stream);
            let mark = Mark {
                outgoing: Some(stream.outgoing()),
                peer,
                ..Mark::default()
            };
            return self.answer(stream, mark).await;
        };
        match timeout(self.transport.limits.headers, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let mark = Mark {
                    client: tls::client(&stream),
                    peer,
                    secure: Some(Secure),
                    ..Mark::default()
                };
                self.answer(stream, mark).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "handshake failed"),
            Err(_) => tracing::debug!("handshake took too long"),
        }
    }

    /// One that brings no request in time is dropped: the builder waits for the first bytes without
    /// a timer of its own.
    async fn answer<S>(mut self, stream: S, mark: Mark)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.transport.limits;
        let (seen, streams) = (Arc::new(AtomicBool::new(false)), Streams::default());
        let builder = builder(limits);
        let service = {
            let (seen, streams) = (Arc::clone(&seen), streams.clone());
            let inner = TowerToHyperService::new(self.router);
            service_fn(move |mut request: Request<Incoming>| {
                seen.store(true, Ordering::Relaxed);
                mark.put(&mut request);
                // Streams of HTTP/1 are connections, which have their limits.
                let busy = (request.version() == Version::HTTP_2).then(|| streams.begin());
                let answered = inner.call(request.map(Body::new));
                async move {
                    let response = answered.await?;
                    Ok::<_, Infallible>(match busy {
                        Some(busy) => response.map(|body| Body::new(Offered::new(body, busy))),
                        None => response,
                    })
                }
            })
        };
        let stream = Patient::new(stream, limits.unread);
        let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut silent = pin!(silence(limits, &seen));
        let look = look_every(limits);
        let mut last = false;
        loop {
            tokio::select! {
                result = served.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(?error, "connection ended");
                    }
                    return;
                }
                () = &mut silent => {
                    return tracing::debug!("connection brought no request");
                }
                _ = self.ending.wait_for(|ending| *ending), if !last => {
                    last = true;
                    served.as_mut().graceful_shutdown();
                }
                () = sleep(look) => match streams.fate(limits) {
                    Fate::GoOn => {}
                    Fate::Rest if !last => {
                        last = true;
                        served.as_mut().graceful_shutdown();
                    }
                    // Its keep-alive ends one that does not go.
                    Fate::Rest => {}
                    Fate::End => {
                        return tracing::debug!("connection does not take its answers");
                    }
                },
            }
        }
    }
}

/// Ends when a connection has brought nothing in time.
async fn silence(limits: Limits, seen: &AtomicBool) {
    sleep(limits.headers).await;
    if seen.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// How often the streams of a connection are looked at.
fn look_every(limits: Limits) -> Duration {
    let shortest = limits.headers.min(limits.unread);
    (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(15))
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
        // More than any client needs; each may pin a piece of a blob and a descriptor for a while.
        .max_concurrent_streams(100)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(limits.headers)
        .keep_alive_timeout(limits.headers);
    builder
}
