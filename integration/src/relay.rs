//! A line to another server that a test can cut: it passes bytes on, counts them, and stops when told.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const PIECE: usize = 16 * 1024;

/// A running relay. Connections that stand outlive it until one of their ends closes.
#[derive(Debug)]
pub struct Relay {
    address: String,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that went back to clients.
    passed: AtomicU64,
    /// No more than so many go back; then the line is silent.
    limit: AtomicU64,
    ended: AtomicBool,
    /// Connections of an earlier number are cut.
    line: AtomicU64,
}

impl Relay {
    /// Passes everything on to `to`, `host:port`.
    pub fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State::default());
        state.limit.store(u64::MAX, Ordering::SeqCst);
        let (to, shared) = (to.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(&to) {
                    join(client, server, &shared);
                }
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Bytes that went back to clients since the last call of [`Relay::allow`].
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }

    /// Cuts what stands. From now on so many bytes go back, and then there is silence. Counts anew.
    pub fn allow(&self, bytes: u64) {
        self.state.line.fetch_add(1, Ordering::SeqCst);
        self.state.passed.store(0, Ordering::SeqCst);
        self.state.limit.store(bytes, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(&self.address);
    }
}

fn join(client: TcpStream, server: TcpStream, state: &Arc<State>) {
    let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    thread::spawn(move || copy(from_client, to_server, |_| true));
    let state = Arc::clone(state);
    let line = state.line.load(Ordering::SeqCst);
    thread::spawn(move || copy(server, client, |bytes| state.pass(bytes, line)));
}

impl State {
    /// Waits while the line is to be silent; false when it was cut, or the relay has ended.
    fn pass(&self, bytes: u64, line: u64) -> bool {
        let is_cut =
            || self.ended.load(Ordering::SeqCst) || self.line.load(Ordering::SeqCst) != line;
        while self.passed.load(Ordering::SeqCst) >= self.limit.load(Ordering::SeqCst) {
            if is_cut() {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        if is_cut() {
            return false;
        }
        self.passed.fetch_add(bytes, Ordering::SeqCst);
        true
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut may: impl FnMut(u64) -> bool) {
    let mut buffer = [0; PIECE];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !may(count as u64) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either end may be gone already.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
