//! Network namespaces that a test makes for itself: the machine's own network stays as it is.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::net::netlink::NETFILTER;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::run;

/// A network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Net {
    pub name: String,
}

impl Net {
    /// An empty one whose `lo` is up. Needs root and iproute2.
    pub fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let name = format!("devpod-test-{}-{serial}", std::process::id());
        ip(&format!("netns add {name}"));
        let net = Self { name };
        net.ip("link set lo up");
        net
    }

    /// Runs `ip` inside; what it printed.
    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Does something in a thread that stands inside, as do the processes that it starts.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                job()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread inside.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("a namespace");
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(file.as_fd(), kind).expect("setns");
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // A test that failed is not to fail again here.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split(' ')))
        .ok()
        .stdout
}

/// All that the kernel tells of the packet filter's tables in the calling thread's network, as it
/// tells it: names stand in it as they are.
pub fn tables() -> io::Result<Vec<u8>> {
    const GET_TABLE: u16 = 10 << 8 | 1;
    const REQUEST_DUMP: u16 = 0x301;
    const DONE: u16 = 3;
    let flags = SocketFlags::CLOEXEC;
    let kind = SocketType::RAW;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(NETFILTER))?;
    let mut question = 20_u32.to_ne_bytes().to_vec();
    question.extend_from_slice(&GET_TABLE.to_ne_bytes());
    question.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    // No sequence, no port, every family.
    question.extend_from_slice(&[0; 12]);
    send(&socket, &question, SendFlags::empty())?;
    let mut all = Vec::new();
    loop {
        let mut answer = vec![0; 64 * 1024];
        let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let mut rest = &answer[..length];
        while let Some(head) = rest.first_chunk::<6>() {
            let size = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if u16::from_ne_bytes([head[4], head[5]]) == DONE {
                return Ok(all);
            }
            all.extend_from_slice(&rest[..size]);
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
    }
}
