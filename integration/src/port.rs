//! Ports that nobody listens on.

use std::net::TcpListener;

/// A port that was free a moment ago. Prefer port 0 where the program can tell what it got.
pub fn free() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
    listener.local_addr().expect("its address").port()
}
