//! An ssh agent for a step: a socket of our own, whose connections are carried to the caller's agent.
//!
//! The caller's own socket would not do: it belongs to the caller, and agents refuse whoever connects
//! with another id. Ours has the owner and mode that the mount asks for, exists as long as the step
//! runs, and carries a bounded number of connections; nothing that passes is looked at or kept.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::StepError;

/// `ssh` opens one or two; a step that opens more than this waits for nobody.
const MAX_CONNECTIONS: usize = 32;
const POLL: Duration = Duration::from_millis(20);

/// A socket that leads to an agent; closed with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    agent: PathBuf,
    ended: AtomicBool,
    /// Both ends of what is being carried, by the connection's number, so that the end of the step
    /// ends it.
    streams: Mutex<HashMap<u64, [UnixStream; 2]>>,
}

impl Proxy {
    /// Listens at `name` inside `folder`.
    pub(crate) fn start(folder: &Path, name: &str, agent: &Path) -> Result<Self, StepError> {
        let failed = |source| StepError::Agent {
            path: agent.to_owned(),
            source,
        };
        reachable(agent).map_err(failed)?;
        let listener = listen(folder, name).map_err(StepError::io("make an agent's socket"))?;
        let shared = Arc::new(Shared {
            agent: agent.to_owned(),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || accept(&listener, &of_thread))
            .map_err(StepError::io("start a thread for an ssh agent"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        for stream in self.shared.streams().values().flatten() {
            // Whoever has hung up already is as gone as we want it.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // A thread that panicked carries nothing any more.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<u64, [UnixStream; 2]>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Told before the step runs, not by ssh in the midst of it.
fn reachable(agent: &Path) -> io::Result<()> {
    if !agent.metadata()?.file_type().is_socket() {
        let text = "it is not a socket; keys in files are taken by an agent only";
        return Err(io::Error::other(text));
    }
    UnixStream::connect(agent).map(drop)
}

/// Binds below a descriptor: an address holds 107 bytes, and data folders may be longer.
fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    let folder = std::fs::File::open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut number = 0;
    while !shared.ended() {
        match listener.accept() {
            Ok((stream, _)) => {
                number += 1;
                carry(number, stream, shared);
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Carries one connection on two threads; what cannot be carried is hung up.
fn carry(number: u64, inside: UnixStream, shared: &Arc<Shared>) {
    let Ok(pair) = connect(number, &inside, shared) else {
        return;
    };
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        let [(mut from, mut to), (mut back_from, mut back_to)] = pair;
        let back = std::thread::spawn(move || pump(&mut back_from, &mut back_to));
        pump(&mut from, &mut to);
        // A thread that panicked has closed its ends.
        let _ = back.join();
        shared.streams().remove(&number);
    });
}

type Ways = [(UnixStream, UnixStream); 2];

fn connect(number: u64, inside: &UnixStream, shared: &Shared) -> io::Result<Ways> {
    inside.set_nonblocking(false)?;
    let agent = UnixStream::connect(&shared.agent)?;
    let ways = [
        (inside.try_clone()?, agent.try_clone()?),
        (agent.try_clone()?, inside.try_clone()?),
    ];
    let mut streams = shared.streams();
    if shared.ended() || streams.len() >= MAX_CONNECTIONS {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    streams.insert(number, [inside.try_clone()?, agent]);
    Ok(ways)
}

/// Copies until one side ends, and tells the other.
fn pump(from: &mut UnixStream, to: &mut UnixStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each message with itself.
    fn echo(path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                    pump(&mut from, &mut to);
                });
            }
        });
    }

    #[test]
    fn connections_are_carried_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("agent");
        echo(&agent);
        let proxy = Proxy::start(dir.path(), "ours", &agent).unwrap();
        let mut clients: Vec<UnixStream> = (0..4)
            .map(|_| UnixStream::connect(dir.path().join("ours")).unwrap())
            .collect();
        for (at, client) in clients.iter_mut().enumerate() {
            let sent = [at as u8; 5000];
            client.write_all(&sent).unwrap();
            let mut got = [255; 5000];
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, sent);
        }
        drop(proxy);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
        }
        assert!(UnixStream::connect(dir.path().join("ours")).is_err());
    }

    #[test]
    fn what_is_no_agent_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("id_ed25519");
        std::fs::write(&key, "a key").unwrap();
        for path in [key, dir.path().join("none")] {
            let error = Proxy::start(dir.path(), "ours", &path).unwrap_err();
            assert!(matches!(error, StepError::Agent { .. }), "{error}");
        }
    }
}
