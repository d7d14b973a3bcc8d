//! Where a request comes from, and how: known to the accept loop, told to the routes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Extensions;

/// The other end of the connection, in a request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The connection is TLS, in a request's extensions: addresses that are told to the client are
/// `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secure;

/// The peer's address. A request that came by no connection has none, and counts as one peer with
/// all of its kind.
pub(super) fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0.ip())
}

/// The address by which requests are counted.
pub(super) fn counted(extensions: &Extensions) -> IpAddr {
    address(extensions).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}
